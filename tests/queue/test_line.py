"""The order in which the waiters for one key may claim."""

import asyncio
from collections.abc import Iterator
from itertools import zip_longest
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from composerd.models import Claim, Key
from composerd.queue.line import LONG, Line, Waiter

LOOP = asyncio.new_event_loop()


class Waiting:
    """A line, and the waiters in it."""

    def __init__(self) -> None:
        self.line = Line()
        self.now = 1000.0
        self.ages = 0
        self.waiters: dict[int, Waiter] = {}

    def arrive(self, client: str = "a") -> Waiter:
        """Let a request of a client begin to wait."""
        self.ages += 1
        claim = Claim(uuid4(), (Key("", "x", None),), 60.0)
        waiter = Waiter(claim, client, LOOP.create_future(), self.now, self.ages)
        self.line.add(waiter)
        self.waiters[waiter.age] = waiter
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Let a request end without a job."""
        self.line.remove(waiter)
        del self.waiters[waiter.age]

    def order(self) -> list[Waiter]:
        """Return the waiters in the order in which they may claim."""
        return list(self.line.in_order(self.now))

    def serve(self) -> Waiter:
        """Give a job to the first waiter, and return that."""
        waiter = next(self.line.in_order(self.now))
        self.line.served(waiter.client)
        self.leave(waiter)
        return waiter


@pytest.fixture
def waiting() -> Waiting:
    """Return an empty line."""
    return Waiting()


def test_the_newest_request_of_a_client_comes_first(waiting: Waiting) -> None:
    """Of the requests of one client, the newest is most surely there."""
    waiters = [waiting.arrive() for _ in range(5)]
    assert waiting.order() == waiters[::-1]


def test_a_request_that_has_waited_long_comes_before_newer_ones(waiting: Waiting) -> None:
    """Requests that have waited for 30 s come before all others of their client, the oldest first."""
    old = [waiting.arrive(), waiting.arrive()]
    waiting.now += LONG
    new = [waiting.arrive(), waiting.arrive()]
    assert waiting.order() == [*old, *new[::-1]]


def test_nobody_is_passed_over_for_long(waiting: Waiting) -> None:
    """A request is passed over by newer ones for 30 s, and then it gets the next job."""
    patient = waiting.arrive()
    for _ in range(int(LONG)):
        waiting.arrive()
        assert waiting.serve() is not patient
        waiting.now += 1
    waiting.arrive()
    assert waiting.serve() is patient


def test_the_client_that_asked_last_comes_first(waiting: Waiting) -> None:
    """Of clients that have not had their turn, the one that asked last comes first."""
    for client in "abca":
        waiting.arrive(client)
    assert [waiter.client for waiter in waiting.order()] == ["a", "c", "b", "a"]


def test_a_client_that_asks_again_and_again_waits_for_its_turn(waiting: Waiting) -> None:
    """A client that asks again after each job does not get two before another one that waits has got one."""
    for client in "abc":
        waiting.arrive(client)
    served = []
    for _ in range(9):
        served.append(waiting.serve().client)
        waiting.arrive(served[-1])
    assert sorted(served[:3]) == sorted(served[3:6]) == sorted(served[6:]) == ["a", "b", "c"]


def test_a_client_that_did_not_answer_comes_last(waiting: Waiting) -> None:
    """A client with a handover that went unanswered comes after all others until it asks again, or for 30 s."""
    for client in "abbc":
        waiting.arrive(client)
    waiting.line.doubt("c", waiting.now)
    waiting.line.doubt("nobody", waiting.now)
    assert [waiter.client for waiter in waiting.order()] == ["b", "a", "b", "c"]
    waiting.now += LONG
    assert [waiter.client for waiter in waiting.order()] == ["b", "a", "c", "b"]
    waiting.line.doubt("b", waiting.now)
    assert [waiter.client for waiter in waiting.order()] == ["a", "c", "b", "b"]
    waiting.arrive("b")
    assert [waiter.client for waiter in waiting.order()] == ["a", "b", "c", "b", "b"]


def test_a_client_that_came_last_and_left_is_forgotten(waiting: Waiting) -> None:
    """Nothing is kept of a client whose requests have ended."""
    waiter = waiting.arrive()
    waiting.line.doubt("a", waiting.now)
    assert waiting.line
    waiting.leave(waiter)
    assert not waiting.line
    assert not waiting.line._until


class Model:
    """The promise, with sorting: clients have a turn, and a rank in it."""

    def __init__(self) -> None:
        self.turn = 0
        self.count = 0
        self.clients: dict[str, tuple[int, int]] = {}
        self.last: dict[str, float] = {}
        self.waiters: list[Waiter] = []

    def _next(self) -> int:
        self.count += 1
        return self.count

    def arrive(self, waiter: Waiter) -> None:
        self.waiters.append(waiter)
        self.last.pop(waiter.client, None)
        turn, _ = self.clients.get(waiter.client, (self.turn + 1, 0))
        self.clients[waiter.client] = turn, -self._next()

    def leave(self, waiter: Waiter) -> None:
        self.waiters.remove(waiter)
        if all(other.client != waiter.client for other in self.waiters):
            self.clients.pop(waiter.client, None)
            self.last.pop(waiter.client, None)

    def served(self, client: str) -> None:
        if client in self.clients:
            self.clients[client] = self.turn + 1, self._next()

    def doubt(self, client: str, now: float) -> None:
        if self.clients.pop(client, None) is not None:
            self.last[client] = now + LONG

    def order(self, now: float) -> list[Waiter]:
        for client, until in list(self.last.items()):
            if until <= now:
                del self.last[client]
                self.clients[client] = self.turn + 1, self._next()
        if self.clients and all(turn > self.turn for turn, _ in self.clients.values()):
            self.turn += 1
        first = sorted(self.clients, key=lambda client: self.clients[client])
        return [*self._in_turns(first, now), *self._in_turns(list(self.last), now)]

    def _in_turns(self, clients: list[str], now: float) -> Iterator[Waiter]:
        lines = []
        for client in clients:
            own = [waiter for waiter in self.waiters if waiter.client == client]
            long = [waiter for waiter in own if now - waiter.since >= LONG]
            lines.append(long + [waiter for waiter in reversed(own) if waiter not in long])
        for turn in zip_longest(*lines):
            yield from (waiter for waiter in turn if waiter is not None)


steps = st.one_of(
    st.tuples(st.just("arrive"), st.sampled_from("abcd")),
    st.tuples(st.just("leave"), st.integers(0, 9)),
    st.tuples(st.just("serve"), st.none()),
    st.tuples(st.just("doubt"), st.sampled_from("abcd")),
    st.tuples(st.just("pass"), st.sampled_from([1.0, 10.0, LONG])),
)


@settings(max_examples=600, deadline=None)
@given(st.lists(steps, max_size=40))
def test_the_order_is_that_of_a_simple_model(script: list[tuple[str, object]]) -> None:
    """Whatever happens, the order is the one that sorting gives."""
    waiting, model = Waiting(), Model()
    for step, what in script:
        if step == "arrive":
            model.arrive(waiting.arrive(what))  # type: ignore[arg-type]
        elif step == "leave" and waiting.waiters:
            waiter = list(waiting.waiters.values())[what % len(waiting.waiters)]  # type: ignore[operator]
            waiting.leave(waiter)
            model.leave(waiter)
        elif step == "serve" and waiting.line:
            waiter = model.order(waiting.now)[0]
            assert waiting.serve() is waiter
            model.served(waiter.client)
            model.leave(waiter)
        elif step == "doubt":
            waiting.line.doubt(what, waiting.now)  # type: ignore[arg-type]
            model.doubt(what, waiting.now)  # type: ignore[arg-type]
        elif step == "pass":
            waiting.now += what  # type: ignore[operator]
        assert [waiter.age for waiter in waiting.order()] == [waiter.age for waiter in model.order(waiting.now)]

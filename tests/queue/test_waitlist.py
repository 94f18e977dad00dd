"""The decisions of the wait list: no waiter sleeps while there is a ready job for it, in every order of events."""

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from composerd.models import Claim, Claimed, Key
from composerd.queue.line import LONG, Waiter
from composerd.queue.waitlist import WaitList

X, Y, Z = (Key("", name, None) for name in "XYZ")


@dataclass
class Ready:
    key: Key
    priority: int
    position: int


@dataclass
class World:
    """A storage, the wait list over it, and what is on its way between them: news, and a round that has not ended.

    The claims of a round are decided at one moment between its beginning and its end; anything else may happen before
    and after that moment.
    """

    loop: asyncio.AbstractEventLoop
    waitlist: WaitList = field(default_factory=WaitList)
    ready: list[Ready] = field(default_factory=list)
    unheard: list[Key] = field(default_factory=list)
    picked: Sequence[Waiter] = ()
    outcomes: list[Claimed | None] | None = None
    got: dict[int, Key] = field(default_factory=dict)
    claims_in_vain: int = 0
    positions: Iterator[int] = field(default_factory=itertools.count)
    served: list[int] = field(default_factory=list)
    now: float = 0.0

    def arrive(self, *keys: Key, client: str = "") -> Waiter:
        waiter = Waiter(Claim(uuid4(), keys, 60.0), client, self.loop.create_future(), self.now)
        self.waitlist.add(waiter)
        return waiter

    def submit(self, *jobs: tuple[Key, int]) -> None:
        """Let jobs become ready together; the news of it is on its way."""
        for key, priority in jobs:
            self.ready.append(Ready(key, priority, next(self.positions)))
            self.unheard.append(key)

    def hear(self, index: int = 0) -> None:
        self.waitlist.heat({self.unheard.pop(index): 1})

    def pick(self, limit: int = 1000) -> None:
        self.picked = self.waitlist.pick(limit, self.now)
        self.outcomes = None

    def decide(self, prefix: int | None = None) -> None:
        """Let the storage decide the claims of the round, or the first few of them."""
        self.outcomes = [self._claim(waiter) for waiter in self.picked[:prefix]]

    def _claim(self, waiter: Waiter) -> Claimed | None:
        fitting = [job for job in self.ready if job.key in waiter.claim.keys]
        if not fitting:
            return None
        best = min(fitting, key=lambda job: (-job.priority, job.position))
        self.ready.remove(best)
        return Claimed(waiter.claim.token, uuid4(), best.key, None, (), 1)

    def end_round(self) -> None:
        assert self.outcomes is not None
        answered = self.picked[: len(self.outcomes)]
        for waiter, claimed in zip(answered, self.outcomes, strict=True):
            if claimed is None:
                self.claims_in_vain += 1
            elif waiter.answer.done():  # it has left, so its job is released
                self.submit((claimed.key, 0))
            else:
                self.got[waiter.age] = claimed.key
                self.served.append(waiter.age)
                waiter.answer.set_result(claimed)
        self.waitlist.end_round(answered, self.outcomes)
        self.waitlist.retry(self.picked[len(self.outcomes) :])
        self.picked, self.outcomes = (), None

    def leave(self, waiter: Waiter) -> None:
        if not waiter.answer.done():
            waiter.answer.cancel()
            self.waitlist.remove(waiter)

    def run(self) -> None:
        """Make rounds until nothing is on its way, as the dispatcher does."""
        while True:
            if self.picked:
                if self.outcomes is None:
                    self.decide()
                self.end_round()
            while self.unheard:
                self.hear()
            self.pick()
            if not self.picked:
                return

    def stranded(self) -> list[tuple[int, Key]]:
        """Return the waiters that sleep while there is a ready job for them, with that job's key."""
        return [
            (waiter.age, job.key)
            for waiter in self.waitlist.everyone()
            for job in self.ready
            if job.key in waiter.claim.keys
        ]


@pytest.fixture
def world() -> Iterator[World]:
    """Return an empty world."""
    loop = asyncio.new_event_loop()
    yield World(loop)
    loop.close()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
@pytest.mark.parametrize("first", ["X", "Y"])
def test_the_classical_stranding(world: World, order: tuple[int, ...], first: str) -> None:
    """W1 on {X, Y}, W2 on {X}, W3 on {Y}: an X and a better Y become ready, and both are handed out in every order."""
    wanted = [(X, Y), (X,), (Y,)]
    for which in order:
        world.arrive(*wanted[which])
    world.run()  # every waiter has claimed in vain, and sleeps
    world.submit((X, 0), (Y, 5))
    if first == "Y":
        world.unheard.reverse()
    world.hear()
    world.pick()  # only the first news has been heard when the first round is made
    world.decide()
    world.end_round()
    world.run()
    assert sorted(key.type for key in world.got.values()) == ["X", "Y"]
    assert not world.stranded()


def test_one_ready_job_wakes_one_waiter(world: World) -> None:
    """Of a thousand waiters, only the newest claims when a job becomes ready."""
    waiters = [world.arrive(X) for _ in range(1000)]
    world.run()
    world.claims_in_vain = 0
    world.submit((X, 0))
    world.run()
    assert world.got == {waiters[-1].age: X}
    assert world.claims_in_vain == 0


def test_a_thousand_ready_jobs_take_one_round(world: World) -> None:
    """A round has as many waiters as jobs became ready."""
    for _ in range(1000):
        world.arrive(X)
    world.run()
    world.submit(*[(X, 0)] * 500)
    while world.unheard:
        world.hear()
    world.pick()
    assert len(world.picked) == 500


def test_a_round_that_takes_fewer_than_are_ready_leaves_the_key_hot(world: World) -> None:
    """A round may be small, and a storage may answer a part of it: the next round takes the rest."""
    waiters = [world.arrive(X) for _ in range(4)]
    world.run()
    world.submit(*[(X, 0)] * 4)
    while world.unheard:
        world.hear()
    world.pick(limit=1)
    world.decide()
    world.end_round()
    world.pick()
    world.decide(prefix=1)
    world.end_round()
    world.run()
    assert world.served == [waiter.age for waiter in reversed(waiters)]


def test_a_job_that_becomes_ready_while_a_claim_is_on_its_way_is_not_missed(world: World) -> None:
    """A job that becomes ready after a claim was decided, but before its answer arrives, leaves the key hot."""
    world.arrive(X)
    world.pick()
    world.decide()
    world.submit((X, 0))
    world.hear()
    world.end_round()
    world.run()
    assert list(world.got.values()) == [X]


def test_a_waiter_keeps_its_age(world: World) -> None:
    """A waiter that claimed in vain is ahead of those that came later, once it has waited long."""
    first = world.arrive(X)
    world.run()
    world.now = LONG
    world.arrive(X)
    world.run()
    world.submit((X, 0))
    world.run()
    assert list(world.got) == [first.age]


def test_a_new_waiter_takes_no_job_from_those_that_wait(world: World) -> None:
    """While others sleep, a waiter that arrives before the news of a job makes no claim: they would lose their turn."""
    waiting = world.arrive(X)
    world.run()
    world.submit((X, 0))
    late = world.arrive(X)
    world.pick()
    assert not world.picked
    world.leave(late)
    world.run()
    assert list(world.got) == [waiting.age]


def test_a_new_waiter_claims_if_a_job_is_known_or_nobody_sleeps(world: World) -> None:
    """A waiter makes a claim of its own if a key of it is hot, if nobody else sleeps for one, or if it has a job."""
    first = world.arrive(X)
    assert world.waitlist.pick(10, 0.0) == [first]
    second = world.arrive(X)
    world.waitlist.end_round([first], [None])
    assert world.waitlist.pick(10, 0.0) == [second]
    world.waitlist.end_round([second], [None])
    other = world.arrive(X, Y)
    named = Waiter(Claim(uuid4(), (X,), 60.0), "", world.loop.create_future(), named=True)
    world.waitlist.add(named)
    assert world.waitlist.pick(10, 0.0) == [other, named]
    assert [other.vain, named.vain] == [False, True]
    world.waitlist.end_round([other], [None])
    world.waitlist.retry([named])  # its token has a job
    assert world.waitlist.pick(10, 0.0) == [named]
    assert not named.vain
    world.waitlist.end_round([named], [None])
    world.waitlist.heat({X: 3})
    late = world.arrive(X)
    world.leave(first)
    world.leave(second)
    assert set(world.waitlist.pick(10, 0.0)) == {other, named, late}


def test_a_lost_event_costs_latency_only(world: World) -> None:
    """A job whose news never arrives is found by the periodic check."""
    world.arrive(X)
    world.run()
    world.submit((X, 0))
    world.unheard.clear()
    world.run()
    assert world.stranded()
    world.waitlist.heat_all()
    world.run()
    assert list(world.got.values()) == [X]


def test_a_check_wakes_one_waiter_of_a_key(world: World) -> None:
    """The periodic check lets one waiter of each key claim, and no other of a key that is hot already."""
    waiters = [world.arrive(X) for _ in range(3)] + [world.arrive(Y) for _ in range(3)]
    world.run()
    world.submit((X, 0))
    world.hear()
    world.waitlist.heat_all()
    world.pick()
    assert list(world.picked) == [waiters[2], waiters[5]]


def test_a_round_has_a_limit(world: World) -> None:
    """A round has no more waiters than its limit, new ones and woken ones together."""
    waiters = [world.arrive(X) for _ in range(5)] + [world.arrive(Y)]
    world.pick(limit=2)
    assert list(world.picked) == waiters[:2]
    world.decide()
    world.end_round()
    world.run()
    world.submit((X, 0), (X, 0), (Y, 0))
    while world.unheard:
        world.hear()
    late = world.arrive(X)
    world.pick(limit=2)
    assert list(world.picked) == [late, waiters[4]]


def test_jobs_that_were_handed_out_wake_nobody_else(world: World) -> None:
    """When rounds have handed out every job that became ready, no further claim is made."""
    waiters = [world.arrive(X) for _ in range(6)]
    world.run()
    world.claims_in_vain = 0
    world.submit(*[(X, 0)] * 3)
    while world.unheard:
        world.hear()
    for _ in range(3):
        world.pick(limit=1)
        assert len(world.picked) == 1
        world.decide()
        world.end_round()
    world.pick()
    assert not world.picked
    assert world.served == [waiter.age for waiter in reversed(waiters[3:])]
    assert world.claims_in_vain == 0


def test_a_new_waiter_that_leaves_makes_no_claim(world: World) -> None:
    """A waiter that leaves before its first round is not in it."""
    leaving, staying = world.arrive(X), world.arrive(X)
    world.leave(leaving)
    world.pick()
    assert list(world.picked) == [staying]


def test_nothing_is_kept_of_waiters_that_left(world: World) -> None:
    """When all waiters have left, the list is empty again."""
    waiters = [world.arrive(X, Y) for _ in range(10)]
    world.run()
    for waiter in waiters:
        world.leave(waiter)
    world.submit((X, 0))
    world.run()
    assert not world.waitlist._by_key
    assert not world.waitlist._hot
    assert not world.waitlist._fresh
    assert len(world.waitlist) == 0


keysets = st.lists(st.sampled_from([X, Y, Z]), min_size=1, max_size=3, unique=True)
steps = st.one_of(
    st.tuples(st.just("arrive"), st.tuples(keysets, st.sampled_from("abc"))),
    st.tuples(st.just("doubt"), st.tuples(st.sampled_from("abc"), st.sampled_from([X, Y, Z]))),
    st.tuples(st.just("pass"), st.sampled_from([1.0, LONG])),
    st.tuples(
        st.just("submit"), st.lists(st.tuples(st.sampled_from([X, Y, Z]), st.integers(-2, 2)), min_size=1, max_size=3)
    ),
    st.tuples(st.just("leave"), st.integers(0, 9)),
    st.tuples(st.just("hear"), st.integers(0, 9)),
    st.tuples(st.just("pick"), st.integers(1, 3)),
    st.tuples(st.just("decide"), st.one_of(st.none(), st.integers(1, 2))),
    st.tuples(st.just("end_round"), st.none()),
    st.tuples(st.just("run"), st.none()),
)


@settings(max_examples=1500, deadline=None)
@given(st.lists(steps, max_size=60))
def test_no_waiter_sleeps_while_there_is_a_job_for_it(script: list[tuple[str, Any]]) -> None:
    """Whatever the order of arrivals, jobs, departures, news and rounds of clients, no ready job fits a waiter then."""
    loop = asyncio.new_event_loop()
    world = World(loop)
    everyone: list[Waiter] = []
    try:
        for step, what in script:
            if step == "arrive":
                keys, client = what
                everyone.append(world.arrive(*keys, client=client))
            elif step == "doubt":
                doubted, key = what
                world.waitlist.doubt(doubted, key, world.now)
            elif step == "pass":
                world.now += what
            elif step == "submit":
                world.submit(*what)
            elif step == "leave" and everyone:
                world.leave(everyone[what % len(everyone)])
            elif step == "hear" and world.unheard:
                world.hear(what % len(world.unheard))
            elif step == "pick" and not world.picked:
                world.pick(what)
            elif step == "decide" and world.picked and world.outcomes is None:
                world.decide(what)
            elif step == "end_round" and world.outcomes is not None:
                world.end_round()
            elif step == "run":
                world.run()
        world.run()
        assert not world.stranded()
        tokens: list[UUID] = [waiter.claim.token for waiter in everyone if waiter.age in world.got]
        assert len(set(tokens)) == len(world.got)
    finally:
        loop.close()


@pytest.mark.parametrize(
    "events", list(itertools.permutations(["hear", "hear", "pick", "end_round", "arrive"])), ids="-".join
)
def test_every_order_of_a_small_history(world: World, events: tuple[str, ...]) -> None:
    """The stranding history with its news, rounds and a late waiter, in every order."""
    world.arrive(X, Y)
    world.arrive(X)
    world.arrive(Y)
    world.run()
    world.submit((X, 0), (Y, 5))
    for event in events:
        if event == "hear":
            world.hear()
        elif event == "pick" and not world.picked:
            world.pick()
        elif event == "end_round" and world.picked:
            world.decide()
            world.end_round()
        elif event == "arrive":
            world.arrive(X, Y)
    world.run()
    assert len(world.got) == 2
    assert not world.stranded()


async def test_clients_take_turns() -> None:
    """A client with many waiters for a key gets no more jobs of it than one with a few, as long as that one waits."""
    waitlist = WaitList()
    loop = asyncio.get_running_loop()

    def arrive(client: str) -> Waiter:
        waiter = Waiter(Claim(uuid4(), (X,), 60.0), client, loop.create_future())
        waitlist.add(waiter)
        return waiter

    loud = [arrive("loud") for _ in range(50)]
    quiet = [arrive("quiet") for _ in range(3)]
    first = waitlist.pick(1000, 0.0)
    waitlist.end_round(first, [None] * len(first))
    got = []
    for _ in range(6):
        waitlist.heat({X: 1})
        (waiter,) = waitlist.pick(1000, 0.0)
        waitlist.end_round([waiter], [Claimed(waiter.claim.token, uuid4(), X, None, (), 1)])
        got.append(waiter)
    assert got == [quiet[2], loud[49], quiet[1], loud[48], quiet[0], loud[47]]
    waitlist.heat({X: 10})
    arrive("late")
    assert [waiter.client for waiter in waitlist.pick(4, 0.0)].count("loud") >= 2


async def test_a_check_of_very_many_keys() -> None:
    """If news may have been lost, every waiter claims once, some keys at a time, and rounds have few keys each."""
    waitlist = WaitList()
    loop = asyncio.get_running_loop()
    for waiter in range(200):
        keys = tuple(Key("", f"{waiter} {n}", None) for n in range(128))
        waitlist.add(Waiter(Claim(uuid4(), keys, 60.0), "", loop.create_future()))
    claimed = 0
    while picked := waitlist.pick(1000, 0.0):
        assert sum(len(waiter.claim.keys) for waiter in picked) <= 11_000
        waitlist.end_round(picked, [None] * len(picked))
        claimed += len(picked)
    assert claimed == 200
    waitlist.heat_all()
    ages: list[int] = []
    for _ in range(2):
        while waitlist.checking:
            picked = waitlist.pick(1000, 0.0)
            assert len(picked) < 20
            ages += [waiter.age for waiter in picked]
            waitlist.end_round(picked, [None] * len(picked))
            if len(ages) == 24:
                waitlist.heat_all()  # news is lost again meanwhile
    assert sorted(set(ages)) == list(range(1, 201))
    assert waitlist.pick(1000, 0.0) == []

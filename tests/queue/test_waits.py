"""Waits are counted by client; when there are too many, the client with most makes room for others."""

import random

import pytest

from composerd.errors import Unavailable
from composerd.queue.waits import Wait, Waits


class Counted:
    """Waits, and which of them were displaced."""

    def __init__(self, limit: int) -> None:
        self.waits = Waits(limit)
        self.displaced: list[tuple[str, int]] = []

    def begin(self, client: str, number: int = 0, units: int = 1) -> Wait:
        """Begin a wait with a number, which is noted if it is displaced."""
        return self.waits.begin(client, lambda: self.displaced.append((client, number)), units)


def test_one_client_may_have_all_waits() -> None:
    """A client alone may have every wait, and is refused the next one; a wait that ends makes room."""
    counted = Counted(10)
    waits = [counted.begin("a") for _ in range(10)]
    with pytest.raises(Unavailable) as raised:
        counted.begin("a")
    assert raised.value.details == {"limit": 10}
    counted.waits.end(waits[3])
    counted.begin("a")
    assert counted.displaced == []


def test_a_newcomer_displaces_the_oldest_wait_of_the_client_with_most() -> None:
    """A newcomer displaces the oldest waits of the client that has most, until it has nearly as many."""
    counted = Counted(10)
    for number in range(7):
        counted.begin("a", number)
    for number in range(3):
        counted.begin("b", number)
    counted.begin("c")
    counted.begin("c")
    assert counted.displaced == [("a", 0), ("a", 1)]
    counted.begin("b")
    with pytest.raises(Unavailable):  # a has 4, b has 4, c has 2: b would only swap places with a
        counted.begin("b")
    assert counted.displaced == [("a", 0), ("a", 1), ("a", 2)]


def test_a_displaced_wait_ends_once() -> None:
    """A displaced wait counts until its request is answered, but takes no room, and its end frees none."""
    counted = Counted(3)
    waits = [counted.begin("a", number) for number in range(3)]
    waits.append(counted.begin("b"))
    assert (counted.displaced, counted.waits.count) == ([("a", 0)], 4)
    for wait in waits:
        counted.waits.end(wait)
    assert counted.waits.count == 0
    for _ in range(3):
        counted.begin("c")
    with pytest.raises(Unavailable):
        counted.begin("c")


def test_a_wait_that_counts_for_several() -> None:
    """A wait that takes more memory displaces as many as it counts for."""
    counted = Counted(10)
    for number in range(10):
        counted.begin("a", number)
    counted.begin("b", units=4)
    assert counted.displaced == [("a", number) for number in range(4)]
    with pytest.raises(Unavailable):
        counted.begin("c", units=4)  # a has 6, and would have fewer
    assert len(counted.displaced) == 4, "nothing is displaced in vain"


def test_any_history() -> None:
    """After any history the sums are right, and only a client that had most was displaced."""
    chosen = random.Random(7)  # a test's history
    held: dict[str, int] = {}
    current: dict[int, Wait] = {}
    waits = Waits(50)
    for number in range(5000):
        client = f"client {int(chosen.expovariate(0.5))}"

        def end_early(number: int = number, client: str = client) -> None:
            assert held[client] == max(held.values())
            held[client] -= 1
            del current[number]

        if current and chosen.random() < 0.3:
            one = chosen.choice(list(current))
            wait = current.pop(one)
            held[wait.client] -= 1
            waits.end(wait)
            continue
        try:
            wait = waits.begin(client, end_early)
        except Unavailable:
            assert sum(held.values()) == 50
            assert held.get(client, 0) + 1 >= max(held.values())
            continue
        current[number] = wait
        held[client] = held.get(client, 0) + 1
    assert sum(held.values()) == len(current) <= 50

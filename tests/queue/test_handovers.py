"""Counting handovers that nobody answers, and saying when there are too many."""

from uuid import UUID, uuid4

import pytest

from composerd.models import Claimed, Key
from composerd.queue import JobQueue
from composerd.queue import handovers as handovers_module
from composerd.queue.handovers import ADDRESSES, SPAN, SPANS, TOO_MANY, Handovers
from composerd_fs import MemoryDriver

from .conftest import add, running, take

X = Key("", "x", None)


class World:
    """A counter, and a clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.doubted: list[tuple[str, Key]] = []
        self.handovers = Handovers(lambda: self.now, lambda client, key: self.doubted.append((client, key)))

    def hand_over(self, address: str = "192.0.2.1", count: int = 1) -> list[UUID]:
        """Hand over jobs, and return their ids."""
        jobs = [uuid4() for _ in range(count)]
        for job in jobs:
            self.handovers.delivered(Claimed(uuid4(), job, X, None, (), 1), f"client of {address}", address)
        return jobs


@pytest.fixture
def world() -> World:
    """Return an empty world."""
    return World()


def test_some_go_unanswered_at_any_time(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Fewer than three in a minute, or no more than a tenth of those that were handed over, are nothing to report."""
    world.handovers.ended_unanswered(world.hand_over(count=TOO_MANY - 1))
    assert world.handovers.problem is None
    world.hand_over(count=100)
    world.handovers.ended_unanswered(world.hand_over(count=8))
    assert world.handovers.unanswered == 10
    assert world.handovers.problem is None
    assert caplog.messages == []


def test_too_many_go_unanswered(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """More than that are reported, with the address that most of them went to, and logged once a minute at most."""
    jobs = [*world.hand_over("192.0.2.1", 1), *world.hand_over("192.0.2.2", 3)]
    world.handovers.ended_unanswered(jobs)
    world.handovers.ended_unanswered(jobs)  # news may be repeated
    world.handovers.ended_unanswered([uuid4()])  # another server has handed it over
    assert world.handovers.unanswered == 4
    text = "4 within a minute, 3 of them at 192.0.2.2"
    assert world.handovers.problem == f"jobs that were handed over go unanswered: {text}"
    assert len(caplog.messages) == 1
    assert "4 jobs that were handed over went unanswered within a minute, 3 of them at 192.0.2.2" in caplog.messages[0]
    assert world.doubted == [("client of 192.0.2.1", X), *[("client of 192.0.2.2", X)] * 3]
    world.handovers.ended_unanswered(world.hand_over(count=3))
    assert len(caplog.messages) == 1
    world.now += SPAN * SPANS
    assert world.handovers.problem is None
    world.handovers.ended_unanswered(world.hand_over(count=3))
    assert len(caplog.messages) == 2


def test_memory_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The latest handovers and a number of addresses are remembered; others count without their address."""
    monkeypatch.setattr(handovers_module, "REMEMBERED", 5)
    world.handovers.ended_unanswered(world.hand_over(count=10))
    assert world.handovers.unanswered == 5
    assert not world.handovers._latest
    for number in range(ADDRESSES + 50):
        world.handovers.ended_unanswered(world.hand_over(f"address {number}"))
    assert len(world.handovers._spans[-1].unanswered) == ADDRESSES + 1
    assert world.handovers.problem is not None
    assert "other addresses" in world.handovers.problem
    for _ in range(20):
        world.now += SPAN
        world.hand_over()
    assert len(world.handovers._spans) == SPANS


@pytest.mark.parametrize("confirm", [True, False])
async def test_only_what_nobody_asked_about_counts(driver: MemoryDriver, confirm: bool) -> None:
    """An attempt counts if its worker never called, whether or not it had promised to, and no other does."""
    async with running(driver) as queue:
        jobs = [await add(queue) for _ in range(4)]
        claimed = [await take(queue, confirm=confirm) for _ in jobs]
        for one in claimed:
            queue.handovers.delivered(one, "", "192.0.2.1")
        await queue.touch(claimed[0].token)
        await queue.release(claimed[1].token)
        await queue.finish(claimed[2].token, b"1", failed=False)
        await until_over(queue, driver)
        assert queue.handovers.unanswered == 1


async def until_over(queue: JobQueue, driver: MemoryDriver) -> None:
    """Let the leases of all attempts expire."""
    await driver.shift_clock(1000.0)
    queue._on_news((await driver.advance(100)).news)

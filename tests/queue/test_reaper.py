"""The calls of `advance` and `purge` that the reaper makes, and when it makes them."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from uuid import UUID

import pytest

from composerd.driver import Batch
from composerd.errors import DriverError, DriverTimeout, Unavailable
from composerd.ids import new_id
from composerd.models import News
from composerd.queue import reaper as reaper_module
from composerd.queue.reaper import STEP, Reaper
from composerd_fs import MemoryDriver


class Timed(MemoryDriver):
    """A driver whose `advance` and `purge` answer what a test has put in, and nothing otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
        self.advances: list[Batch[UUID] | Unavailable] = []
        self.purges: list[Batch[UUID]] = []
        self.graces: list[Unavailable | None] = []

    async def advance(self, limit: int) -> Batch[UUID]:
        """Return the next answer."""
        self.calls.put_nowait(("advance", limit))
        answer = self.advances.pop(0) if self.advances else Batch[UUID](())
        if isinstance(answer, Unavailable):
            raise answer
        return answer

    async def grace(self) -> None:
        """Record the call, and fail if a test says so."""
        self.calls.put_nowait(("grace", 0))
        if self.graces and (error := self.graces.pop(0)) is not None:
            raise error

    async def purge(self, limit: int) -> Batch[UUID]:
        """Return the next answer."""
        self.calls.put_nowait(("purge", limit))
        return self.purges.pop(0) if self.purges else Batch[UUID](())


class Told:
    """The reports of the reaper."""

    def __init__(self) -> None:
        self.news: list[News] = []
        self.purged: list[UUID] = []
        self.when_purged: Callable[[], None] = lambda: None
        self.rechecks: asyncio.Queue[None] = asyncio.Queue()
        self.unrenewed = False

    def was_unrenewed(self) -> bool:
        """Return True once after a test has said that leases could not be renewed."""
        unrenewed, self.unrenewed = self.unrenewed, False
        return unrenewed

    def on_purged(self, job_ids: Sequence[UUID]) -> None:
        """Record jobs that were deleted."""
        self.purged.extend(job_ids)
        self.when_purged()


@pytest.fixture
def driver() -> Timed:
    """Return a driver for which nothing is due."""
    return Timed()


@pytest.fixture
def told() -> Told:
    """Return a record of what the reaper reports."""
    return Told()


async def run(driver: Timed, told: Told, interval: float) -> AsyncIterator[Reaper]:
    """Run a reaper."""
    reaper = Reaper(
        driver, interval, told.news.append, told.on_purged, lambda: told.rechecks.put_nowait(None), told.was_unrenewed
    )
    task = asyncio.create_task(reaper.run())
    yield reaper
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])


@pytest.fixture
async def rarely(driver: Timed, told: Told) -> AsyncIterator[Reaper]:
    """Run a reaper that does nothing on its own for the length of a test."""
    async for reaper in run(driver, told, 3600):
        yield reaper


@pytest.fixture
async def often(driver: Timed, told: Told) -> AsyncIterator[Reaper]:
    """Run a reaper that sweeps all the time."""
    async for reaper in run(driver, told, 0.01):
        yield reaper


async def test_what_is_due_is_done_then(driver: Timed, told: Told, rarely: Reaper) -> None:
    """`advance` is called at the earliest of the times that were named, and its news is published."""
    driver.advances = [Batch((), News(ended=(new_id(),)))]
    rarely.due_in(3600)
    await asyncio.sleep(0)
    assert driver.calls.empty()
    rarely.due_in(0)
    rarely.due_in(1800)
    assert await driver.calls.get() == ("advance", STEP)
    assert len(told.news) == 1
    rarely.due_in(0.01)
    assert await driver.calls.get() == ("advance", STEP)
    assert driver.calls.empty()
    assert told.rechecks.empty()


async def test_a_time_that_was_named_is_kept(driver: Timed, rarely: Reaper) -> None:
    """A later time does not replace an earlier one."""
    rarely.due_in(0.02)
    rarely.due_in(3600)
    assert await asyncio.wait_for(driver.calls.get(), 60) == ("advance", STEP)


async def test_advance_is_repeated_while_there_is_more(driver: Timed, told: Told, rarely: Reaper) -> None:
    """As long as an answer says that more is due now, `advance` is called again at once."""
    driver.advances = [Batch((), News(due_in=0)), Batch((), News(due_in=0)), Batch((), News(due_in=60))]
    rarely.due_in(0)
    for _ in range(3):
        assert await driver.calls.get() == ("advance", STEP)
    rarely.due_in(0)
    assert await driver.calls.get() == ("advance", STEP)
    assert [news.due_in for news in told.news[:3]] == [0, 0, 60]


async def test_advance_is_not_repeated_before_its_time(driver: Timed, rarely: Reaper) -> None:
    """If an answer says that more is due soon, but not now, `advance` is not called again at once."""
    driver.advances = [Batch((), News(due_in=0.5))]
    rarely.due_in(0)
    await driver.calls.get()
    for _ in range(10):
        await asyncio.sleep(0)
    assert driver.calls.empty()


async def test_what_becomes_due_meanwhile_is_done_together(
    driver: Timed, rarely: Reaper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a call of `advance` there is a pause, so that what becomes due in it needs one call."""
    monkeypatch.setattr(reaper_module, "PAUSE", 3600)
    rarely.due_in(0)
    await driver.calls.get()
    for _ in range(10):
        rarely.due_in(0)
        await asyncio.sleep(0)
    assert driver.calls.empty()


@pytest.mark.usefixtures("often")
async def test_a_sweep_purges_and_rechecks(driver: Timed, told: Told) -> None:
    """Every interval, ended jobs are purged until none is left, and waiters are woken once."""
    some = [new_id() for _ in range(3)]
    rest = [new_id()]
    driver.purges = [Batch(some, News(recheck=True)), Batch(rest)]
    for call in ("advance", "purge", "purge", "purge", "advance", "purge"):
        assert await driver.calls.get() == (call, STEP)
    assert told.purged == some + rest
    assert News(recheck=True) in told.news
    await told.rechecks.get()
    await told.rechecks.get()


async def test_what_is_due_need_not_wait_for_a_long_purge(driver: Timed, told: Told) -> None:
    """Between two calls of `purge` that find jobs, `advance` is called if something is due."""
    driver.purges = [Batch([new_id()]), Batch([new_id()])]
    async for reaper in run(driver, told, 0.01):
        told.when_purged = partial(reaper.due_in, 0)
        for call in ("advance", "purge", "advance", "purge", "advance", "purge"):
            assert await driver.calls.get() == (call, STEP)


async def test_leases_that_could_not_be_renewed(driver: Timed, told: Told, rarely: Reaper) -> None:
    """After leases could not be renewed, nothing is advanced before `grace` has succeeded, and that is called once."""
    told.unrenewed = True
    driver.graces = [Unavailable("away"), None]
    rarely.due_in(0)
    assert await driver.calls.get() == ("grace", 0)
    rarely.due_in(0)
    assert await driver.calls.get() == ("grace", 0)
    assert await driver.calls.get() == ("advance", STEP)
    rarely.due_in(0)
    assert await driver.calls.get() == ("advance", STEP)


async def test_an_idle_reaper(driver: Timed, rarely: Reaper, monkeypatch: pytest.MonkeyPatch) -> None:
    """If nothing is due for a long time, `advance` is called all the same, so that the driver knows of the server."""
    monkeypatch.setattr(reaper_module, "ATTEND_EVERY", 0.01)
    rarely.due_in(0)
    for _ in range(3):
        assert await asyncio.wait_for(driver.calls.get(), 60) == ("advance", STEP)


@pytest.mark.usefixtures("often")
async def test_an_outage_is_logged_once(driver: Timed, caplog: pytest.LogCaptureFixture) -> None:
    """An error of the storage is logged when it begins or changes, also after a success, and the reaper goes on."""
    away, full = Unavailable("away"), Unavailable("in recovery")
    driver.advances = [away, away, full, Batch(()), full]
    with caplog.at_level(logging.WARNING):
        while driver.advances:
            await driver.calls.get()
        await driver.calls.get()
    assert [record.getMessage() for record in caplog.records] == [
        "processing of expired leases and retention failed: away",
        "processing of expired leases and retention failed: in recovery",
        "processing of expired leases and retention failed: in recovery",
    ]


@pytest.mark.usefixtures("often")
async def test_one_statement_that_fails_stops_nothing_else(driver: Timed, told: Told) -> None:
    """While `advance` fails because of one statement, ended jobs are purged and waiters woken; not in an outage."""
    driver.advances = [DriverError("refused"), Unavailable("away"), DriverTimeout("slow"), Batch(())]
    calls = [await driver.calls.get() for _ in range(6)]
    assert [name for name, _ in calls] == ["advance", "purge", "advance", "advance", "advance", "purge"]
    await told.rechecks.get()

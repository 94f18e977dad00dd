"""The workers that were seen lately: what the driver is told of them, and when."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace

import msgspec
import pytest

from composerd.errors import Unavailable, WorkerNotFound
from composerd.ids import new_id
from composerd.models import Worker
from composerd.queue import roster as roster_module
from composerd.queue.roster import Roster
from composerd.queue.worker_ids import NIL, stored_worker_id
from composerd_fs import MemoryDriver

TIMEOUT = 3600.0


class Reports(MemoryDriver):
    """The memory driver, which records the workers that it is told of, without their ages, and fails on demand."""

    def __init__(self) -> None:
        super().__init__()
        self.reports: asyncio.Queue[list[Worker]] = asyncio.Queue()
        self.error: Unavailable | None = None

    async def seen(self, workers: Sequence[Worker]) -> None:
        """Record the workers, or fail."""
        self.reports.put_nowait([msgspec.structs.replace(one, age=0.0) for one in workers])
        if self.error is not None:
            raise self.error
        await super().seen(workers)


@pytest.fixture
async def driver() -> Reports:
    """Return an empty storage."""
    driver = Reports()
    await driver.start()
    return driver


@pytest.fixture
async def running(driver: Reports, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Roster]:
    """Return a roster that reports often."""
    monkeypatch.setattr(roster_module, "REPORT_EVERY", 0.01)
    roster = Roster(driver, TIMEOUT)
    task = asyncio.create_task(roster.run())
    yield roster
    task.cancel()
    await asyncio.wait([task])


def worker(*types: str) -> Worker:
    """Return a worker of some types."""
    return Worker(new_id(), "x86_64", types)


async def test_a_registered_worker_is_known(driver: Reports) -> None:
    """A worker that registers is stored at once, with its arch and channel, and may say that it is alive."""
    roster = Roster(driver, TIMEOUT)
    worker_id = await roster.register("aarch64", "nightly")
    assert await driver.reports.get() == [Worker(stored_worker_id(worker_id, "nightly"), "aarch64", channel="nightly")]
    other_id = await roster.register("aarch64")
    assert await driver.reports.get() == [Worker(other_id, "aarch64")]
    await Roster(driver, TIMEOUT).check(worker_id, channel="nightly")


async def test_an_unknown_worker_is_refused(driver: Reports) -> None:
    """A sign of life of a worker that was not seen within the timeout is refused, and names the worker."""
    roster = Roster(driver, TIMEOUT)
    worker_id = await roster.register("x86_64")
    await driver.shift_clock(TIMEOUT + 1)
    await roster.register("x86_64")  # another one is known
    roster = Roster(driver, TIMEOUT)
    with pytest.raises(WorkerNotFound) as raised:
        await roster.check(worker_id)
    assert raised.value.details == {"id": str(worker_id)}
    roster.alive(worker_id)
    await roster.check(worker_id)
    assert worker_id in [one.id for one in (await roster.page(None, 1000)).workers]


async def test_a_sign_of_life_prolongs(driver: Reports) -> None:
    """A worker that says it is alive is known for the timeout from then on, and its description stays as it was."""
    worker_id = await Roster(driver, TIMEOUT).register("aarch64")
    await driver.reports.get()
    for _ in range(2):
        await driver.shift_clock(TIMEOUT * 0.75)
        roster = Roster(driver, TIMEOUT)
        await roster.check(worker_id)
        assert [(one.id, one.arch) for one in (await roster.page(None, 1000)).workers] == [(worker_id, "aarch64")]
        assert await driver.reports.get() == [Worker(worker_id, "", problem="")]


async def test_a_worker_that_waits_is_described(driver: Reports) -> None:
    """A worker is known from its request for a job on, with the types of its latest request."""
    roster = Roster(driver, TIMEOUT)
    first = worker("build")
    second = Worker(first.id, "x86_64", ("test",))
    roster.begin_wait(first)
    roster.begin_wait(second)
    (shown,) = (await roster.page(None, 1000)).workers
    assert (shown.id, shown.arch, shown.types) == (first.id, "x86_64", ("test",))


async def test_a_worker_is_known_while_it_waits(driver: Reports, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker counts as seen until its last wait ends, however long it waits, and for the timeout after that."""
    monkeypatch.setattr(roster_module, "SEE_WAITING_EVERY", -1.0)
    roster = Roster(driver, TIMEOUT)
    waiting = worker("build")
    roster.begin_wait(waiting)
    roster.begin_wait(waiting)
    roster.end_wait(waiting)
    for _ in range(2):
        await driver.shift_clock(TIMEOUT + 1)
        assert [one.id for one in (await roster.page(None, 1000)).workers] == [waiting.id]
    await driver.shift_clock(TIMEOUT + 1)
    roster.end_wait(waiting)
    (shown,) = (await roster.page(None, 1000)).workers
    assert shown == msgspec.structs.replace(waiting, seen_at=shown.seen_at)
    await driver.shift_clock(TIMEOUT + 1)
    assert (await roster.page(None, 1000)).workers == ()


async def test_the_nil_id_is_no_worker(driver: Reports) -> None:
    """Requests with the nil id make no worker known."""
    roster = Roster(driver, TIMEOUT)
    nobody = Worker(NIL, "x86_64", ("build",))
    roster.begin_wait(nobody)
    roster.end_wait(nobody)
    roster.alive(NIL)
    assert (await roster.page(None, 1000)).workers == ()
    assert driver.reports.empty()


async def test_a_sign_of_life_keeps_the_description(driver: Reports) -> None:
    """A sign of life after a request does not replace what the request said of the worker."""
    roster = Roster(driver, TIMEOUT)
    known = worker("build")
    roster.begin_wait(known)
    roster.end_wait(known)
    roster.alive(known.id)
    (shown,) = (await roster.page(None, 1000)).workers
    assert shown.types == ("build",)


async def test_the_driver_is_told_once(driver: Reports, running: Roster) -> None:
    """Workers seen since the last report are reported together, and not again until they are seen again."""
    first, second = worker("build"), worker("build")
    running.alive(first.id)
    running.alive(second.id)
    running.alive(first.id)
    assert [one.id for one in await driver.reports.get()] == [first.id, second.id]
    running.alive(second.id)
    assert [one.id for one in await driver.reports.get()] == [second.id]


async def test_a_waiting_worker_is_reported_again(driver: Reports, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that waits for long is reported again four times in each timeout."""
    seconds_slept = 0.0
    reported_at = []

    async def sleep(seconds: float) -> None:
        nonlocal seconds_slept
        seconds_slept += seconds
        await asyncio.sleep(0)

    async def seen(workers: Sequence[Worker]) -> None:
        reported_at.append(seconds_slept)
        await told(workers)

    told = driver.seen
    monkeypatch.setattr(roster_module, "asyncio", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(driver, "seen", seen)
    roster = Roster(driver, 20.0)
    waiting = worker("build")
    roster.begin_wait(waiting)
    task = asyncio.create_task(roster.run())
    for _ in range(4):
        assert await driver.reports.get() == [waiting]
    task.cancel()
    await asyncio.wait([task])
    assert reported_at == [1, 5, 10, 15]


async def test_an_outage_does_not_stop_the_reports(
    driver: Reports, running: Roster, caplog: pytest.LogCaptureFixture
) -> None:
    """A report that fails is logged, and the next one is made."""
    driver.error = Unavailable("away")
    with caplog.at_level(logging.INFO):
        running.alive(new_id())
        await driver.reports.get()
        driver.error = None
        later = new_id()
        running.alive(later)
        assert [one.id for one in await driver.reports.get()] == [later]
    assert caplog.messages == ["storing when workers were last seen failed: away"]


async def test_workers_of_other_clients(driver: Reports) -> None:
    """The roster reports a description with the client that gave it, so that the driver can tell clients apart."""
    roster = Roster(driver, TIMEOUT)
    known = Worker(new_id(), "x86_64", ("build",), client="owner")
    roster.begin_wait(known)
    assert [one.types for one in (await roster.page(None, 10)).workers] == [("build",)]
    other = Worker(known.id, "aarch64", ("other",), client="other")
    roster.begin_wait(other)
    await roster.check(known.id, "other")
    roster.end_wait(other)
    roster.end_wait(known)
    assert [one.types for one in (await roster.page(None, 10)).workers] == [("build",)]


async def test_unreported_workers_are_bounded(driver: Reports, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of very many workers that a client names between two reports some are left out; another client's are not."""
    monkeypatch.setattr(roster_module, "UNREPORTED", 256 * 1024)
    roster = Roster(driver, TIMEOUT)
    types = tuple(f"{n}".ljust(128) for n in range(64))
    for _ in range(100):
        invented = Worker(new_id(), "x86_64", types, client="loud")
        roster.begin_wait(invented)
        roster.end_wait(invented)
    quiet = Worker(new_id(), "x86_64", ("build",), client="quiet")
    roster.begin_wait(quiet)
    shown = (await roster.page(None, 1000)).workers
    assert quiet.id in [one.id for one in shown]
    assert len(shown) < 20


async def test_reports_tell_how_old_they_are(driver: Reports, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report about a worker is as old as the request that it comes from, also during and after the request's wait."""
    ages: list[float] = []
    told = driver.seen

    async def seen(workers: Sequence[Worker]) -> None:
        ages.extend(round(one.age - roster_module.ON_ITS_WAY, 3) for one in workers)
        await told(workers)

    now = 1000.0
    monkeypatch.setattr(driver, "seen", seen)
    monkeypatch.setattr(roster_module, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(roster_module, "SEE_WAITING_EVERY", -1.0)
    roster = Roster(driver, TIMEOUT)
    waiting = worker("build")
    roster.begin_wait(waiting)
    now += 3.0
    await roster.page(None, 10)
    now += 3.0
    roster.end_wait(waiting)
    roster.alive(new_id())
    now += 0.5
    await roster.page(None, 10)
    assert ages == [3.0, 3.0, 6.5, -roster_module.ON_ITS_WAY]  # waiting, seen since the last report, after its wait


async def test_signing_off_drops_what_is_not_reported(driver: Reports) -> None:
    """After a worker has signed off, nothing that it said before is reported; the words of others are."""
    roster = Roster(driver, TIMEOUT)
    first, second = worker("build"), worker("build")
    roster.begin_wait(first)
    roster.end_wait(first)
    roster.describe(second)
    await roster.sign_off(first.id, "")
    await roster.sign_off(NIL, "")
    assert [one.id for one in (await roster.page(None, 10)).workers] == [second.id]
    roster.alive(first.id)
    with pytest.raises(WorkerNotFound):
        await Roster(driver, TIMEOUT).check(first.id)
    await driver.shift_clock(1.0)
    roster.begin_wait(first)
    assert [one.id for one in (await roster.page(None, 10)).workers] == [first.id, second.id]

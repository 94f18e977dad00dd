"""A driver of contract 1.3, which knows less than those of today: composerd does the rest itself."""

from collections.abc import Sequence
from uuid import UUID

import msgspec
import pytest

from composerd.driver import Driver, Usage
from composerd.driver.guard import Guard
from composerd.driver.simple import SimpleDriver
from composerd.errors import NotOffered, UnknownDependency
from composerd.ids import new_id
from composerd.models import Enqueued, JobFilter, JobPage, JobState, NewJob, Worker, WorkerCursor, WorkerPage
from composerd.queue.roster import Roster
from composerd_fs import MemoryDriver


class Earlier(MemoryDriver):
    """A driver for contract 1.3, which ignores the states of a filter."""

    contract = "1.3"

    async def list(self, filter: JobFilter, cursor: int | None, limit: int) -> JobPage:
        """Return a page without looking at the states."""
        return await super().list(msgspec.structs.replace(filter, states=()), cursor, limit)

    async def sign_off(self, workers: Sequence[Worker]) -> None:
        """Do what a driver does that has no such method."""
        await Driver.sign_off(self, workers)

    async def secret(self) -> bytes:
        """Do what a driver does that has no such method."""
        return await Driver.secret(self)

    async def usage(self, channels: Sequence[str]) -> Sequence[Usage]:
        """Do what a driver does that has no such method."""
        return await Driver.usage(self, channels)

    async def worker_page(  # type: ignore[override]  # as before version 1.5
        self, within: float, after: WorkerCursor | None, limit: int
    ) -> WorkerPage:
        """Return the workers of every channel."""
        return await super().worker_page(within, after, limit)


async def test_an_earlier_driver_shows_several_states() -> None:
    """All jobs of the states are shown once, newest first, over pages that may be short; other filters hold as well."""
    driver = Guard(Earlier())
    await driver.start()
    ids = [new_id() for _ in range(20)]
    await driver.enqueue(
        [[NewJob(id=one, type="ab"[n // 10], not_before=3600.0 if n % 2 else None) for n, one in enumerate(ids)]]
    )
    await driver.cancel(ids[::4])
    for filter, expected in [
        (JobFilter(states=(JobState.CANCELED, JobState.WAITING)), [one for n, one in enumerate(ids) if n % 4 != 2]),
        (JobFilter(type="b", states=(JobState.CANCELED, JobState.FINISHED)), [ids[12], ids[16]]),
        (JobFilter(state=JobState.CANCELED), ids[::4]),
    ]:
        shown: list[UUID] = []
        cursor: int | None = None
        while True:
            page = await driver.list(filter, cursor, 3)
            assert len(page.jobs) <= 3
            shown += [job.id for job in page.jobs]
            cursor = page.next
            if cursor is None:
                break
        assert shown == expected[::-1]
    await driver.close()


async def test_an_earlier_driver_lists_workers_that_signed_off() -> None:
    """A driver that knows nothing of workers that sign off still shows them, until they were not seen for long."""
    driver = Guard(Earlier())
    await driver.start()
    worker = Worker(new_id(), "x86_64", ("build",))
    await driver.seen([worker])
    await driver.sign_off([worker])
    assert [one.id for one in await driver.workers(60)] == [worker.id]
    await driver.close()


async def test_an_earlier_driver_shows_the_workers_of_one_channel() -> None:
    """A driver that knows nothing of the channels of workers is asked for all, and those of others are left out."""
    driver = Guard(Earlier())
    await driver.start()
    roster = Roster(driver, 60.0)
    first = await roster.register("x86_64", "org-acme")
    await roster.register("x86_64", "org-other")
    assert [one.id for one in (await roster.page(None, 10, "org-acme")).workers] == [first]
    await driver.close()


async def test_an_earlier_driver_stores_no_dependency_on_another_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that ignores channels refuses nothing, so composerd refuses what would depend on another channel's."""
    monkeypatch.setattr("composerd.driver.submissions._check_dependencies", lambda *_: None)
    driver = Guard(Earlier())
    await driver.start()
    own, other, ref = new_id(), new_id(), new_id()
    await driver.enqueue([[NewJob(id=own, type="x", channel="a")], [NewJob(id=other, type="x", channel="b")]])
    answers = await driver.enqueue(
        [
            [NewJob(id=new_id(), type="x", channel="a", dependencies=(own,))],
            [NewJob(id=new_id(), type="x"), NewJob(id=new_id(), type="x", channel="a", dependencies=(own, other))],
            [NewJob(id=ref, type="x", channel="b"), NewJob(id=new_id(), type="x", channel="a", dependencies=(ref,))],
        ]
    )
    assert isinstance(answers.items[0], Enqueued)
    assert [(type(one), one.details) for one in answers.items[1:] if isinstance(one, UnknownDependency)] == [
        (UnknownDependency, {"index": 1, "id": str(other)}),
        (UnknownDependency, {"index": 1, "id": str(ref)}),
    ]
    assert await driver.listed([ref]) == [None]
    await driver.close()


async def test_an_earlier_driver_has_a_secret_of_the_process() -> None:
    """Storages that keep no secret have that of the process, which is random."""
    secrets = {await Guard(Earlier()).secret() for _ in range(3)}
    assert [len(one) for one in secrets] == [32]
    own = MemoryDriver()
    await own.start()
    assert await Guard(own).secret() not in secrets


async def test_an_earlier_driver_counts_nothing() -> None:
    """A driver that does not count what its jobs use says so, if it is asked nevertheless."""
    assert not SimpleDriver.capabilities.counts_usage
    with pytest.raises(NotOffered, match="does not count what its jobs use"):
        await Guard(Earlier()).usage([""])

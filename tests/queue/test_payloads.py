"""Results that a storage does not find, although they have to be there."""

from collections.abc import AsyncIterator, Sequence

import pytest

from composerd.errors import JobNotFound, Unavailable
from composerd.models import JobState, PayloadKind, PayloadRef
from composerd.queue import JobQueue, Lookup
from composerd_fs import MemoryDriver

from .conftest import add, running, take


class Behind(MemoryDriver):
    """The memory driver behind something that reads an older state: it finds no payload for a number of calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls_behind = 0

    async def payloads_up_to(self, refs: Sequence[PayloadRef], limit: int) -> Sequence[bytes | int | None]:
        if self.calls_behind > 0:
            self.calls_behind -= 1
            return [None] * len(refs)
        return await super().payloads_up_to(refs, limit)


@pytest.fixture
async def driver() -> Behind:
    """Return an empty storage."""
    driver = Behind()
    await driver.start()
    return driver


@pytest.fixture
async def queue(driver: Behind) -> AsyncIterator[JobQueue]:
    """Run a queue."""
    async with running(driver) as queue:
        yield queue


@pytest.mark.parametrize("failed", [False, True])
async def test_a_result_that_comes_late(queue: JobQueue, driver: Behind, failed: bool) -> None:
    """A result that is not found at first is read again, alone and among others."""
    job_id = await add(queue)
    await queue.finish((await take(queue)).token, b"1", failed=failed)
    driver.calls_behind = 1
    assert await queue.payload(await queue.get(Lookup(job_id, None)), PayloadKind.RESULT) == b"1"
    driver.calls_behind = 2
    assert await queue.results([job_id, job_id]) == [b"1", b"1"]


async def test_a_result_that_stays_away(queue: JobQueue, driver: Behind) -> None:
    """A result that is never found is an outage, and not None."""
    job_id = await add(queue)
    await queue.finish((await take(queue)).token, b"1", failed=False)
    job = await queue.get(Lookup(job_id, None))
    driver.calls_behind = 1000
    with pytest.raises(Unavailable, match="result"):
        await queue.payload(job, PayloadKind.RESULT)
    with pytest.raises(Unavailable, match="result"):
        await queue.results([job_id])


async def test_a_job_that_was_deleted_meanwhile(queue: JobQueue) -> None:
    """The result of a job that is deleted before it is read belongs to a job that is not found."""
    job_id = await add(queue)
    await queue.finish((await take(queue)).token, b"1", failed=False)
    job = await queue.get(Lookup(job_id, None))
    await queue.delete(Lookup(job_id, None))
    with pytest.raises(JobNotFound):
        await queue.payload(job, PayloadKind.RESULT)


async def test_no_result_is_expected(queue: JobQueue, driver: Behind) -> None:
    """A job that has not ended, or was canceled, has no result, and none is looked for again."""
    job_id = await add(queue)
    assert await queue.payload(await queue.get(Lookup(job_id, None)), PayloadKind.RESULT) is None
    canceled = await queue.cancel(Lookup(job_id, None))
    assert canceled.state is JobState.CANCELED
    driver.calls_behind = 1
    assert await queue.payload(canceled, PayloadKind.RESULT) is None

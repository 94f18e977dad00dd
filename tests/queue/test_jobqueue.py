"""The queue over a storage that works: waiting, and the errors that tell what became of a job or an attempt."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest

from composerd.errors import (
    AttemptCanceled,
    AttemptFinished,
    AttemptSuperseded,
    ComposerdError,
    JobEnded,
    JobNotEnded,
    JobNotFound,
    ResultConflict,
    TokenNotFound,
    Unavailable,
)
from composerd.ids import new_id
from composerd.models import (
    Artifact,
    Attachment,
    Attempt,
    AttemptState,
    JobFilter,
    JobState,
    PayloadKind,
    Worker,
)
from composerd.queue import JobQueue, Lookup, check_running
from composerd_fs import MemoryDriver

from .conftest import KEYS, LONG, add, ended_attempt, running, take, turns


async def test_a_request_waits_for_a_job(queue: JobQueue) -> None:
    """A request that finds no job gets the next one that is submitted, with its args."""
    requesting = asyncio.create_task(queue.request(KEYS, confirm=False, wait=LONG))
    await turns()
    assert queue.waits == 1
    job_id = await add(queue, args=b"[1]")
    claimed = await requesting
    assert claimed is not None
    assert (claimed.job_id, claimed.args, claimed.attempt) == (job_id, b"[1]", 1)
    assert queue.waits == 0
    assert await queue.payload(await queue.get(Lookup(job_id, None)), PayloadKind.ARGS) == b"[1]"


async def test_a_request_names_its_worker(queue: JobQueue) -> None:
    """The worker of a request is known while it waits, and is the job's worker when it has got it."""
    worker = Worker(new_id(), "x86_64", ("build",))
    requesting = asyncio.create_task(queue.request(KEYS, worker=worker, confirm=False, wait=LONG))
    await turns()
    assert [one.id for one in (await queue.roster.page(None, 1000)).workers] == [worker.id]
    job_id = await add(queue)
    await requesting
    assert (await queue.get(Lookup(job_id, None))).worker_id == worker.id
    assert queue.roster._waiting == {}


async def test_waits_are_limited(driver: MemoryDriver) -> None:
    """A wait beyond the limit is refused, whatever it is for; one that ended makes room, however it ended."""
    async with running(driver, max_waits=2) as queue:
        job_id = await add(queue)
        token = (await take(queue)).token
        waits = [
            asyncio.create_task(queue.request(KEYS, confirm=False, wait=LONG)),
            asyncio.create_task(queue.wait_for_end(Lookup(job_id, None), LONG)),
        ]
        await turns()
        assert queue.waits == 2
        refused = queue.request(KEYS, confirm=False, wait=0), queue.wait_for_end(Lookup(job_id, None), 0)
        for wait in (*refused, queue.wait_while_running(token, 0)):
            with pytest.raises(Unavailable, match=r"^too many waiting requests$") as raised:
                await wait
            assert raised.value.details == {"limit": 2}
        waits[0].cancel()
        await asyncio.wait([waits[0]])
        assert await queue.request(KEYS, confirm=False, wait=0) is None
        waits[1].cancel()
        await asyncio.wait([waits[1]])
        assert queue.waits == 0


async def test_a_handover_is_limited_only_if_it_is_confirmed(queue: JobQueue, driver: MemoryDriver) -> None:
    """An attempt of a worker that promised to confirm lives for the handover time, any other for its lease."""
    promised = (await add(queue), await take(queue, confirm=True))
    plain = (await add(queue), await take(queue))
    await driver.shift_clock(queue.options.handover_timeout + 1)
    await driver.advance(10)
    assert (await queue.get(Lookup(promised[0], None))).state is JobState.READY
    assert (await queue.get(Lookup(plain[0], None))).state is JobState.RUNNING
    await driver.shift_clock(queue.options.heartbeat_timeout)
    await driver.advance(10)
    assert (await queue.get(Lookup(plain[0], None))).state is JobState.READY


async def test_a_handover_that_expires_is_noticed_in_time(driver: MemoryDriver) -> None:
    """Without any sweep the job of a worker that does not confirm is handed to the next one."""
    async with running(driver, handover_timeout=0.05) as queue:
        await add(queue)
        first = await take(queue, confirm=True)
        second = await take(queue)
        assert (second.job_id, second.attempt) == (first.job_id, 2)


async def test_a_delivery_restarts_the_handover(queue: JobQueue, driver: MemoryDriver) -> None:
    """When the answer has been written, an unconfirmed attempt has its full handover time again."""
    job_id = await add(queue)
    token = (await take(queue, confirm=True)).token
    for _ in range(3):
        await driver.shift_clock(queue.options.handover_timeout * 0.75)
        await queue.delivered(token)
    await driver.advance(10)
    assert (await queue.get(Lookup(job_id, None))).state is JobState.RUNNING
    await driver.shift_clock(queue.options.handover_timeout + 1)
    await driver.advance(10)
    assert (await queue.get(Lookup(job_id, None))).state is JobState.READY


async def test_an_undelivered_job_is_released(queue: JobQueue) -> None:
    """A job that could not be delivered is ready again, and does not count as tried."""
    job_id = await add(queue)
    queue.release_undelivered((await take(queue)).token)
    second = await take(queue)
    assert second.job_id == job_id
    assert (await queue.get(Lookup(job_id, None))).retries == 0


async def test_a_release_that_fails_is_logged(queue: JobQueue, caplog: pytest.LogCaptureFixture) -> None:
    """If an undelivered job cannot be released, the log says that its lease will do it."""
    release = queue._writes.release._call

    async def fail(_tokens: Sequence[UUID]) -> Any:
        raise Unavailable("away")

    queue._writes.release._call = fail
    with caplog.at_level(logging.WARNING):
        queue.release_undelivered(new_id())
        await queue._writes.release.close()
        await turns(2)
    queue._writes.release._call = release
    assert caplog.messages == ["releasing an undelivered job failed; it is requeued when its lease expires: away"]


async def test_a_wait_for_an_end(queue: JobQueue) -> None:
    """A wait for a job's end is answered when it ends, or with the job as it is when the time is up."""
    job_id = await add(queue)
    assert (await queue.wait_for_end(Lookup(job_id, None), 0)).state is JobState.READY
    waiting = asyncio.create_task(queue.wait_for_end(Lookup(job_id, None), 0.99))
    token = (await take(queue)).token
    assert not waiting.done()
    await queue.finish(token, b"1", failed=False)
    assert (await waiting).state is JobState.FINISHED
    assert (await queue.wait_for_end(Lookup(job_id, None), LONG)).state is JobState.FINISHED
    with pytest.raises(JobNotFound):
        await queue.wait_for_end(Lookup(new_id(), None), LONG)


async def test_a_wait_for_an_end_that_a_dependency_brings(queue: JobQueue) -> None:
    """A wait for a job is answered when another job's cancel ends it."""
    first = await add(queue)
    second = await add(queue, dependencies=(first,))
    waiting = asyncio.create_task(queue.wait_for_end(Lookup(second, None), LONG))
    await turns()
    await queue.cancel(Lookup(first, None))
    assert (await waiting).state is JobState.CANCELED


async def test_a_wait_of_a_worker_ends_with_its_attempt(queue: JobQueue) -> None:
    """A worker that waits learns at once that its job was canceled; otherwise it runs on when the time is up."""
    job_id = await add(queue)
    token = (await take(queue)).token
    assert (await queue.wait_while_running(token, 0.01)).state is AttemptState.RUNNING
    waiting = asyncio.create_task(queue.wait_while_running(token, 0.99))
    await turns()
    await queue.cancel(Lookup(job_id, None))
    assert (await waiting).state is AttemptState.CANCELED
    assert (await queue.wait_while_running(token, LONG)).state is AttemptState.CANCELED
    with pytest.raises(TokenNotFound):
        await queue.wait_while_running(new_id(), LONG)


async def test_a_wait_of_a_worker_ends_with_a_requeue(queue: JobQueue) -> None:
    """A worker that waits learns at once that its job was requeued."""
    await add(queue)
    token = (await take(queue)).token
    waiting = asyncio.create_task(queue.wait_while_running(token, LONG))
    await turns()
    await queue.release(token)
    assert (await waiting).state is AttemptState.SUPERSEDED


async def test_draining_answers_waits(queue: JobQueue) -> None:
    """When the queue drains, every wait is answered with the state at that moment, and later ones at once."""
    job_id = await add(queue)
    token = (await take(queue)).token
    waits = (
        asyncio.create_task(queue.wait_for_end(Lookup(job_id, None), LONG)),
        asyncio.create_task(queue.wait_while_running(token, LONG)),
        asyncio.create_task(queue.request(KEYS, confirm=False, wait=LONG)),
    )
    await turns()
    assert not queue.draining
    queue.drain()
    assert queue.draining
    assert (await waits[0]).state is JobState.RUNNING
    assert (await waits[1]).state is AttemptState.RUNNING
    assert await waits[2] is None
    assert (await queue.wait_for_end(Lookup(job_id, None), LONG)).state is JobState.RUNNING
    assert (await queue.wait_while_running(token, LONG)).state is AttemptState.RUNNING


async def test_a_heartbeat_renews(queue: JobQueue, driver: MemoryDriver) -> None:
    """A touch renews the lease and counts as a sign of life of the attempt's worker; progress is stored with it."""
    worker = Worker(new_id(), "x86_64", ("build",))
    job_id = await add(queue)
    token = (await take(queue, worker=worker)).token
    for _ in range(3):
        await driver.shift_clock(queue.options.heartbeat_timeout * 0.75)
        assert (await queue.touch(token)).state is AttemptState.RUNNING
    await driver.advance(10)
    await queue.progress(token, b'{"done": 1}')
    job = await queue.get(Lookup(job_id, None))
    assert (job.state, job.partial) == (JobState.RUNNING, b'{"done": 1}')
    assert [one.id for one in (await queue.roster.page(None, 1000)).workers] == [worker.id]
    await driver.shift_clock(queue.options.worker_timeout + 1)
    assert (await queue.roster.page(None, 1000)).workers == ()
    await queue.touch(token)
    assert [one.id for one in (await queue.roster.page(None, 1000)).workers] == [worker.id]


async def test_a_heartbeat_of_nobody(queue: JobQueue) -> None:
    """An attempt whose worker did not say who it is can be renewed, and makes no worker known."""
    await add(queue)
    assert (await queue.touch((await take(queue)).token)).worker_id is None
    assert (await queue.roster.page(None, 1000)).workers == ()


ENDS: list[tuple[str, type[ComposerdError], dict[str, str]]] = [
    ("finished", AttemptFinished, {"state": "finished"}),
    ("canceled", AttemptCanceled, {"state": "canceled"}),
    ("superseded", AttemptSuperseded, {"state": "superseded"}),
    ("unknown", TokenNotFound, {}),
]


@pytest.mark.parametrize(("how", "error", "details"), ENDS, ids=[end[0] for end in ENDS])
async def test_an_attempt_that_is_over(
    queue: JobQueue, how: str, error: type[ComposerdError], details: dict[str, str]
) -> None:
    """Progress, a release and a file of an attempt that is over are refused with an error that tells its state."""
    token = await ended_attempt(queue, how)
    artifact = Artifact("a", 1, "00", "a/1/x")
    for call in (queue.progress(token, b"1"), queue.uploads.attach(Attachment(token, artifact)), queue.release(token)):
        with pytest.raises(error) as raised:
            await call
        assert type(raised.value) is error
        assert raised.value.details == details


@pytest.mark.parametrize(
    ("how", "error", "details"),
    [("finished", ResultConflict, {}), *ENDS[1:]],
    ids=["conflict", "canceled", "superseded", "unknown"],
)
async def test_an_outcome_that_is_refused(
    queue: JobQueue, how: str, error: type[ComposerdError], details: dict[str, str]
) -> None:
    """A different outcome of a finished attempt, and any outcome of one that is over otherwise, is refused."""
    token = await ended_attempt(queue, how)
    with pytest.raises(error) as raised:
        await queue.finish(token, b"2", failed=False)
    assert type(raised.value) is error
    assert raised.value.details == details


def test_a_running_attempt_is_not_refused() -> None:
    """The check of an attempt passes one that is running."""
    check_running(Attempt(AttemptState.RUNNING))


async def test_an_outcome_is_accepted_once(queue: JobQueue) -> None:
    """A repeated outcome is accepted again, and the job and its result are stored."""
    job_id = await add(queue)
    token = (await take(queue)).token
    for _ in range(2):
        await queue.finish(token, b'{"job_error": 1}', failed=True)
    job = await queue.get(Lookup(job_id, None))
    assert job.state is JobState.FAILED
    assert await queue.results([job_id]) == [b'{"job_error": 1}']
    assert await queue.payload(job, PayloadKind.RESULT) == b'{"job_error": 1}'


async def test_artifacts_appear_with_the_end(queue: JobQueue) -> None:
    """Attached files are the job's when it has ended; a file that replaces another one names its location."""
    job_id = await add(queue)
    token = (await take(queue)).token
    first, second = (Artifact("disk", 1, "00", f"a/1/{n}") for n in range(2))
    assert (await queue.uploads.attach(Attachment(token, first))).replaced is None
    assert (await queue.uploads.attach(Attachment(token, second))).replaced == "a/1/0"
    assert await queue.artifacts(await queue.listed(Lookup(job_id, None))) == ()
    await queue.finish(token, b"1", failed=False)
    assert await queue.artifacts(await queue.listed(Lookup(job_id, None))) == (second,)


async def test_deleting_jobs(queue: JobQueue) -> None:
    """A job that has ended can be deleted, which listeners learn; any other job is refused."""
    removed: list[UUID] = []
    job_id = await add(queue)
    with pytest.raises(JobNotEnded):
        await queue.delete(Lookup(job_id, None))
    with pytest.raises(JobNotFound) as raised:
        await queue.delete(Lookup(unknown := new_id(), None))
    assert raised.value.details == {"id": str(unknown)}
    assert (await queue.cancel(Lookup(job_id, None))).state is JobState.CANCELED
    queue.on_removed = removed.extend
    await queue.delete(Lookup(job_id, None))
    assert removed == [job_id]
    with pytest.raises(JobNotFound) as raised:
        await queue.get(Lookup(job_id, None))
    assert raised.value.details == {"id": str(job_id)}


async def test_a_job_that_has_ended_cannot_be_canceled(queue: JobQueue) -> None:
    """A cancel of a job that has finished is refused."""
    job_id = await add(queue)
    await queue.finish((await take(queue)).token, b"1", failed=False)
    with pytest.raises(JobEnded):
        await queue.cancel(Lookup(job_id, None))


async def test_jobs_are_listed(queue: JobQueue) -> None:
    """A page of jobs is that of the driver."""
    ids = [await add(queue) for _ in range(3)]
    page = await queue.list(JobFilter(), None, 2)
    assert [job.id for job in page.jobs] == [ids[2], ids[1]]
    assert [job.id for job in (await queue.list(JobFilter(), page.next, 2)).jobs] == [ids[0]]

"""The reasons why a job is not running."""

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import msgspec
import pytest

from composerd.driver.guard import Guard
from composerd.errors import JobNotFound
from composerd.ids import new_id
from composerd.models import Job, JobState, NewJob, Worker
from composerd.queue import JobQueue, Lookup, QueueOptions, explain, keys_for
from composerd.queue import why as why_module
from composerd.queue.why import MAX_AHEAD, busy_reason, delay_reason, queue_reason
from composerd_fs import MemoryDriver

OPTIONS = QueueOptions(
    heartbeat_timeout=120.0, handover_timeout=10.0, sweep_interval=5.0, worker_timeout=3600.0, max_waits=100
)
NOW = datetime(2026, 3, 1, 11, 55, 53, tzinfo=UTC)


@pytest.fixture
async def queue() -> AsyncIterator[JobQueue]:
    """Return a queue over an empty storage."""
    driver = MemoryDriver()
    await driver.start()
    async with JobQueue(Guard(driver), OPTIONS).running() as queue:
        yield queue


async def add(queue: JobQueue, **fields: Any) -> NewJob:
    """Submit a job."""
    job = NewJob(id=new_id(), type="build", **fields)
    await queue.submit([job])
    return job


@pytest.mark.parametrize(
    ("delay", "reason"),
    [
        (timedelta(minutes=10), "Delayed until 12:05:53 UTC (in 10m)."),
        (timedelta(minutes=9, seconds=50), "Delayed until 12:05:43 UTC (in 9m50s)."),
        (timedelta(seconds=1), "Delayed until 11:55:54 UTC (in 1s)."),
        (timedelta(hours=2, seconds=7), "Delayed until 13:56:00 UTC (in 2h7s)."),
        (timedelta(hours=12), "Delayed until 23:55:53 UTC (in 12h)."),
        (timedelta(days=7), "Delayed until 2026-03-08 11:55:53 UTC (in 7d)."),
        (timedelta(days=1, hours=3, minutes=5), "Delayed until 2026-03-02 15:00:53 UTC (in 1d3h)."),
        (timedelta(0), "Delayed until 11:55:53 UTC; it is about to become ready."),
        (timedelta(seconds=-3), "Delayed until 11:55:50 UTC; it is about to become ready."),
    ],
)
def test_the_reason_of_a_delay(delay: timedelta, reason: str) -> None:
    """A delayed job names the time, the date if it is another day, and how long that is from now."""
    assert delay_reason(NOW + delay, NOW) == reason


@pytest.fixture
def far_east(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the local time be nine hours ahead of UTC."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("far_east")
def test_the_reason_of_a_delay_is_in_utc() -> None:
    """A time of another zone is converted, whatever the local zone is."""
    until = (NOW + timedelta(seconds=1)).astimezone(timezone(timedelta(hours=2)))
    assert delay_reason(until, NOW) == "Delayed until 11:55:54 UTC (in 1s)."


@pytest.mark.parametrize(
    ("ahead", "reason"),
    [
        (0, "It is next in line."),
        (1, "1 job is ahead of it."),
        (11, "11 jobs are ahead of it."),
        (MAX_AHEAD - 1, "9999 jobs are ahead of it."),
        (MAX_AHEAD, "At least 10000 jobs are ahead of it."),
    ],
)
def test_the_jobs_ahead(ahead: int, reason: str) -> None:
    """Singular and plural are right, and a count that reached its limit says so."""
    assert queue_reason(ahead) == reason


@pytest.mark.parametrize(
    ("workers", "busy", "reason"),
    [(1, 1, "1, busy"), (2, 2, "2, both busy"), (3, 3, "3, all busy"), (3, 1, "3, 1 busy"), (2, 0, "2, none busy")],
)
def test_busy_workers(workers: int, busy: int, reason: str) -> None:
    """The number of workers comes first, then how many of them run a job."""
    assert busy_reason(workers, busy) == reason


async def test_a_job_that_waits_for_dependencies(queue: JobQueue) -> None:
    """A job that waits for others names those that have not ended, each once, also if it is delayed as well."""
    first, second = await add(queue), await add(queue)
    last = await add(queue, dependencies=(first.id, second.id, first.id), not_before=3600.0)
    why = await explain(queue, Lookup(last.id, None))
    assert (why.reason, why.blocked_by) == ("Waiting for 2 dependencies to end.", (first.id, second.id))
    assert why.job.id == last.id
    assert why.delayed_until is not None
    claimed = await queue.request(keys_for("", ["build"], "x86_64"), confirm=False, wait=0)
    assert claimed is not None
    await queue.finish(claimed.token, b"1", failed=False)
    why = await explain(queue, Lookup(last.id, None))
    assert (why.reason, why.blocked_by) == ("Waiting for 1 dependency to end.", (second.id,))
    assert (why.workers, why.ahead) == (None, None)


async def test_a_delayed_job(queue: JobQueue) -> None:
    """A job that waits only for its time says when that is."""
    job = await add(queue, not_before=3600.0)
    why = await explain(queue, Lookup(job.id, None))
    assert why.reason.startswith("Delayed until ")
    assert why.job.id == job.id
    assert why.delayed_until == (await queue.get(Lookup(job.id, None))).not_before


async def test_a_ready_job(queue: JobQueue) -> None:
    """A ready job says what is ahead of it, and which workers take jobs of its type, channel and arch."""
    first = await add(queue)
    assert (await explain(queue, Lookup(first.id, None))).reason == "No live worker is known for type build."
    worker = Worker(new_id(), "x86_64", ("build",))
    others = [
        Worker(new_id(), "x86_64", ("test",)),
        Worker(new_id(), "x86_64", ("build",), channel="nightly"),
    ]
    aarch64 = Worker(new_id(), "aarch64", ("build",))
    await queue.driver.seen([worker, aarch64, *others])
    second = await add(queue, arch="x86_64")
    why = await explain(queue, Lookup(first.id, None))
    assert (why.reason, why.workers, why.ahead) == ("It is next in line. Workers for type build: 2, none busy.", 2, 0)
    await queue.request(keys_for("", ["build"], "aarch64"), worker=worker, confirm=False, wait=0)
    why = await explain(queue, Lookup(second.id, None))
    assert why.reason == "It is next in line. Workers for type build, arch x86_64: 1, busy."
    third = await add(queue)
    fourth = await add(queue)
    await queue.request(keys_for("", ["build"], "aarch64"), worker=aarch64, confirm=False, wait=0)
    why = await explain(queue, Lookup(fourth.id, None))
    assert (why.job.id, why.workers, why.ahead) == (fourth.id, 2, 0)
    fifth = await add(queue)
    why = await explain(queue, Lookup(fifth.id, None))
    assert why.reason == "1 job is ahead of it. Workers for type build: 2, both busy."
    assert (await queue.get(Lookup(third.id, None))).state is JobState.RUNNING
    third = await add(queue, channel="nightly", arch="aarch64")
    assert (await explain(queue, Lookup(third.id, None))).reason == (
        "No live worker is known for type build, arch aarch64, channel nightly."
    )


async def test_jobs_ahead_are_counted_up_to_a_limit(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more jobs are counted than the limit says."""
    monkeypatch.setattr(why_module, "MAX_AHEAD", 2)
    await queue.driver.seen([Worker(new_id(), "x86_64", ("build",))])
    jobs = [await add(queue) for _ in range(4)]
    last = await explain(queue, Lookup(jobs[3].id, None))
    assert (last.ahead, last.reason) == (2, "At least 2 jobs are ahead of it. Workers for type build: 1, none busy.")


async def test_a_job_that_is_not_in_the_queue(queue: JobQueue) -> None:
    """A running job, an ended one and one that does not exist are told apart."""
    job = await add(queue)
    claimed = await queue.request(keys_for("", ["build"], "x86_64"), confirm=False, wait=0)
    assert claimed is not None
    why = await explain(queue, Lookup(job.id, None))
    assert (why.reason, why.job.id) == ("It is running.", job.id)
    await queue.finish(claimed.token, b"1", failed=False)
    why = await explain(queue, Lookup(job.id, None))
    assert (why.reason, why.job.id) == ("It has ended: finished.", job.id)
    with pytest.raises(JobNotFound):
        await explain(queue, Lookup(new_id(), None))


async def test_a_job_whose_dependencies_have_just_ended(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that is still waiting although all its dependencies have ended is about to become ready."""
    first = await add(queue)
    second = await add(queue, dependencies=(first.id,))
    found = await queue.driver.get([first.id, second.id])
    assert found[0] is not None
    ended = msgspec.structs.replace(found[0], state=JobState.FINISHED)

    async def listed(job_ids: Sequence[UUID]) -> Sequence[Job | None]:
        return [ended if one == first.id else found[1] for one in job_ids]

    monkeypatch.setattr(queue.driver, "listed", listed)
    why = await explain(queue, Lookup(second.id, None))
    assert why.reason == "All its dependencies have ended; it is about to become ready."
    assert (why.job.id, why.blocked_by, why.delayed_until) == (second.id, (), None)

"""Why a job is not running: what it waits for, in a sentence and in figures."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from composerd.models import Job, JobState, Worker
from composerd.queue.jobqueue import JobQueue

COUNTED = 10_000
"""How far the jobs that go first are counted."""


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """What keeps a job from running."""

    job: Job
    reason: str
    blocked_by: tuple[UUID, ...] = ()
    """Dependencies that have not ended."""
    delayed_until: datetime | None = None
    workers: int | None = None
    """Live workers that take such jobs; None unless it is ready."""
    ahead: int | None = None
    """Jobs alike that go first, up to `COUNTED`; None unless it is ready."""


async def explain(queue: JobQueue, job_id: UUID) -> Why:
    """Say why. Raises `JobNotFound`."""
    job = await queue.get(job_id)
    match job.state:
        case JobState.WAITING:
            return await _waiting(queue, job)
        case JobState.READY:
            return await _ready(queue, job)
        case JobState.RUNNING:
            return Why(job=job, reason="It is running.")
        case _:
            return Why(job=job, reason=f"It has ended: {job.state.value}.")


async def _waiting(queue: JobQueue, job: Job) -> Why:
    named = tuple(dict.fromkeys(job.dependencies))
    found: Sequence[Job | None] = await queue.driver.get(named) if named else ()
    unended = tuple(one.id for one in found if one is not None and not one.state.ended)
    if unended:
        jobs = "a job" if len(unended) == 1 else f"{len(unended)} jobs"
        return Why(job=job, reason=f"It waits for {jobs} to end.", blocked_by=unended, delayed_until=job.not_before)
    if job.not_before is not None:
        return Why(job=job, reason="Its time has not come.", delayed_until=job.not_before)
    return Why(job=job, reason="What it waited for has ended; it is about to become ready.")


async def _ready(queue: JobQueue, job: Job) -> Why:
    takers = sum(_takes(worker, job) for worker in await queue.roster.workers())
    ahead = await queue.driver.ahead(job.id, COUNTED)
    kind = (
        f"type {job.type}"
        + (f", arch {job.arch}" if job.arch else "")
        + (f", channel {job.channel}" if job.channel else "")
    )
    if takers == 0:
        reason = f"No live worker is known for {kind}."
    elif ahead:
        jobs = "1 job goes" if ahead == 1 else f"{ahead} jobs go"
        reason = f"{jobs} first, and {takers} known worker(s) for {kind} may be busy."
    else:
        reason = f"It is next; {takers} known worker(s) for {kind} are busy or about to ask."
    return Why(job=job, reason=reason, workers=takers, ahead=ahead)


def _takes(worker: Worker, job: Job) -> bool:
    return job.type in worker.types and worker.channel == job.channel and job.arch in (None, worker.arch)

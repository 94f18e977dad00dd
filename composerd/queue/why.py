"""The reason why a job is not running: a sentence for people, and the figures behind it."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import msgspec

from composerd.models import Job, JobState, Worker, WorkerCursor
from composerd.queue.jobqueue import JobQueue
from composerd.queue.lookups import Lookup
from composerd.quotas import Quota

MAX_AHEAD = 10_000
"""Number up to which the jobs ahead of a job are counted."""

MAX_WORKERS = 10_000
"""Number of workers of a channel that are looked at, those first that were seen last."""

WORKERS_AT_ONCE = 500


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """The reason why a job is not running."""

    job: Job
    reason: str
    """One or two sentences."""
    blocked_by: tuple[UUID, ...] = ()
    """The dependencies that have not ended."""
    delayed_until: datetime | None = None
    """The time before which the job may not start."""
    workers: int | None = None
    """The number of known workers that take such jobs; None unless the job is ready."""
    paused: int | None = None
    """The number of known workers that would take such jobs, but have a problem; None unless the job is ready."""
    ahead: int | None = None
    """The number of ready jobs of its key that are ahead of it, up to `MAX_AHEAD`; None unless the job is ready."""


class _Takers(msgspec.Struct):
    """The workers that take a job."""

    workers: int = 0
    """The number of those that have no problem."""
    busy: int = 0
    """The number of those among them that run a job."""
    paused: int = 0
    """The number of those that have a problem."""
    problem: str = ""
    """The problem of the one that was seen last."""

    def count(self, worker: Worker) -> None:
        """Count a worker, after those that were seen later."""
        if worker.problem is not None:
            self.problem = self.problem or worker.problem
            self.paused += 1
        else:
            self.workers += 1
            self.busy += bool(worker.jobs)


async def explain(queue: JobQueue, wanted: Lookup) -> Why:
    """Return why a job is not running. Raises `JobNotFound`.

    The figures are read one after the other, so they may be of slightly different moments.
    """
    job = await queue.get(wanted)
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
    found: Sequence[Job | None] = await queue.driver.listed(named) if named else ()
    unended = tuple(one.id for one in found if one is not None and not one.state.ended)
    if unended:
        dependencies = "1 dependency" if len(unended) == 1 else f"{len(unended)} dependencies"
        reason = f"Waiting for {dependencies} to end."
        return Why(job=job, reason=reason, blocked_by=unended, delayed_until=job.not_before)
    if job.not_before is not None:
        reason = delay_reason(job.not_before, datetime.now(UTC))
        return Why(job=job, reason=reason, delayed_until=job.not_before)
    return Why(job=job, reason="All its dependencies have ended; it is about to become ready.")


async def _ready(queue: JobQueue, job: Job) -> Why:
    takers = await _takers(queue, job)
    ahead = await queue.driver.ahead(job.id, MAX_AHEAD)
    kind = (
        f"type {job.type}"
        + (f", arch {job.arch}" if job.arch else "")
        + (f", channel {job.channel}" if job.channel else "")
    )
    if takers.workers:
        reason = f"{queue_reason(ahead)} Workers for {kind}: {busy_reason(takers.workers, takers.busy)}."
    elif takers.paused:
        reason = f"No live worker for {kind} asks for jobs."
    else:
        reason = f"No live worker is known for {kind}."
    if takers.paused:
        reason += f" {paused_reason(takers.paused, takers.problem)}"
    if queue.quotas is not None and (quota := await queue.quotas.used_up(job.channel, Quota.RUNNING_JOBS)):
        reason = f"{quota_reason(*quota)} {reason}"
    return Why(job=job, reason=reason, workers=takers.workers, paused=takers.paused, ahead=ahead)


def delay_reason(until: datetime, now: datetime) -> str:
    """Return a sentence that says until when a job is delayed, in UTC, with the date if that is not today."""
    until = until.astimezone(UTC)
    time = until.strftime("%H:%M:%S" if until.date() == now.date() else "%Y-%m-%d %H:%M:%S")
    seconds = round((until - now).total_seconds())
    if seconds <= 0:
        return f"Delayed until {time} UTC; it is about to become ready."
    units = (("d", seconds // 86400), ("h", seconds // 3600 % 24), ("m", seconds // 60 % 60), ("s", seconds % 60))
    longest = [f"{count}{unit}" for unit, count in units if count][:2]
    return f"Delayed until {time} UTC (in {''.join(longest)})."


def quota_reason(used: int, limit: int) -> str:
    """Return a sentence that says that a tenant may run no more jobs."""
    return f"The quota of running jobs is used up: {used} of {limit} run."


def queue_reason(ahead: int) -> str:
    """Return a sentence that says how many jobs are ahead of a ready job."""
    if ahead == 0:
        return "It is next in line."
    if ahead == 1:
        return "1 job is ahead of it."
    return f"{'At least ' if ahead >= MAX_AHEAD else ''}{ahead} jobs are ahead of it."


def busy_reason(workers: int, busy: int) -> str:
    """Return how many workers there are, and how many of them run a job: "2, both busy"."""
    if busy < workers:
        return f"{workers}, {busy or 'none'} busy"
    return f"{workers}, {'both ' if workers == 2 else 'all ' if workers > 2 else ''}busy"


def paused_reason(workers: int, problem: str) -> str:
    """Return a sentence that says how many workers have a problem, and the one of the worker that was seen last."""
    if workers == 1:
        return f"1 worker for it is paused: {problem.rstrip('.')}."
    return f"{workers} workers for it are paused, the one that was seen last because of: {problem.rstrip('.')}."


async def _takers(queue: JobQueue, job: Job) -> _Takers:
    """Count the workers that take a job; looks at the `MAX_WORKERS` of its channel that were seen last."""
    takers = _Takers()
    after: WorkerCursor | None = None
    for _ in range(MAX_WORKERS // WORKERS_AT_ONCE):
        page = await queue.roster.page(after, WORKERS_AT_ONCE, job.channel)
        for worker in page.workers:
            if _takes(worker, job):
                takers.count(worker)
        after = page.next
        if after is None:
            break
        await asyncio.sleep(0)  # so that the event loop can go on
    return takers


def _takes(worker: Worker, job: Job) -> bool:
    return job.type in worker.types and job.arch in (None, worker.arch)

"""The reading methods of the contract on the table. They change nothing, and do no I/O."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Generic, NamedTuple, TypeVar
from uuid import UUID

from msgspec.structs import replace

from composerd.driver import Usage
from composerd.errors import Unavailable
from composerd.models import Artifact, IdPage, Job, JobFilter, JobPage, JobState, Key, PayloadKind, PayloadRef, Worker
from composerd_fs.journal.entries import Payload
from composerd_fs.state.job import JobRecord
from composerd_fs.state.table import Table
from composerd_fs.state.usage import UsageCounts, size_of

T = TypeVar("T")

SEARCHED = 10_000
"""Largest number of submissions that a call of `Driver.list` searches, of one channel if the filter has one."""

SEARCHED_AT_ONCE = 1000
"""Largest number of submissions that are searched before other tasks get a turn."""

JOBS_AT_ONCE = 100
"""Largest number of jobs that are read before other tasks get a turn."""

WORK_AT_ONCE = 256 * 1024
"""Number of bytes of archived jobs that are searched before other tasks get a turn."""

_DUMPED_AT_ONCE = 16 * 1024 * 1024
"""Largest number of bytes of payloads in a part of a dump, unless a single job has more."""


def jobs(table: Table, job_ids: Sequence[UUID]) -> list[Job | None]:
    """Return jobs; see `Driver.get`."""
    found = map(table.jobs.find, job_ids)
    return [None if job is None else job.job(table.jobs.dependents_of(job).ids) for job in found]


def listed(table: Table, job_ids: Sequence[UUID]) -> list[Job | None]:
    """Return jobs as a listing shows them; see `Driver.listed`."""
    found = map(table.jobs.find_listed, job_ids)
    return [None if job is None else job.job(listed=True) for job in found]


def dependents(table: Table, job_id: UUID, cursor: int | None, limit: int) -> IdPage | None:
    """Return a page of the dependents of a job; see `Driver.dependents`."""
    job = table.jobs.find(job_id)
    return None if job is None else table.jobs.dependents_of(job, cursor or 0, limit)


class WithPayloads(NamedTuple, Generic[T]):
    """The answer to a query, and payloads; those that are locations are still to be read."""

    answer: T
    payloads: Sequence[Payload | None]


def payloads(table: Table, refs: Sequence[PayloadRef]) -> WithPayloads[None]:
    """Find payloads; see `Driver.payload`."""
    found = [(table.jobs.find(ref.job_id), ref.kind) for ref in refs]
    return WithPayloads(
        None,
        [None if job is None else job.args if kind is PayloadKind.ARGS else _result(job) for job, kind in found],
    )


def payloads_up_to(table: Table, refs: Sequence[PayloadRef], limit: int) -> WithPayloads[list[int | None]]:
    """Find payloads; see `Driver.payloads_up_to`. The answer has the sizes of those that are left out."""
    found = payloads(table, refs).payloads
    sizes = [size_of(payload) for payload in found]
    fits = [total <= limit for total in accumulate(sizes)]
    return WithPayloads(
        [None if payload is None or fit else size for payload, size, fit in zip(found, sizes, fits, strict=True)],
        [payload if fit else None for payload, fit in zip(found, fits, strict=True)],
    )


def artifacts(table: Table, job_ids: Sequence[UUID]) -> list[tuple[Artifact, ...]]:
    """Return the files of jobs by name; see `Driver.artifacts`."""
    found = map(table.jobs.find, job_ids)
    return [() if job is None else tuple(sorted(job.files, key=_name_of)) for job in found]


def page(table: Table, wanted: JobFilter, cursor: int | None, limit: int) -> JobPage:
    """Return a part of a listing that is quickly found; see `Driver.list`."""
    jobs = table.jobs
    end = table.last_sequence + 1 if cursor is None else min(cursor, table.last_sequence + 1)
    sequences = jobs.channels.before(wanted.channel, end) if wanted.channel else range(end - 1, 0, -1)
    work = 0
    found: list[Job] = []
    for searched, sequence in enumerate(sequences):
        if len(found) == limit or searched == SEARCHED_AT_ONCE or work >= WORK_AT_ONCE:
            return JobPage(tuple(found), sequence + 1)
        work += jobs.size_at(sequence)
        seen = jobs.state_and_key_at(sequence)
        if seen is not None and _passes(*seen, wanted):
            job = jobs.at_listed(sequence)
            assert job is not None, "the job has just been seen"
            found.append(job.job(listed=True))
    return JobPage(tuple(found), None)


def ahead(table: Table, job_id: UUID, limit: int) -> int:
    """Return how many jobs are ahead of a ready job; see `Driver.ahead`."""
    job = table.jobs.live.get(job_id.int)  # an archived job is not ready
    return table.ready.ahead(job, limit) if job is not None and job.state is JobState.READY else 0


def usage(table: Table, channels: Sequence[str]) -> list[Usage]:
    """Return what the jobs of channels use; see `Driver.usage`."""
    return [table.jobs.usage.of(channel) for channel in channels]


def counted_usage(table: Table) -> UsageCounts:
    """Count what the jobs of all channels use. It takes as long as to read all jobs."""
    counts = UsageCounts()
    for chunk in table.jobs.by_sequence.chunks():
        for sequence, _ in table.jobs.by_sequence.chunk(chunk):
            job = table.jobs.at_listed(sequence)
            assert job is not None, "the chunk has the job"
            counts.count_job(job)
    return counts


def with_jobs(table: Table, workers: Sequence[Worker]) -> list[Worker]:
    """Return workers together with the jobs that they run."""
    running: dict[UUID, set[UUID]] = {worker.id: set() for worker in workers}
    for attempt in table.leases:
        if attempt.worker_id in running:
            running[attempt.worker_id].add(attempt.job.id)
    return [replace(worker, jobs=tuple(sorted(running[worker.id]))) for worker in workers]


def dump_part(table: Table, chunk: int, last: int) -> WithPayloads[list[tuple[JobRecord, tuple[UUID, ...]]]]:
    """Return the first jobs of a chunk after the sequence `last`, as many as one part of a dump has.

    They come with their dependents, and with their payloads: for each job the args and the result, one after the other.
    """
    found: list[tuple[JobRecord, tuple[UUID, ...]]] = []
    payloads: list[Payload | None] = []
    size = 0
    for sequence, _ in table.jobs.by_sequence.chunk(chunk):
        job = table.jobs.at(sequence) if sequence > last else None
        if job is None:
            continue
        found.append((job, table.jobs.dependents_of(job).ids))
        payloads += (job.args, _result(job))
        size += size_of(job.args) + size_of(job.result)
        if size >= _DUMPED_AT_ONCE:
            break
    return WithPayloads(found, payloads)


def _result(job: JobRecord) -> Payload | None:
    """Return the result of a job. Raises `Unavailable` if it has to have one and has none."""
    if job.result is None and job.state.has_result:
        raise Unavailable(f"the result of the job {job.id} is missing in the journal")
    return job.result


def _name_of(artifact: Artifact) -> str:
    return artifact.name


def _passes(state: JobState, key: Key, wanted: JobFilter) -> bool:
    return (
        (wanted.state is None or state is wanted.state)
        and (not wanted.states or state in wanted.states)
        and (wanted.type is None or key.type == wanted.type)
        and (wanted.channel is None or key.channel == wanted.channel)
        and (wanted.arch is None or key.arch == wanted.arch)
    )

"""What can be seen of the table without changing it: jobs, pages of them, where payloads are, artifacts. No I/O."""

from collections.abc import Sequence
from uuid import UUID

from msgspec.structs import replace

from composerd.models import Artifact, Job, JobFilter, JobPage, JobState, Key, PayloadKind, PayloadRef, Worker
from composerd_fs.journal.entries import Payload
from composerd_fs.state import archive
from composerd_fs.state.job import Row
from composerd_fs.state.table import Table
from composerd_fs.state.views import job_of

LOOKED_AT_ONCE = 10_000
"""How many submissions a call of `page` looks at."""


def jobs(table: Table, job_ids: Sequence[UUID]) -> list[Job | None]:
    """See `Driver.get`."""
    return [
        None if (row := table.find(job_id)) is None else job_of(row, table.dependents_of(row)) for job_id in job_ids
    ]


def payloads(table: Table, refs: Sequence[PayloadRef]) -> list[Payload | None]:
    """Where payloads are."""
    return [
        None if (row := table.find(ref.job_id)) is None else row.args if ref.kind is PayloadKind.ARGS else row.result
        for ref in refs
    ]


def artifacts(table: Table, job_ids: Sequence[UUID]) -> list[tuple[Artifact, ...]]:
    """See `Driver.artifacts`."""
    return [_artifacts(table.find(job_id)) for job_id in job_ids]


def page(table: Table, chosen: JobFilter, cursor: int | None, limit: int) -> JobPage:
    """See `Driver.list`."""
    first = table.last_seq if cursor is None else min(cursor - 1, table.last_seq)
    last = max(first - LOOKED_AT_ONCE, 0)
    found: list[Job] = []
    seq = first
    while seq > last and len(found) < limit:
        row = table.by_seq.get(seq)
        if isinstance(row, bytes):
            packed = archive.decode(row)
            shape = table.archive.shapes[packed.shape]
            if _passes(shape.state, shape.key, chosen):
                found.append(job_of(table.archive.unpack(packed), listed=True))
        elif row is not None and _passes(row.state, row.key, chosen):
            found.append(job_of(row, listed=True))
        seq -= 1
    return JobPage(tuple(found), seq + 1 if seq > 0 else None)


def ahead(table: Table, job_id: UUID, limit: int) -> int:
    """See `Driver.ahead`."""
    row = table.rows.get(job_id)  # a packed one is not ready
    return table.ready.ahead(row, limit) if row is not None and row.state is JobState.READY else 0


def with_jobs(table: Table, workers: Sequence[Worker]) -> Sequence[Worker]:
    """Workers with the jobs they run."""
    running: dict[UUID, set[UUID]] = {worker.id: set() for worker in workers}
    for run in table.leases:
        if run.worker in running:
            running[run.worker].add(run.row.id)
    return [replace(worker, jobs=tuple(sorted(running[worker.id]))) for worker in workers]


def _artifacts(row: Row | None) -> tuple[Artifact, ...]:
    if row is None:
        return ()
    if row.state is JobState.RUNNING and row.runs and row.runs[-1].artifacts:
        return tuple(sorted(row.runs[-1].artifacts.values(), key=lambda artifact: artifact.name))
    return row.artifacts


def _passes(state: JobState, key: Key, chosen: JobFilter) -> bool:
    return (
        (chosen.state is None or state is chosen.state)
        and (chosen.type is None or key.type == chosen.type)
        and (chosen.channel is None or key.channel == chosen.channel)
        and (chosen.arch is None or key.arch == chosen.arch)
    )

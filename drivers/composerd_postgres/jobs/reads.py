"""What can be seen of a storage without changing it: jobs, pages of them, payloads, artifacts, workers, everything."""

from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

from composerd.driver import StorageCheck, StoredAttempt, StoredJob
from composerd.models import Artifact, AttemptState, Job, JobFilter, JobPage, JobState, PayloadRef, Worker
from composerd_postgres.db.connection import Transaction
from composerd_postgres.jobs.decisions import encode
from composerd_postgres.jobs.rows import (
    WIDTH,
    artifact_of,
    job_of,
    new_job_of,
    row_of,
    stored_attempt_of,
    utc,
)
from composerd_postgres.session import Session
from composerd_postgres.sql.statements import array

LOOKED_AT_ONCE = 10_000
"""How many jobs a call of `page` looks at when it has to choose."""

DUMPED_AT_ONCE = 100
BYTES_DUMPED_AT_ONCE = 16 * 1024 * 1024

NEWEST = 2**63 - 1


async def jobs(session: Session, job_ids: Sequence[UUID]) -> list[Job | None]:
    """See `Driver.get`."""
    if not job_ids:
        return []
    records = await session.connections.fetch(session.statements["get"], {"ids": array(job_ids)})
    found = {record[0]: job_of(row_of(record), record[WIDTH], record[WIDTH + 1]) for record in records}
    return [found.get(job_id) for job_id in job_ids]


async def page(session: Session, chosen: JobFilter, cursor: int | None, limit: int) -> JobPage:
    """See `Driver.list`."""
    chooses = chosen != JobFilter()
    most = LOOKED_AT_ONCE if chooses else limit + 1
    records = await session.connections.fetch(
        session.statements["list"],
        {
            "cursor": NEWEST if cursor is None else cursor,
            "most": most,
            "limit": limit + 1,
            "state": None if chosen.state is None else chosen.state.value,
            "type": chosen.type,
            "channel": chosen.channel,
            "arch": chosen.arch,
        },
    )
    looked_at, least = records[0][:2]
    rows = [row_of(record[2:]) for record in records if record[2] is not None]
    if len(rows) > limit:
        rows = rows[:limit]
        following = rows[-1].seq if rows else cursor
    else:
        following = least if looked_at == most else None
    return JobPage(tuple(job_of(row) for row in rows), following)


async def payloads(session: Session, refs: Sequence[PayloadRef]) -> list[bytes | None]:
    """See `Driver.payload`."""
    if not refs:
        return []
    asked = encode([{"id": ref.job_id, "kind": ref.kind.value} for ref in refs])
    records = await session.connections.fetch(session.statements["payloads"], {"refs": asked})
    return [None if body is None else bytes(body) for (body,) in records]


async def artifacts(session: Session, job_ids: Sequence[UUID]) -> list[tuple[Artifact, ...]]:
    """See `Driver.artifacts`."""
    found = await _artifacts(session, job_ids)
    return [tuple(found.get(job_id, ())) for job_id in job_ids]


async def _artifacts(session: Session, job_ids: Sequence[UUID]) -> dict[UUID, list[Artifact]]:
    found: dict[UUID, list[Artifact]] = {}
    for record in await session.connections.fetch(session.statements["artifacts"], {"ids": array(job_ids)}):
        found.setdefault(record[0], []).append(artifact_of(record[1:]))
    return found


async def ahead(session: Session, job_id: UUID, limit: int) -> int:
    """See `Driver.ahead`."""
    parameters = {"id": str(job_id), "limit": limit}
    return int((await session.connections.fetch(session.statements["ahead"], parameters))[0][0])


async def seen(session: Session, workers: Sequence[Worker]) -> None:
    """See `Driver.seen`."""
    if not workers:
        return
    heard = encode(
        [{"id": worker.id, "arch": worker.arch, "types": worker.types, "channel": worker.channel} for worker in workers]
    )
    await session.connections.fetch(session.statements["seen"], session.parameters(workers=heard))


async def workers(session: Session, within: float, ids: Sequence[UUID] | None) -> list[Worker]:
    """See `Driver.workers`."""
    parameters = session.parameters(within=within, ids=None if ids is None else array(ids))
    return [
        Worker(worker_id, arch, tuple(types), channel, utc(seen_at), tuple(running or ()))
        for worker_id, arch, types, channel, seen_at, running in await session.connections.fetch(
            session.statements["workers"], parameters
        )
    ]


async def counts(session: Session) -> dict[str, int]:
    """How many jobs are in each state."""
    found = dict.fromkeys((state.value for state in JobState), 0)
    for state, count in await session.connections.fetch(session.statements["count_jobs"], {}):
        found[state] = count
    return found


async def dump(session: Session) -> AsyncIterator[StoredJob]:
    """See `Driver.dump`."""
    ((last,),) = await session.connections.fetch(session.statements["last_seq"], {})
    after = 0
    while after < last:
        parameters = {"after": after, "last": last, "limit": DUMPED_AT_ONCE}
        sizes = await session.connections.fetch(session.statements["dump_sizes"], parameters)
        seqs: list[int] = []
        weight = 0
        for seq, size in sizes:
            seqs.append(seq)
            weight += size
            if weight >= BYTES_DUMPED_AT_ONCE:
                break
        if not seqs:
            break
        after = seqs[-1]
        for job in await _dump_some(session, seqs):
            yield job


async def _dump_some(session: Session, seqs: Sequence[int]) -> list[StoredJob]:
    statements = session.statements
    async with session.connections.one() as connection:
        transaction = Transaction(connection)  # all of it as it is at one moment
        records = await transaction.begin(
            statements["dump"], {"seqs": array(seqs)}, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
        )
        parameters = {"ids": array(record[0] for record in records)}
        attempts: dict[UUID, list[StoredAttempt]] = {}
        for record in await transaction.fetch(statements["dump_attempts"], parameters):
            attempts.setdefault(record[1], []).append(stored_attempt_of(record))
        files: dict[UUID, list[Artifact]] = {}
        for record in await transaction.fetch(statements["artifacts"], parameters):
            files.setdefault(record[0], []).append(artifact_of(record[1:]))
        await transaction.commit()
    return [_stored(record, attempts.get(record[0], []), files.get(record[0], [])) for record in records]


def _stored(record: Sequence[Any], attempts: list[StoredAttempt], files: list[Artifact]) -> StoredJob:
    row = row_of(record)
    dependents, partial, args, result = record[WIDTH:]
    running = any(attempt.state is AttemptState.RUNNING for attempt in attempts)
    return StoredJob(
        new=new_job_of(row, None if args is None else bytes(args)),
        job=job_of(row, dependents, partial),
        attempts=tuple(attempts),
        result=None if result is None else bytes(result),
        failures=row.failures,
        uncounted_requeues=row.returns,
        artifacts=tuple(files) if running or row.ended else (),
    )


async def check(session: Session) -> StorageCheck:
    """Whether what is stored holds together. The database keeps what each row says; this is about what rows say of each other."""
    orphans = await session.connections.fetch(session.statements["orphans"], {})
    return StorageCheck(
        problems=tuple(f"job {job_id}: {problem}" for problem, job_id in orphans), jobs=await counts(session)
    )

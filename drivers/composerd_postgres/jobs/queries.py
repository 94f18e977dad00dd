"""The methods of the driver that only read: jobs, pages of jobs, payloads, artifacts, workers, dumps and checks."""

from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

from composerd.driver import StorageCheck, StorageInfo, StoredAttempt, StoredJob, Usage
from composerd.driver.timekeeper import dispute
from composerd.errors import Unavailable
from composerd.models import (
    Artifact,
    AttemptState,
    IdPage,
    Job,
    JobFilter,
    JobPage,
    PayloadKind,
    PayloadRef,
)
from composerd_postgres.db.connection import Transaction, repeated
from composerd_postgres.db.durability import SETTINGS, durability
from composerd_postgres.jobs.records import JobRecord, artifact_of, stored_attempt_of
from composerd_postgres.session import Session
from composerd_postgres.sql.payloads import decode_payloads
from composerd_postgres.sql.statements import array, encode

JOBS_READ_BY_A_PAGE = 10_000
"""Largest number of jobs that `page` reads to find those that pass a filter."""

JOBS_OF_A_DUMP = 100
"""Largest number of jobs that one transaction of `dump` reads."""

BYTES_OF_A_DUMP = 16 * 1024 * 1024
"""The size of their payloads at which it reads no further job."""

_SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
"""The beginning of a transaction whose statements all see the same moment."""

NEWEST = 2**63 - 1
"""A cursor before all jobs."""


async def jobs(session: Session, job_ids: Sequence[UUID]) -> list[Job | None]:
    """See `Driver.get`."""
    if not job_ids:
        return []
    rows = await session.connections.fetch(session.statements["get"], {"ids": array(job_ids)})
    found = {row.id: JobRecord.of(row).job(row.dependents, row.partial) for row in rows}
    return [found.get(job_id) for job_id in job_ids]


async def listed(session: Session, job_ids: Sequence[UUID]) -> list[Job | None]:
    """See `Driver.listed`."""
    if not job_ids:
        return []
    rows = await session.connections.fetch(session.statements["listed"], {"ids": array(job_ids)})
    found = {row.id: JobRecord.of(row).job() for row in rows}
    return [found.get(job_id) for job_id in job_ids]


async def dependents(session: Session, job_id: UUID, cursor: int | None, limit: int) -> IdPage | None:
    """See `Driver.dependents`."""
    parameters = {"id": str(job_id), "cursor": cursor or 0, "limit": limit + 1}
    rows = await session.connections.fetch(session.statements["page_of_dependents"], parameters)
    if not rows:
        return None
    found = [row for row in rows if row.dependent is not None]
    ids = tuple(row.dependent for row in found[:limit])
    return IdPage(ids, found[limit].sequence if len(found) > limit else None)


async def page(session: Session, chosen: JobFilter, cursor: int | None, limit: int) -> JobPage:
    """See `Driver.list`."""
    name, whole = ("list_channel", JobFilter(channel=chosen.channel)) if chosen.channel else ("list", JobFilter())
    most = limit + 1 if chosen == whole else JOBS_READ_BY_A_PAGE
    rows = await session.connections.fetch(
        session.statements[name],
        {
            "cursor": NEWEST if cursor is None else cursor,
            "most": most,
            "limit": limit + 1,
            "state": None if chosen.state is None else chosen.state.value,
            "states": array(chosen.states) if chosen.states else None,
            "type": chosen.type,
            "channel": chosen.channel,
            "arch": chosen.arch,
        },
    )
    found = [JobRecord.of(row) for row in rows if row.id is not None]
    if len(found) > limit:
        found = found[:limit]
        following = found[-1].sequence if found else cursor
    else:
        following = rows[0].last_read if rows[0].jobs_read == most else None
    return JobPage(tuple(job.job() for job in found), following)


async def payloads(session: Session, refs: Sequence[PayloadRef]) -> list[bytes | None]:
    """See `Driver.payload`."""
    if not refs:
        return []
    encoded = encode([{"id": ref.job_id, "kind": ref.kind} for ref in refs])
    rows = await session.connections.fetch(session.statements["payloads"], {"refs": encoded})
    for row in rows:
        _check(row.job_id, row.kind, row.body, expected=row.expected)
    return await decode_payloads([row.body for row in rows])


async def payloads_up_to(session: Session, refs: Sequence[PayloadRef], limit: int) -> list[bytes | int | None]:
    """See `Driver.payloads_up_to`."""
    if not refs:
        return []
    encoded = encode([{"id": ref.job_id, "kind": ref.kind} for ref in refs])
    rows = await session.connections.fetch(session.statements["payloads_up_to"], {"refs": encoded, "limit": limit})
    for row in rows:
        _check(row.job_id, row.kind, row.size, expected=row.expected)
    bodies = await decode_payloads([row.body for row in rows])
    return [row.size if body is None else body for row, body in zip(rows, bodies, strict=True)]


async def payload_part(session: Session, ref: PayloadRef, start: int, stop: int) -> bytes | None:
    """See `Driver.payload_part`."""
    values = {"id": ref.job_id, "kind": ref.kind.value, "start": start, "length": stop - start}
    (row,) = await session.connections.fetch(session.statements["payload_part"], values)
    _check(ref.job_id, ref.kind, row.body, expected=row.expected)
    return (await decode_payloads([row.body]))[0]


async def artifacts(session: Session, job_ids: Sequence[UUID]) -> list[tuple[Artifact, ...]]:
    """See `Driver.artifacts`."""
    found: dict[UUID, list[Artifact]] = {}
    for row in await session.connections.fetch(session.statements["artifacts"], {"ids": array(job_ids)}):
        found.setdefault(row.job_id, []).append(artifact_of(row))
    return [tuple(found.get(job_id, ())) for job_id in job_ids]


async def ahead(session: Session, job_id: UUID, limit: int) -> int:
    """See `Driver.ahead`."""
    (row,) = await session.connections.fetch(session.statements["ahead"], {"id": str(job_id), "limit": limit})
    return int(row.count)


async def usage(session: Session, channels: Sequence[str]) -> list[Usage]:
    """See `Driver.usage`."""
    rows = await session.connections.fetch(session.statements["usage"], {"channels": [*channels]})
    found = {row.channel: Usage(row.waiting, row.running, row.payloads, row.artifacts) for row in rows}
    return [found.get(channel, Usage()) for channel in channels]


async def secret(session: Session) -> bytes:
    """See `Driver.secret`."""
    statement = session.statements.joined("make_secret", "secret")
    (row,) = await repeated(session.connections.fetch, statement, {})
    return bytes(row.value)


async def info(session: Session) -> StorageInfo:
    """See `Driver.info`."""
    (counted,) = await session.connections.fetch(session.statements["counted_jobs"], {})
    (row,) = await session.connections.fetch(session.statements["server"], {"schema": session.options.schema})
    details = {
        "server": row.version,
        "bytes": row.bytes,
        "clients": row.clients,
        "connections": session.options.connections,
        "durability": await _durability(session),
        **dispute(row.disputed_since or 0),
    }
    return StorageInfo(
        description=f"PostgreSQL database {session.options.target}, schema {session.options.schema}",
        jobs=counted._asdict(),
        details=details,
    )


async def _durability(session: Session) -> str:
    (settings,) = await session.connections.fetch(SETTINGS, {})
    return durability(settings)


async def dump(session: Session) -> AsyncIterator[StoredJob]:
    """See `Driver.dump`."""
    ((last,),) = await session.connections.fetch(session.statements["last_sequence"], {})
    after = 0
    while after < last:
        parameters = {"after": after, "last": last, "limit": JOBS_OF_A_DUMP}
        sequences: list[int] = []
        size = 0
        for row in await session.connections.fetch(session.statements["dump_sizes"], parameters):
            sequences.append(row.sequence)
            size += row.size
            if size >= BYTES_OF_A_DUMP:
                break
        if not sequences:
            break
        after = sequences[-1]
        for job in await _dump_some(session, sequences):
            yield job


async def _dump_some(session: Session, sequences: Sequence[int]) -> list[StoredJob]:
    statements = session.statements
    async with session.connections.one() as connection:
        transaction = Transaction(connection)
        rows = await transaction.begin(
            statements["dump"],
            {"sequences": array(sequences)},
            _SNAPSHOT,
        )
        parameters = {"ids": array(row.id for row in rows)}
        attempts: dict[UUID, list[StoredAttempt]] = {}
        for row in await transaction.fetch(statements["dump_attempts"], parameters):
            attempts.setdefault(row.job_id, []).append(stored_attempt_of(row))
        files: dict[UUID, list[Artifact]] = {}
        for row in await transaction.fetch(statements["artifacts"], parameters):
            files.setdefault(row.job_id, []).append(artifact_of(row))
        await transaction.commit()
    for row in rows:
        _check(row.id, PayloadKind.ARGS, row.args, expected=row.expects_args)
        _check(row.id, PayloadKind.RESULT, row.result, expected=row.expects_result)
    args = await decode_payloads([row.args for row in rows])
    results = await decode_payloads([row.result for row in rows])
    return [
        _stored(row, payloads, attempts.get(row.id, []), files.get(row.id, []))
        for row, *payloads in zip(rows, args, results, strict=True)
    ]


def _stored(
    row: Any, payloads: Sequence[bytes | None], attempts: list[StoredAttempt], files: list[Artifact]
) -> StoredJob:
    args, result = payloads
    record = JobRecord.of(row)
    running = any(attempt.state is AttemptState.RUNNING for attempt in attempts)
    return StoredJob(
        new=record.submitted(args),
        job=record.job(row.dependents, row.partial),
        attempts=tuple(attempts),
        result=result,
        failures=record.failures,
        uncounted_requeues=record.uncounted_requeues,
        artifacts=tuple(files) if running or record.state.ended else (),
    )


async def check(session: Session) -> StorageCheck:
    """Check that rows do not contradict each other at one moment; that each can be read is up to the database."""
    statements, parameters = session.statements, {"schema": session.options.schema}
    async with session.connections.one() as connection:
        transaction = Transaction(connection)
        rows = await transaction.begin(statements["contradictions"], {}, _SNAPSHOT)
        behind = await transaction.fetch(statements["places_behind"], parameters)
        counts = await transaction.fetch(statements["count_jobs"], {})
        miscounted = await transaction.fetch(statements["miscounted"], {})
        await transaction.commit()
    problems = [f"job {row.job_id}: {row.problem}" for row in rows]
    problems += [
        f"the sequence of the jobs is at {row.last} and behind them, at {row.latest}; the start of a server sets it"
        for row in behind
    ]
    problems += [
        f"what the database has counted of the jobs of channel {row.channel!r} is wrong: execute "
        f'SELECT "{session.options.schema}".recount()'
        for row in miscounted
    ]
    details = {"durability": await _durability(session)}
    jobs = {row.state: row.jobs for row in counts}
    return StorageCheck(problems=tuple(problems), jobs=jobs, details=details)


def _check(job_id: UUID, kind: str, found: object, *, expected: bool) -> None:
    """Raise `Unavailable` if there is no payload, that is None, and has to be one."""
    if found is None and expected:
        raise Unavailable(f"the {kind} of the job {job_id} cannot be found in the database")

"""Deletes ended jobs: on demand (`Driver.delete`), and when their retention is over (`Driver.purge`)."""

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from composerd.driver import transitions
from composerd.driver.clock import to_time
from composerd.errors import ComposerdError, JobNotEnded
from composerd.models import Job, JobState
from composerd_postgres.db.connection import Transaction, repeated
from composerd_postgres.jobs.clock import StorageClock
from composerd_postgres.jobs.records import JobRecord
from composerd_postgres.jobs.workers import Workers
from composerd_postgres.session import Session
from composerd_postgres.sql.statements import array

JOBS_OF_A_TRANSACTION = 200
"""Largest number of jobs that one transaction deletes."""

EDGES_OF_A_TRANSACTION = 2000
"""Number of edges between jobs that one transaction deletes, unless a single job has more dependencies.

A job with that many dependents or more loses them first, in transactions of their own.
"""

FOLD_EVERY = 60.0
"""Time in seconds between two foldings of the counts by this server."""

PURGE_LIMIT = 0.5
"""Time in seconds after which a purge that has deleted no job begins no further transaction."""


async def delete(session: Session, job_ids: Sequence[UUID]) -> list[Job | None | ComposerdError]:
    """See `Driver.delete`."""
    answers: list[Job | None | ComposerdError] = []
    for begin in range(0, len(job_ids), JOBS_OF_A_TRANSACTION):
        some = job_ids[begin : begin + JOBS_OF_A_TRANSACTION]
        found: dict[UUID, Job] = {}
        while (deleted := await repeated(_delete, session, some, found)) is None:
            pass
        answers += deleted
    return answers


async def _delete(
    session: Session, job_ids: Sequence[UUID], found: dict[UUID, Job]
) -> list[Job | None | ComposerdError] | None:
    """Delete jobs. If one has too many dependents, delete some of its edges instead, and return None.

    `found` keeps the jobs as they were when they were found first.
    """
    statements = session.statements
    parameters: dict[str, Any] = {"shift": session.shift, "ids": array(job_ids), "edges": EDGES_OF_A_TRANSACTION}
    async with session.connections.one() as connection:
        transaction = Transaction(connection)
        jobs: dict[UUID, Job] = {}
        for row in await transaction.begin(statements.joined("lock_jobs", "read_jobs"), parameters):
            jobs[row.id] = JobRecord.of(row).job(row.dependents)
            found.setdefault(row.id, jobs[row.id])
        needed: set[UUID] = set()
        if jobs:
            rows = await transaction.fetch(statements["needed"], parameters)
            needed = {row.id for row in rows if row.needed}
            large = [row.id for row in rows if row.large and row.id in jobs and jobs[row.id].state.ended]
            if large:
                await transaction.commit(statements["trim_edges"], {**parameters, "large": array(large)})
                return None
        answers: list[Job | None | ComposerdError] = []
        deleted: list[UUID] = []
        for job_id in job_ids:
            job = jobs.pop(job_id, None)  # a repetition in the same call finds it deleted
            if job is None:
                answers.append(None)
            elif not transitions.deletable(job.state, needed=job_id in needed):
                answers.append(JobNotEnded())
                jobs[job_id] = job
            else:
                answers.append(found[job_id])
                deleted.append(job_id)
        await transaction.commit(statements["delete_jobs"] if deleted else "", {"deleted": array(deleted)})
    return answers


async def purge(session: Session, clock: StorageClock, workers: Workers, limit: int) -> list[UUID]:
    """See `Driver.purge`."""
    await workers.forget()
    await _fold_counts(session)
    now = await clock.read()
    time = asyncio.get_running_loop().time
    until = time() + PURGE_LIMIT
    most = min(limit, JOBS_OF_A_TRANSACTION)
    while True:
        deleted, more = await repeated(_purge, session, now, clock.kept_before(now), most)
        if deleted or not more or time() > until:
            return deleted


async def _fold_counts(session: Session) -> None:
    """Add the counts of all sessions together now and then, so that there are few rows to read."""
    time = asyncio.get_running_loop().time()
    if time >= session.fold_at:
        session.fold_at = time + FOLD_EVERY
        await repeated(session.connections.fetch, session.statements["fold_counts"], {})


async def _purge(session: Session, now: int, kept_before: int, limit: int) -> tuple[list[UUID], bool]:
    """Delete jobs whose retention was over at this time, a moment ago. The clock may have jumped meanwhile.

    Return also True if there are perhaps other such jobs.
    """
    statements = session.statements
    parameters: dict[str, Any] = {
        "shift": session.shift,
        "now": to_time(now),
        "kept_before": to_time(kept_before),
        "limit": limit,
        "edges": EDGES_OF_A_TRANSACTION,
    }
    async with session.connections.one() as connection:
        transaction = Transaction(connection)
        expired = {row.id: row for row in await transaction.begin(statements["lock_expired"], parameters)}
        parameters["ids"] = array(expired)
        deleted: list[UUID] = []
        postponed: list[UUID] = []
        large: list[UUID] = []
        for row in await transaction.fetch(statements["needed"], parameters) if expired else ():
            if not transitions.deletable(JobState(expired[row.id].state), needed=row.needed):
                postponed.append(row.id)
            else:
                (large if row.large else deleted).append(row.id)
        named = {"postpone": postponed, "delete_jobs": deleted, "trim_edges": large}
        parameters |= {"postponed": array(postponed), "deleted": array(deleted), "large": array(large)}
        await transaction.commit(statements.joined(*[name for name, ids in named.items() if ids]), parameters)
    return deleted, bool(large) or any(row.more for row in expired.values())

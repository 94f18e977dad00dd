"""Deletes ended jobs: on demand (`Driver.delete`), and when their retention is over (`Driver.purge`)."""

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


async def delete(session: Session, job_ids: Sequence[UUID]) -> list[Job | None | ComposerdError]:
    """See `Driver.delete`."""
    if not job_ids:
        return []
    return await repeated(_delete, session, job_ids)


async def _delete(session: Session, job_ids: Sequence[UUID]) -> list[Job | None | ComposerdError]:
    statements = session.statements
    parameters = {"shift": session.shift, "ids": array(job_ids)}
    async with session.connections.one() as connection:
        transaction = Transaction(connection)
        jobs: dict[UUID, Job] = {}
        for row in await transaction.begin(statements.joined("lock_jobs", "read_jobs"), parameters):
            jobs[row.id] = JobRecord.of(row).job(row.dependents)
        needed: set[UUID] = set()
        if jobs:
            needed = {row.id for row in await transaction.fetch(statements["needed"], parameters)}
        answers: list[Job | None | ComposerdError] = []
        deleted: list[UUID] = []
        for job_id in job_ids:
            job = jobs.get(job_id)
            if job is None:
                answers.append(None)
            elif not transitions.deletable(job.state, needed=job_id in needed):
                answers.append(JobNotEnded())
            else:
                answers.append(job)
                deleted.append(job_id)
                del jobs[job_id]  # a repetition in the same call finds it deleted
        await transaction.commit(statements["delete_jobs"] if deleted else "", {"deleted": array(deleted)})
    return answers


async def purge(session: Session, clock: StorageClock, workers: Workers, limit: int) -> list[UUID]:
    """See `Driver.purge`."""
    await workers.forget()
    now = await clock.read()
    while True:
        found, deleted = await repeated(_purge, session, now, clock.kept_before(now), limit)
        if deleted or found < limit:
            return deleted


async def _purge(session: Session, now: int, kept_before: int, limit: int) -> tuple[int, list[UUID]]:
    """Delete jobs whose retention was over at this time, a moment ago. The clock may have jumped meanwhile.

    Return also how many such jobs were found.
    """
    statements = session.statements
    parameters: dict[str, Any] = {
        "shift": session.shift,
        "now": to_time(now),
        "kept_before": to_time(kept_before),
        "limit": limit,
    }
    async with session.connections.one() as connection:
        transaction = Transaction(connection)
        expired = await transaction.begin(statements["lock_expired"], parameters)
        parameters["ids"] = array(row.id for row in expired)
        needed: set[UUID] = set()
        if expired:
            needed = {row.id for row in await transaction.fetch(statements["needed"], parameters)}
        deleted: list[UUID] = []
        postponed: list[UUID] = []
        for row in expired:
            deletable = transitions.deletable(JobState(row.state), needed=row.id in needed)
            (deleted if deletable else postponed).append(row.id)
        parameters["postponed"] = array(postponed)
        parameters["deleted"] = array(deleted)
        names = ["postpone"] if postponed else []
        names += ["delete_jobs"] if deleted else []
        await transaction.commit(statements.joined(*names), parameters)
    return len(expired), deleted

"""Changes of attempts after the claim (touch, attach, finish, release), and the cancellation of jobs."""

from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

from composerd.driver import transitions
from composerd.driver.attachments import difference, exceeded
from composerd.driver.tokens import hashed
from composerd.driver.transitions import RequeueCause
from composerd.errors import ComposerdError, JobEnded, JobNotFound
from composerd.models import (
    UNKNOWN_ATTEMPT,
    Artifact,
    Attached,
    Attachment,
    Attempt,
    AttemptState,
    Finished,
    Job,
    JobState,
    Outcome,
    Touch,
    Verdict,
)
from composerd_postgres.db.connection import Parameters, Rows, Transaction, repeated
from composerd_postgres.jobs.decisions import Decisions
from composerd_postgres.jobs.propagate import propagate
from composerd_postgres.jobs.records import AttemptRecord, JobRecord, artifact_of, artifact_row, attempt_of
from composerd_postgres.news.changes import Changes
from composerd_postgres.session import Session
from composerd_postgres.sql.payloads import off_loop
from composerd_postgres.sql.statements import array, encode


async def touch(session: Session, touches: Sequence[Touch]) -> list[Attempt]:
    """See `Driver.touch`."""
    if not touches:
        return []
    named = [{"token_hash": hashed(one.token), "confirm": one.confirm} for one in touches]
    parameters = {"shift": session.shift, "touches": encode(named)}
    with session.renewing():
        if any(one.partial is not None for one in touches):
            rows = await repeated(_touch_with_progress, session, touches, parameters)
        else:
            rows = await session.connections.fetch(session.statements["touch"], parameters)
    attempts = []
    for row in rows:
        if row.state is None:
            attempts.append(UNKNOWN_ATTEMPT)
        else:
            state = AttemptState(row.state)
            attempts.append(Attempt(state, row.job_id, row.number, row.confirm, row.worker_id, row.confirmed))
    return attempts


async def _touch_with_progress(session: Session, touches: Sequence[Touch], parameters: Parameters) -> Rows:
    """Renew leases, and write the progress of their attempts, which nobody can end while the leases are locked."""
    statements = session.statements
    async with session.connections.one() as connection:
        transaction = Transaction(connection)
        rows = await transaction.begin(statements["touch"], parameters)
        progress = {
            row.job_id: one.partial
            for row, one in zip(rows, touches, strict=True)
            if row.renewed and one.partial is not None
        }
        written = statements.joined("drop_progress", "copy_progress")
        await transaction.commit(written, {"over": array(progress)}, [[*progress.items()]])
    return rows


class LockedAttempts:
    """Attempts whose jobs a transaction has locked."""

    def __init__(self, rows: Rows) -> None:
        self.now: int = rows[0].now if rows else 0
        """The time after the jobs were locked; 0 if there are none."""
        self.attempts: dict[UUID, AttemptRecord] = {}
        """The attempts, by the hash of the token. One that is not stored is missing."""
        self.jobs: dict[UUID, JobRecord] = {}
        """Their jobs, by id."""
        self._positions: Iterator[int] = iter(sorted(row.next_position for row in rows if row.next_position))
        for row in rows:
            self.attempts[row.token_hash] = AttemptRecord.of(row, row.id)
            if row.id not in self.jobs:
                self.jobs[row.id] = JobRecord.locked(row)

    def next_position(self) -> int:
        """Return a position behind all others.

        One was drawn for each attempt in advance; they are used in the order of the calls.
        """
        return next(self._positions)


async def lock_attempts(
    session: Session, transaction: Transaction, hashes: Sequence[UUID], *, draw_positions: bool
) -> LockedAttempts:
    """Begin a transaction and lock the jobs of attempts. `draw_positions` is True if a job may be requeued."""
    parameters = {"shift": session.shift, "hashes": array(hashes), "draw_positions": draw_positions}
    statement = session.statements.joined("lock_attempts", "read_attempts")
    return LockedAttempts(await transaction.begin(statement, parameters))


async def finish(session: Session, outcomes: Sequence[Outcome]) -> tuple[list[Finished], Changes]:
    """See `Driver.finish`."""
    if not outcomes:
        return [], Changes()
    digests = await off_loop(sum(len(outcome.result) for outcome in outcomes), _digests, outcomes)
    answers, decisions = await repeated(_finish, session, outcomes, digests)
    await propagate(session, decisions.to_propagate, decisions.changes)
    return answers, decisions.changes


def _digests(outcomes: Sequence[Outcome]) -> list[bytes]:
    return [transitions.result_digest(outcome.result) for outcome in outcomes]


async def _finish(
    session: Session, outcomes: Sequence[Outcome], digests: Sequence[bytes]
) -> tuple[list[Finished], Decisions]:
    async with session.connections.one() as connection:
        transaction = Transaction(connection)
        hashes = [hashed(outcome.token) for outcome in outcomes]
        may_requeue = any(outcome.failed for outcome in outcomes)
        locked = await lock_attempts(session, transaction, hashes, draw_positions=may_requeue)
        decisions = Decisions(session, locked.now)
        listed = [
            locked.attempts.get(one)
            for one, outcome in zip(hashes, outcomes, strict=True)
            if outcome.artifacts is not None
        ]
        attached = await _attached(session, transaction, listed)
        answers = []
        for outcome, token_hash, digest in zip(outcomes, hashes, digests, strict=True):
            attempt = locked.attempts.get(token_hash)
            if attempt is not None and attempt.running and outcome.artifacts is not None:
                differs = difference(attached[attempt.job_id], outcome.artifacts)
                if differs is not None:
                    answers.append(Finished(Verdict.DIFFERS, attempt.job_id, differs))
                    continue
            verdict = transitions.verdict(attempt, digest)
            answers.append(Finished(verdict, None if attempt is None else attempt.job_id))
            if attempt is not None and attempt.running:
                job = locked.jobs[attempt.job_id]
                effects = transitions.finish(
                    job,
                    attempt,
                    failed=outcome.failed,
                    digest=digest,
                    now=locked.now,
                    next_position=locked.next_position,
                )
                decisions.apply(job, effects, attempt, outcome.result)
        await decisions.commit(transaction)
    return answers, decisions


async def release(session: Session, tokens: Sequence[UUID]) -> tuple[list[Attempt], Changes]:
    """See `Driver.release`."""
    if not tokens:
        return [], Changes()
    answers, decisions = await repeated(_release, session, [hashed(token) for token in tokens])
    await propagate(session, decisions.to_propagate, decisions.changes)
    return answers, decisions.changes


async def _release(session: Session, hashes: Sequence[UUID]) -> tuple[list[Attempt], Decisions]:
    async with session.connections.one() as connection:
        transaction = Transaction(connection)
        locked = await lock_attempts(session, transaction, hashes, draw_positions=True)
        decisions = Decisions(session, locked.now)
        answers = []
        for token_hash in hashes:
            attempt = locked.attempts.get(token_hash)
            answers.append(attempt_of(attempt))
            if attempt is not None and attempt.running:
                requeue(decisions, locked, attempt, RequeueCause.RELEASED)
        await decisions.commit(transaction)
    return answers, decisions


def requeue(decisions: Decisions, locked: LockedAttempts, attempt: AttemptRecord, cause: RequeueCause) -> None:
    """Decide the end of a running attempt without an outcome."""
    job = locked.jobs[attempt.job_id]
    effects = transitions.requeue(job, attempt, cause, now=locked.now, next_position=locked.next_position)
    decisions.apply(job, effects, attempt)


async def attach(session: Session, attachments: Sequence[Attachment]) -> list[Attached]:
    """See `Driver.attach`."""
    if not attachments:
        return []
    return await repeated(_attach, session, attachments)


async def _attached(
    session: Session, transaction: Transaction, attempts: Sequence[AttemptRecord | None]
) -> dict[UUID, dict[str, Artifact]]:
    """Return the files of those attempts that are running, by job and name. The transaction has locked their jobs."""
    attached: dict[UUID, dict[str, Artifact]] = {one.job_id: {} for one in attempts if one is not None and one.running}
    if attached:
        parameters = {"ids": array(attached)}
        for row in await transaction.fetch(session.statements["artifacts"], parameters):
            attached[row.job_id][row.name] = artifact_of(row)
    return attached


async def _attach(session: Session, attachments: Sequence[Attachment]) -> list[Attached]:
    statements = session.statements
    async with session.connections.one() as connection:
        transaction = Transaction(connection)
        hashes = [hashed(one.token) for one in attachments]
        locked = await lock_attempts(session, transaction, hashes, draw_positions=False)
        running = [attempt for attempt in locked.attempts.values() if attempt.running]
        attached = await _attached(session, transaction, running)
        answers: list[Attached] = []
        written: dict[tuple[UUID, str], Any] = {}
        for one, token_hash in zip(attachments, hashes, strict=True):
            attempt = locked.attempts.get(token_hash)
            replaced = refused = None
            if attempt is not None and attempt.running:
                files = attached[attempt.job_id]
                before = files.get(one.artifact.name)
                refused = exceeded(files, one)
                if before != one.artifact and refused is None:
                    replaced = None if before is None or before.location == one.artifact.location else before.location
                    files[one.artifact.name] = one.artifact
                    written[attempt.job_id, one.artifact.name] = artifact_row(attempt.job_id, one.artifact)
            answers.append(Attached(attempt_of(attempt), replaced, refused))
        names = ["save_artifacts"] if written else []
        names += ["renew"] if running else []
        parameters = {
            "shift": session.shift,
            "artifacts": encode([*written.values()]),
            "hashes": array(attempt.token_hash for attempt in running),
        }
        await transaction.commit(statements.joined(*names), parameters)
    return answers


async def cancel(session: Session, job_ids: Sequence[UUID]) -> tuple[list[Job | ComposerdError], Changes]:
    """See `Driver.cancel`."""
    if not job_ids:
        return [], Changes()
    answers, decisions = await repeated(_cancel, session, job_ids)
    await propagate(session, decisions.to_propagate, decisions.changes)
    return answers, decisions.changes


async def _cancel(session: Session, job_ids: Sequence[UUID]) -> tuple[list[Job | ComposerdError], Decisions]:
    statements = session.statements
    parameters = {"shift": session.shift, "ids": array(job_ids)}
    async with session.connections.one() as connection:
        transaction = Transaction(connection)
        rows = await transaction.begin(statements.joined("lock_jobs", "read_jobs"), parameters)
        jobs = {row.id: JobRecord.locked(row) for row in rows}
        dependents = {row.id: row.dependents for row in rows}
        running: dict[UUID, AttemptRecord] = {}
        if any(job.state is JobState.RUNNING for job in jobs.values()):
            for row in await transaction.fetch(statements["read_running"], parameters):
                running[row.job_id] = AttemptRecord.of(row, row.job_id)
        decisions = Decisions(session, rows[0].now if rows else 0)
        answers: list[Job | ComposerdError] = []
        for job_id in job_ids:
            job = jobs.get(job_id)
            if job is None:
                answers.append(JobNotFound())
                continue
            if not job.state.ended:
                attempt = running.get(job_id)
                decisions.apply(job, transitions.cancel(job, attempt, decisions.now), attempt)
            canceled = job.state is JobState.CANCELED
            answers.append(job.job(dependents[job_id]) if canceled else JobEnded(state=job.state.value))
        await decisions.commit(transaction)
    return answers, decisions

"""Stores jobs that another storage had, with their history (`Driver.load`)."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from composerd.driver import StoredJob
from composerd.driver.clock import from_time, seconds, to_time
from composerd.driver.tokens import hashed, is_hash
from composerd.models import AttemptState, JobState
from composerd_postgres.db.connection import Transaction
from composerd_postgres.jobs.places import repeated_inserts
from composerd_postgres.jobs.propagate import propagate
from composerd_postgres.jobs.records import JobRecord, artifact_row, edge_row
from composerd_postgres.jobs.submit import NewRows
from composerd_postgres.news.changes import Changes
from composerd_postgres.session import Session
from composerd_postgres.sql.statements import array, encode


async def load(session: Session, jobs: Sequence[StoredJob]) -> Changes:
    """See `Driver.load`."""
    if not jobs:
        return Changes()
    changes, unpropagated = await repeated_inserts(session, _load, session, jobs)
    await propagate(session, unpropagated, changes)
    return changes


async def _load(session: Session, jobs: Sequence[StoredJob]) -> tuple[Changes, list[UUID]]:
    statements = session.statements
    parameters = {
        "shift": session.shift,
        "count": len(jobs),
        "ids": array(job.new.id for job in jobs),
        "keys": "[]",
    }
    async with session.connections.one() as connection:
        transaction = Transaction(connection)
        (begun,) = await transaction.begin(statements["begin_enqueue"], parameters)
        stored_already = set(begun.stored)
        new = {job.new.id: job for job in jobs if job.new.id not in stored_already}
        named = {one for job in new.values() for one in job.new.dependencies} - new.keys()
        states: dict[UUID, JobState] = {}
        if named:
            parameters = {"referenced": encode([{"id": one} for one in named])}
            for row in await transaction.fetch(statements["lock_referenced"], parameters):
                states[row.id] = JobState(row.state)
        part = _Part(begun.now, states)
        for stored, sequence in zip(new.values(), sorted(begun.sequences), strict=False):
            part.add(stored, sequence)
        names, written = part.statements()
        await session.commit(transaction, names, written, part.changes, part.rows.tables())
    return part.changes, list(part.unpropagated)


class _Part:
    """A part of a dump that one transaction stores."""

    def __init__(self, now: int, states: dict[UUID, JobState]) -> None:
        self.changes = Changes()
        self.unpropagated: dict[UUID, None] = {}
        """Ended jobs on which jobs of this part still wait, in order."""
        self._now = now
        self._states = states
        """The states of the jobs that jobs of this part depend on, as far as they exist."""
        self.rows = NewRows()
        self._attempts: list[dict[str, Any]] = []
        self._artifacts: list[dict[str, Any]] = []
        self._running: list[UUID] = []

    def add(self, stored: StoredJob, sequence: int) -> None:
        """Add a job with its history."""
        job = stored.job
        record = JobRecord.new(stored.new, stored.new.dependencies, sequence, from_time(job.queued_at))
        record.state = job.state
        record.not_before = None if job.not_before is None else from_time(job.not_before)
        record.started_at = None if job.started_at is None else from_time(job.started_at)
        record.finished_at = None if job.finished_at is None else from_time(job.finished_at)
        record.retries = job.retries
        record.failures = stored.failures
        record.uncounted_requeues = stored.uncounted_requeues
        record.attempt_number = job.attempt
        record.worker_id = job.worker_id
        self._add_edges(record)
        if record.state is JobState.WAITING and record.pending == 0 and record.not_before is not None:
            self.changes.due(seconds(record.not_before - self._now))
        if record.state is JobState.READY:
            self.changes.became_ready(record.key, record.ready_position)
        self._states[record.id] = record.state
        self.rows.add(record, stored.new.args, stored.result)
        self._add_attempts(stored)
        for artifact in stored.artifacts:
            self._artifacts.append(artifact_row(record.id, artifact))

    def _add_edges(self, job: JobRecord) -> None:
        waiting = job.state is JobState.WAITING
        for one in dict.fromkeys(job.dependencies):
            state = self._states.get(one)
            if state is None:
                continue  # it was deleted in the storage that the job comes from
            self.rows.edges.append(edge_row(one, job, is_open=waiting))
            job.pending += waiting
            if waiting and state.ended:
                self.unpropagated[one] = None  # its end may not have been propagated there

    def _add_attempts(self, stored: StoredJob) -> None:
        for attempt in stored.attempts:
            row = {
                "token_hash": attempt.token if is_hash(attempt.token) else hashed(attempt.token),
                "job_id": stored.new.id,
                "number": attempt.number,
                "state": attempt.state,
                "confirm": attempt.confirm,
                "lease": attempt.lease,
                "digest": attempt.digest,
                "worker_id": attempt.worker_id,
            }
            self._attempts.append(row)
            if attempt.state is AttemptState.RUNNING:
                self._running.append(stored.new.id)
                self.changes.due(attempt.lease)

    def statements(self) -> tuple[list[str], dict[str, Any]]:
        """Return the names of the statements that store the part, and their parameters."""
        names, parameters = self.rows.statements()
        if self._attempts:
            names.append("insert_attempts")
            parameters["attempts"] = encode(self._attempts)
        if self._artifacts:
            names.append("save_artifacts")
            parameters["artifacts"] = encode(self._artifacts)
        if self._running:
            names.append("insert_leases")
            parameters["ids"] = array(self._running)
            parameters["now"] = to_time(self._now)
        if self.unpropagated:
            names.append("mark_unpropagated")
            parameters["unpropagated"] = array(self.unpropagated)
        return names, parameters

"""Storing jobs that another storage had, with their history (`Driver.load`)."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from composerd.driver import StoredJob
from composerd.models import AttemptState, JobState
from composerd_postgres.db.connection import Transaction, repeated
from composerd_postgres.jobs.decisions import encode, notify
from composerd_postgres.jobs.rows import artifact_record, row_of
from composerd_postgres.jobs.submit import edge, new_row, record
from composerd_postgres.news.changes import Changes
from composerd_postgres.session import Session
from composerd_postgres.sql.statements import array


async def load(session: Session, jobs: Sequence[StoredJob]) -> Changes:
    """See `Driver.load`."""
    if not jobs:
        return Changes()
    changes, unsettled = await repeated(lambda: _load(session, jobs))
    await session.settle(unsettled, changes)
    return changes


async def _load(session: Session, jobs: Sequence[StoredJob]) -> tuple[Changes, list[UUID]]:
    statements = session.statements
    parameters = session.parameters(count=len(jobs), ids=array(job.new.id for job in jobs), keys="[]")
    async with session.connections.one() as connection:
        transaction = Transaction(connection)
        ((now, numbers, there, _),) = await transaction.begin(statements["begin_enqueue"], parameters)
        fresh = {job.new.id: job for job in jobs if job.new.id not in {*there}}
        named = {one for job in fresh.values() for one in job.new.dependencies} - fresh.keys()
        states = {}
        if named:
            holding = {"held": array(named), "answered": "{}"}
            held = await transaction.fetch(statements["hold_jobs"], holding)
            states = {row.id: row.state for row in map(row_of, held)}
        written = _Loaded(now, states)
        for stored, number in zip(fresh.values(), sorted(numbers), strict=False):
            written.take_in(stored, number)
        names, parameters = written.statements()
        notify(names, parameters, statements.schema, session.origin, written.changes)
        await transaction.commit(statements.all(*names), parameters)
    return written.changes, list(written.unsettled)


class _Loaded:
    """What a part of a dump is about to store."""

    def __init__(self, now: datetime, states: dict[UUID, str]) -> None:
        self.now = now
        self.changes = Changes()
        self.unsettled: dict[UUID, None] = {}
        self._states = states
        self._rows: dict[str, list[dict[str, Any]]] = {
            name: [] for name in ("jobs", "args", "edges", "results", "attempts", "artifacts")
        }
        self._running: list[UUID] = []

    def take_in(self, stored: StoredJob, number: int) -> None:
        """A job with its history."""
        job = stored.job
        row = new_row(stored.new, stored.new.dependencies, number, job.queued_at)
        row.state = job.state.value
        row.not_before = job.not_before
        row.started_at, row.finished_at, row.expires_at = job.started_at, job.finished_at, job.expires_at
        row.retries, row.failures, row.returns = job.retries, stored.failures, stored.uncounted_requeues
        row.attempt, row.worker_id = job.attempt, job.worker_id
        waiting = job.state is JobState.WAITING
        for one in dict.fromkeys(row.dependencies):
            state = self._states.get(one)
            if state is None:
                continue  # deleted where it came from
            self._rows["edges"].append(edge(one, row, is_open=waiting))
            row.pending += waiting
            if waiting and JobState(state).ended:
                self.unsettled[one] = None  # perhaps what follows was not drawn yet where it came from
        if waiting and row.pending == 0 and row.not_before is not None:
            self.changes.due((row.not_before - self.now).total_seconds())
        if job.state is JobState.READY:
            self.changes.became_ready(row.key, (-row.priority, row.place))
        self._states[row.id] = row.state
        self._rows["jobs"].append(record(row, stored.new.args))
        if stored.new.args is not None:
            self._rows["args"].append({"id": row.id, "body": stored.new.args})
        if stored.result is not None:
            self._rows["results"].append({"id": row.id, "body": stored.result})
        for attempt in stored.attempts:
            self._rows["attempts"].append(
                {
                    "token": attempt.token,
                    "job_id": row.id,
                    "number": attempt.number,
                    "state": attempt.state.value,
                    "confirm": attempt.confirm,
                    "lease": attempt.lease,
                    "digest": attempt.digest,
                    "worker_id": attempt.worker_id,
                }
            )
            if attempt.state is AttemptState.RUNNING:
                self._running.append(row.id)
                self.changes.due(attempt.lease)
        for artifact in stored.artifacts:
            self._rows["artifacts"].append(artifact_record(row.id, artifact))

    def statements(self) -> tuple[list[str], dict[str, Any]]:
        """The statements that store it, and their parameters."""
        names = [name for kind, name in _INSERTS.items() if self._rows[kind]]
        parameters: dict[str, Any] = {kind: encode(rows) for kind, rows in self._rows.items()}
        parameters["now"] = self.now
        if self._running:
            names.append("insert_leases")
            parameters["ids"] = array(self._running)
        if self.unsettled:
            names.append("mark_unsettled")
            parameters["unsettled"] = array(self.unsettled)
        return names, parameters


_INSERTS = {
    "jobs": "insert_jobs",
    "args": "insert_args",
    "edges": "insert_edges",
    "results": "save_results",
    "attempts": "insert_attempts",
    "artifacts": "save_artifacts",
}

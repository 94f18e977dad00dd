"""Collects what transitions decide about jobs that a transaction has locked, and writes it when that commits."""

from typing import Any
from uuid import UUID

from composerd.driver.clock import seconds
from composerd.driver.transitions import Effects
from composerd_postgres.db.connection import Transaction
from composerd_postgres.db.copying import Payloads
from composerd_postgres.jobs.records import AttemptRecord, JobRecord
from composerd_postgres.news.changes import Changes
from composerd_postgres.session import Session
from composerd_postgres.sql.statements import array, encode


class Decisions:
    """The decisions of one transaction: records that were changed by transitions, and the effects of that."""

    def __init__(self, session: Session, now: int) -> None:
        self._session = session
        self.now = now
        """The time at which the jobs were locked."""
        self.changes = Changes()
        self.to_propagate: list[UUID] = []
        """Jobs that ended and have dependents that wait; their ends are propagated in transactions of their own."""
        self._jobs: dict[UUID, JobRecord] = {}
        self._ended_attempts: list[AttemptRecord] = []
        self._unpublished: list[UUID] = []
        self._results: list[tuple[UUID, bytes]] = []

    def apply(
        self,
        job: JobRecord,
        effects: Effects,
        ended_attempt: AttemptRecord | None = None,
        outcome: bytes | None = None,
    ) -> None:
        """Store a job after a transition, together with the effects.

        Args:
            job: The job.
            effects: What the transition returned.
            ended_attempt: The attempt that the transition ended, if any.
            outcome: The result that a worker sent. It is dropped if the job is requeued.
        """
        self._jobs[job.id] = job
        if ended_attempt is not None:
            self._ended_attempts.append(ended_attempt)
            if not effects.publish:
                self._unpublished.append(job.id)
        result = outcome if effects.result is None else effects.result
        if effects.ended and result is not None:
            job.result_size = len(result)
            self._results.append((job.id, result))
        if effects.ready:
            self.changes.became_ready(job.key, job.ready_position)
        if effects.due_at is not None:
            self.changes.due(seconds(effects.due_at - self.now))
        if effects.requeued:
            self.changes.requeued.append(job.id)
        if effects.unanswered:
            self.changes.unanswered.append(job.id)
        if effects.ended:
            self.changes.ended.append(job.id)
            job.unpropagated = job.has_waiting_dependents
            if job.unpropagated:
                self.to_propagate.append(job.id)

    async def commit(self, transaction: Transaction, *more: str, **parameters: Any) -> None:
        """Write everything and commit the transaction, together with more statements of the caller."""
        names = list(more)
        tables: dict[str, Payloads] = {}
        if self._jobs:
            names.append("save_jobs")
            parameters["jobs"] = encode([job.saved() for job in self._jobs.values()])
        if self._ended_attempts:
            names += ["save_attempts", "drop_leases", "drop_progress"]
            over = self._ended_attempts
            parameters["attempts"] = encode(
                [{"token_hash": one.token_hash, "state": one.state, "digest": one.digest} for one in over]
            )
            parameters["dropped"] = array(one.token_hash for one in over)
            parameters["over"] = array(one.job_id for one in over)
        if self._unpublished:
            names.append("drop_artifacts")
            parameters["unpublished"] = array(self._unpublished)
        if self._results:
            tables = {"copy_results": self._results}
        await self._session.commit(transaction, names, parameters, self.changes, tables)

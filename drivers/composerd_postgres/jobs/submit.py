"""Stores submissions (`Driver.enqueue`)."""

from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

from composerd.driver import transitions
from composerd.driver.clock import seconds
from composerd.driver.submissions import PlannedJob, plan
from composerd.errors import ComposerdError
from composerd.models import Enqueued, NewJob
from composerd_postgres.db.connection import Transaction
from composerd_postgres.db.copying import Payloads
from composerd_postgres.jobs.places import repeated_inserts
from composerd_postgres.jobs.records import JobRecord, edge_row
from composerd_postgres.news.changes import Changes
from composerd_postgres.session import Session
from composerd_postgres.sql.statements import array, encode

Answers = list[Enqueued | ComposerdError]


async def enqueue(session: Session, submissions: Sequence[Sequence[NewJob]]) -> tuple[Answers, Changes]:
    """See `Driver.enqueue`."""
    return await repeated_inserts(session, _enqueue, session, submissions)


async def _enqueue(session: Session, submissions: Sequence[Sequence[NewJob]]) -> tuple[Answers, Changes]:
    statements = session.statements
    jobs = [job for submission in submissions for job in submission]
    keys = {(job.channel, job.idempotency_key) for job in jobs if job.idempotency_key is not None}
    parameters = {
        "shift": session.shift,
        "count": len(jobs),
        "ids": array(job.id for job in jobs),
        "keys": encode([{"channel": channel, "key": key} for channel, key in keys]),
    }
    async with session.connections.one() as connection:
        transaction = Transaction(connection)
        (begun,) = await transaction.begin(statements["begin_enqueue"], parameters)
        batch = _Batch(begun.now, begun.sequences)
        existing = {*begun.stored, *begun.keyed}
        new = {job.id for job in jobs}
        named = {(one, job.channel) for job in jobs for one in job.dependencies if one not in new}
        if existing or named:
            referenced: list[dict[str, Any]] = [{"id": one} for one in existing]
            referenced += [{"id": one, "channel": channel} for one, channel in named if one not in existing]
            parameters = {"referenced": encode(referenced)}
            for row in await transaction.fetch(statements["lock_referenced"], parameters):
                batch.add_stored(row)
        answers: Answers = []
        for submission in submissions:
            try:
                answers.append(batch.submit(submission))
            except ComposerdError as exc:
                answers.append(exc)
        names, written = batch.rows.statements()
        await session.commit(transaction, names, written, batch.changes, batch.rows.tables())
    return answers, batch.changes


class NewRows:
    """Rows to insert, by table."""

    def __init__(self) -> None:
        self.jobs: list[dict[str, Any]] = []
        self.args: list[tuple[UUID, bytes]] = []
        self.edges: list[dict[str, Any]] = []
        self.results: list[tuple[UUID, bytes]] = []

    def add(self, job: JobRecord, args: bytes | None, result: bytes | None) -> None:
        """Add a job with its payloads."""
        job.result_size = None if result is None else len(result)
        self.jobs.append(job.inserted(0 if args is None else len(args)))
        if args is not None:
            self.args.append((job.id, args))
        if result is not None:
            self.results.append((job.id, result))

    def statements(self) -> tuple[list[str], dict[str, Any]]:
        """Return the names of the statements that insert the rows without payloads, and their parameters."""
        names: list[str] = []
        parameters: dict[str, Any] = {}
        for name, parameter, rows in (("insert_jobs", "jobs", self.jobs), ("insert_edges", "edges", self.edges)):
            if rows:
                names.append(name)
                parameters[parameter] = encode(rows)
        return names, parameters

    def tables(self) -> dict[str, Payloads]:
        """Return the payloads by the names of the statements that copy them."""
        return {name: rows for name, rows in (("copy_args", self.args), ("copy_results", self.results)) if rows}


class _KnownJob:
    """A job that a submission may refer to, stored or new, with what is needed to answer it."""

    def __init__(self, record: JobRecord, partial: Any = None) -> None:
        self.record = record
        self.partial = partial


class _Batch:
    """The submissions of one transaction. Each sees the jobs of those before it."""

    def __init__(self, now: int, sequences: Sequence[int]) -> None:
        self.changes = Changes()
        self.rows = NewRows()
        self._now = now
        self._sequences: Iterator[int] = iter(sorted(sequences))
        self._known: dict[UUID, _KnownJob] = {}
        self._by_key: dict[tuple[str, str], JobRecord] = {}

    def add_stored(self, row: Any) -> None:
        """Add a job that is stored, and that the submissions refer to."""
        self._add(_KnownJob(JobRecord.of(row), row.partial))

    def submit(self, submission: Sequence[NewJob]) -> Enqueued:
        """Add the jobs of a submission and return its answer.

        Raises:
            ComposerdError: The submission is refused, and nothing was added; see `submissions.plan`.
        """
        planned = plan(submission, self._find, self._find_key)
        for new in planned.new:
            self._submit_job(new)
        jobs = []
        for job_id, _ in planned.answer:
            known = self._known[job_id]
            jobs.append(known.record.job(partial=known.partial))
        return Enqueued(tuple(jobs), tuple([created for _, created in planned.answer]))

    def _find(self, job_id: UUID) -> JobRecord | None:
        known = self._known.get(job_id)
        return None if known is None else known.record

    def _find_key(self, channel: str, idempotency_key: str) -> JobRecord | None:
        return self._by_key.get((channel, idempotency_key))

    def _add(self, known: _KnownJob) -> None:
        record = known.record
        self._known[record.id] = known
        if record.idempotency_key is not None:
            self._by_key[record.channel, record.idempotency_key] = record

    def _submit_job(self, planned: PlannedJob) -> None:
        job = JobRecord.new(planned.job, planned.dependencies, next(self._sequences), self._now)
        dependencies = [self._known[one] for one in dict.fromkeys(planned.dependencies)]
        effects = transitions.submit(job, [one.record for one in dependencies], self._now)
        if effects.ready:
            self.changes.became_ready(job.key, job.ready_position)
        if effects.due_at is not None:
            self.changes.due(seconds(effects.due_at - self._now))
        if effects.ended:
            self.changes.ended.append(job.id)
        self.rows.add(job, planned.job.args, effects.result)
        for one in dependencies:
            is_open = not (one.record.state.ended or job.state.ended)
            self.rows.edges.append(edge_row(one.record.id, job, is_open=is_open))
        self._add(_KnownJob(job))

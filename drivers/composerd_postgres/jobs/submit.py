"""Storing submissions (`Driver.enqueue`)."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from composerd.driver.transitions import dependency_result
from composerd.errors import CanceledDependency, ComposerdError, IdempotencyConflict, UnknownDependency
from composerd.models import Enqueued, Job, JobState, NewJob, OnDependencyFailure
from composerd_postgres.db.connection import Transaction, repeated
from composerd_postgres.jobs.decisions import encode, notify
from composerd_postgres.jobs.rows import WIDTH, Row, job_of, later, row_of
from composerd_postgres.news.changes import Changes
from composerd_postgres.session import Session
from composerd_postgres.sql.statements import array

Answers = list[Enqueued | ComposerdError]


class _Known:
    """A job that a submission may refer to: stored already, or new in this batch."""

    def __init__(self, row: Row, dependents: Sequence[UUID], partial: Any, *, stored: bool) -> None:
        self.row = row
        self.dependents = list(dependents)
        self.partial = partial
        self.stored = stored

    def job(self) -> Job:
        return job_of(self.row, self.dependents, self.partial)


class _Batch:
    """What a batch of submissions is about to store."""

    def __init__(self, now: datetime, numbers: Iterator[int], known: dict[UUID, _Known]) -> None:
        self.now = now
        self.changes = Changes()
        self.jobs: list[dict[str, Any]] = []
        self.args: list[dict[str, Any]] = []
        self.edges: list[dict[str, Any]] = []
        self.results: list[dict[str, Any]] = []
        self._numbers = numbers
        self._known = known
        self._keys = {
            (one.row.channel, one.row.idempotency_key): one
            for one in known.values()
            if one.row.idempotency_key is not None
        }

    def submit(self, jobs: Sequence[NewJob]) -> Enqueued:
        """Take in a submission. Raises what is wrong with it, and then takes nothing in."""
        alias: dict[UUID, UUID] = {}
        fresh: dict[UUID, tuple[NewJob, tuple[UUID, ...]]] = {}
        keys: dict[tuple[str, str], UUID] = {}
        answer: list[tuple[UUID, bool]] = []
        for index, job in enumerate(jobs):
            if job.id in self._known or job.id in fresh:
                answer.append((job.id, True))
                continue
            dependencies = tuple([alias.get(one, one) for one in job.dependencies]) if alias else job.dependencies
            if job.idempotency_key is not None:
                key = (job.channel, job.idempotency_key)
                stored = self._keys.get(key)
                existing = keys.get(key) if stored is None else stored.row.id
                if existing is not None:
                    if stored is not None:
                        same = bytes(stored.row.fingerprint), tuple(stored.row.dependencies)
                    else:
                        same = fresh[existing][0].fingerprint, fresh[existing][1]
                    if same != (job.fingerprint, dependencies):
                        raise IdempotencyConflict(index=index)
                    alias[job.id] = existing
                    answer.append((existing, False))
                    continue
                keys[key] = job.id
            self._check(index, dependencies, fresh)
            fresh[job.id] = (job, dependencies)
            answer.append((job.id, True))
        for job, dependencies in fresh.values():
            self._take_in(job, dependencies)
        known = self._known
        return Enqueued(tuple([known[job_id].job() for job_id, _ in answer]), tuple([created for _, created in answer]))

    def _check(self, index: int, dependencies: Sequence[UUID], fresh: dict[UUID, Any]) -> None:
        for one in dependencies:
            dependency = self._known.get(one)
            if dependency is None:
                if one not in fresh:
                    raise UnknownDependency(index=index, id=str(one))
            elif dependency.row.state == JobState.CANCELED.value:
                raise CanceledDependency(index=index, id=str(one))

    def _take_in(self, job: NewJob, dependencies: tuple[UUID, ...]) -> None:
        row = new_row(job, dependencies, next(self._numbers), self.now)
        named = [self._known[one] for one in dict.fromkeys(dependencies)]
        failed = [one.row.id for one in named if row.fail_with_dependency and one.row.state == JobState.FAILED.value]
        if failed:
            row.state = JobState.FAILED.value
            row.finished_at = self.now
            row.expires_at = None if row.retention is None else later(self.now, row.retention)
            self.results.append({"id": row.id, "body": dependency_result(failed)})
            self.changes.ended.append(row.id)
        else:
            row.pending = sum(not one.row.ended for one in named)
            if row.pending == 0:
                if row.not_before is not None and row.not_before > self.now:
                    self.changes.due((row.not_before - self.now).total_seconds())
                else:
                    row.state = JobState.READY.value
                    self.changes.became_ready(row.key, (-row.priority, row.place))
        for one in named:
            self.edges.append(edge(one.row.id, row, is_open=not one.row.ended and not row.ended))
            one.dependents.append(row.id)
        if job.args is not None:
            self.args.append({"id": row.id, "body": job.args})
        self.jobs.append(record(row, job.args))
        known = self._known[row.id] = _Known(row, (), None, stored=False)
        if row.idempotency_key is not None:
            self._keys[row.channel, row.idempotency_key] = known


async def enqueue(session: Session, submissions: Sequence[Sequence[NewJob]]) -> tuple[Answers, Changes]:
    """See `Driver.enqueue`."""
    return await repeated(lambda: _enqueue(session, submissions))


async def _enqueue(session: Session, submissions: Sequence[Sequence[NewJob]]) -> tuple[Answers, Changes]:
    statements = session.statements
    jobs = [job for submission in submissions for job in submission]
    keys = {(job.channel, job.idempotency_key) for job in jobs if job.idempotency_key is not None}
    parameters = session.parameters(
        count=len(jobs),
        ids=array(job.id for job in jobs),
        keys=encode([{"channel": channel, "key": key} for channel, key in keys]),
    )
    async with session.connections.one() as connection:
        transaction = Transaction(connection)
        ((now, numbers, there, keyed),) = await transaction.begin(statements["begin_enqueue"], parameters)
        held = {*there, *keyed, *(one for job in jobs for one in job.dependencies)} - (
            {job.id for job in jobs} - {*there}
        )
        known: dict[UUID, _Known] = {}
        if held:
            holding = {"held": array(held), "answered": array({*there, *keyed})}
            for found in await transaction.fetch(statements["hold_jobs"], holding):
                row = row_of(found)
                known[row.id] = _Known(row, found[WIDTH], found[WIDTH + 1], stored=True)
        batch = _Batch(now, iter(sorted(numbers)), known)
        answers: Answers = []
        for submission in submissions:
            try:
                answers.append(batch.submit(submission))
            except ComposerdError as exc:
                answers.append(exc)
        names = [
            name
            for name, rows in (
                ("insert_jobs", batch.jobs),
                ("insert_args", batch.args),
                ("insert_edges", batch.edges),
                ("save_results", batch.results),
            )
            if rows
        ]
        written = {
            "jobs": encode(batch.jobs),
            "args": encode(batch.args),
            "edges": encode(batch.edges),
            "results": encode(batch.results),
        }
        notify(names, written, statements.schema, session.origin, batch.changes)
        await transaction.commit(statements.all(*names), written)
    return answers, batch.changes


def new_row(job: NewJob, dependencies: Sequence[UUID], number: int, now: datetime) -> Row:
    """Return the row of a new job, which waits for its dependencies, if any."""
    not_before = job.not_before
    return Row(
        id=job.id,
        seq=number,
        place=number,
        channel=job.channel,
        type=job.type,
        arch=job.arch or "",
        state=JobState.WAITING.value,
        priority=job.priority,
        queued_at=now,
        not_before=later(now, not_before) if isinstance(not_before, float | int) else not_before,
        started_at=None,
        finished_at=None,
        expires_at=None,
        retries=0,
        failures=0,
        returns=0,
        pending=0,
        attempt=0,
        worker_id=None,
        dependencies=dependencies,
        timeout=job.timeout,
        max_retries=job.max_retries,
        retry_on_failure=job.retry_on_failure,
        retry_backoff=job.retry_backoff,
        fail_with_dependency=job.on_dependency_failure is OnDependencyFailure.FAIL,
        retention=job.retention,
        idempotency_key=job.idempotency_key,
        fingerprint=job.fingerprint,
    )


_NOT_COLUMNS = frozenset({"place", "unsettled", "open_edges", "next_place"})

_COLUMNS = tuple(name for name in Row.__struct_fields__ if name not in _NOT_COLUMNS)


def record(row: Row, args: bytes | None) -> dict[str, Any]:
    """A row as `insert_jobs` takes it."""
    fields = {name: getattr(row, name) for name in _COLUMNS}
    fields["args_size"] = 0 if args is None else len(args)
    return fields


def edge(dependency: UUID, dependent: Row, *, is_open: bool) -> dict[str, Any]:
    """An edge as `insert_edges` takes it."""
    return {"dependency": dependency, "dependent": dependent.id, "seq": dependent.seq, "open": is_open}

"""What the contract's methods mean on the table: each decides which facts are to be true, and records them. No I/O."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TypeAlias
from uuid import UUID

from composerd.driver import StoredJob
from composerd.driver.clock import microseconds
from composerd.driver.transitions import RequeueCause
from composerd.errors import (
    CanceledDependency,
    ComposerdError,
    IdempotencyConflict,
    JobEnded,
    JobNotEnded,
    JobNotFound,
    UnknownDependency,
)
from composerd.models import (
    Attached,
    Attachment,
    Attempt,
    AttemptState,
    Claim,
    Enqueued,
    Finished,
    Job,
    JobState,
    NewJob,
    Outcome,
    Touch,
    Verdict,
)
from composerd_fs.journal import entries
from composerd_fs.journal.converting import artifact_fields, fields_of, restored
from composerd_fs.journal.entries import Payload, Record
from composerd_fs.state.job import Row, Run
from composerd_fs.state.table import SETTLED_AT_ONCE, Table
from composerd_fs.state.views import attempt_of, job_of

MAX_PARTIALS = 64 * 1024 * 1024
"""The most progress that is remembered, in bytes, of all running jobs together; the oldest is dropped."""

Copied: TypeAlias = tuple[UUID, bytes | None, bytes | None, Payload | None, Payload | None]
"""A job, its args and its result if they were copied, and where those were."""

BLOCKED_FOR = 60 * 1_000_000
"""When a job past its retention, that an unended one depends on, is looked at again; microseconds."""


class Operations:
    """The contract on one table. `store` puts a payload aside and says where it is; `record` keeps a fact."""

    def __init__(
        self, table: Table, now: Callable[[], int], store: Callable[[bytes], Payload], record: Callable[[Record], None]
    ) -> None:
        self._table = table
        self._now = now
        self._store = store
        self._record = record
        self._partials: OrderedDict[UUID, int] = OrderedDict()
        self._partials_size = 0

    def _let(self, record: Record) -> None:
        self._table.apply(record)
        self._record(record)

    def _settle(self, limit: int) -> int:
        """Draw what follows from ends, and record how far: whatever is decided next was decided knowing it."""
        settled = self._table.settle(limit)
        if settled:
            self._record(entries.Settled(settled))
        return settled

    # Writes.

    def enqueue(self, submissions: Sequence[Sequence[NewJob]]) -> list[Enqueued | ComposerdError]:
        """See `Driver.enqueue`."""
        answers: list[Enqueued | ComposerdError] = []
        for jobs in submissions:
            try:
                answers.append(self._enqueue(jobs))
            except ComposerdError as exc:
                answers.append(exc)
        self._settle(SETTLED_AT_ONCE)
        return answers

    def _enqueue(self, jobs: Sequence[NewJob]) -> Enqueued:
        table = self._table
        now = self._now()
        alias: dict[UUID, UUID] = {}
        fresh: dict[UUID, tuple[NewJob, tuple[UUID, ...]]] = {}
        keys: dict[tuple[str, str], UUID] = {}
        answer: list[tuple[UUID, bool]] = []
        for index, job in enumerate(jobs):
            if job.id in fresh or table.find(job.id) is not None:
                answer.append((job.id, True))
                continue
            dependencies = tuple([alias.get(one, one) for one in job.dependencies]) if alias else job.dependencies
            if job.idempotency_key is not None:
                key = (job.channel, job.idempotency_key)
                row = table.find_key(*key)
                existing = keys.get(key) if row is None else row.id
                if existing is not None:
                    known = (row.fingerprint, row.dependencies) if row else _of(fresh[existing])
                    if known != (job.fingerprint, dependencies):
                        raise IdempotencyConflict(index=index)
                    alias[job.id] = existing
                    answer.append((existing, False))
                    continue
                keys[key] = job.id
            for one in dependencies:
                dependency = table.find(one)
                if dependency is None:
                    if one not in fresh:
                        raise UnknownDependency(index=index, id=str(one))
                elif dependency.state is JobState.CANCELED:
                    raise CanceledDependency(index=index, id=str(one))
            fresh[job.id] = (job, dependencies)
            answer.append((job.id, True))
        if fresh:
            fields = [fields_of(job, dependencies, now, self._store) for job, dependencies in fresh.values()]
            self._let(entries.Enqueued(now, fields))
        return Enqueued(tuple([self._job(job_id) for job_id, _ in answer]), tuple([created for _, created in answer]))

    def _job(self, job_id: UUID) -> Job:
        row = self._table.find(job_id)
        assert row is not None, "it is stored by now"
        return job_of(row, self._table.dependents_of(row))

    def claim(self, requests: Sequence[Claim], max_bytes: int, size: Callable[[Payload], int]) -> list[Run | None]:
        """See `Driver.claim`: the attempts, of whose jobs the args have still to be read."""
        table = self._table
        answers: list[Run | None] = []
        weight = 0
        for request in requests:
            if answers and weight >= max_bytes:
                break
            run = table.find_run(request.token)
            if run is not None:
                run = run if run.state is AttemptState.RUNNING else None
            else:
                row = table.ready.take(request.keys)
                if row is not None:
                    self._let(
                        entries.Claimed(
                            self._now(),
                            row.id,
                            request.token,
                            microseconds(request.lease),
                            None if request.handover is None else microseconds(request.handover),
                            request.worker_id,
                        )
                    )
                    run = row.runs[-1]
            if run is not None and run.row.args is not None:
                weight += size(run.row.args)
            answers.append(run)
        return answers

    def attach(self, attachments: Sequence[Attachment]) -> list[Attached]:
        """See `Driver.attach`."""
        answers = []
        for one in attachments:
            run = self._table.find_run(one.token)
            replaced = None
            if run is not None and run.state is AttemptState.RUNNING:
                before = (run.artifacts or {}).get(one.artifact.name)
                if before != one.artifact:
                    self._let(entries.Attached(run.token, artifact_fields(one.artifact)))
                    replaced = None if before is None or before.location == one.artifact.location else before.location
                self._renew(run)
            answers.append(Attached(attempt_of(run), replaced))
        return answers

    def finish(self, outcomes: Sequence[Outcome]) -> list[Finished]:
        """See `Driver.finish`."""
        answers = []
        for outcome in outcomes:
            run = self._table.find_run(outcome.token)
            digest = _digest(outcome.result)
            if run is None:
                answers.append(Finished(Verdict.UNKNOWN))
                continue
            job_id = run.row.id
            if run.state is AttemptState.RUNNING:
                self._drop_partial(run.row)
                self._let(entries.Finished(self._now(), run.token, self._store(outcome.result), digest, outcome.failed))
                answers.append(Finished(Verdict.ACCEPTED, job_id))
            elif run.state is AttemptState.FINISHED:
                answers.append(Finished(Verdict.ACCEPTED if run.digest == digest else Verdict.CONFLICT, job_id))
            else:
                answers.append(Finished(Verdict(run.state.value), job_id))
        self._settle(SETTLED_AT_ONCE)
        return answers

    def release(self, tokens: Sequence[UUID]) -> list[Attempt]:
        """See `Driver.release`."""
        answers = []
        for token in tokens:
            run = self._table.find_run(token)
            answers.append(attempt_of(run))
            if run is not None and run.state is AttemptState.RUNNING:
                self._return(run, RequeueCause.RELEASED)
        self._settle(SETTLED_AT_ONCE)
        return answers

    def cancel(self, job_ids: Sequence[UUID]) -> list[Job | ComposerdError]:
        """See `Driver.cancel`."""
        answers: list[Job | ComposerdError] = []
        for job_id in job_ids:
            row = self._table.find(job_id)
            if row is None:
                answers.append(JobNotFound())
                continue
            if not row.state.ended:
                self._drop_partial(row)
                self._let(entries.Canceled(self._now(), row.id))
            canceled = row.state is JobState.CANCELED
            answers.append(self._job(job_id) if canceled else JobEnded(state=row.state.value))
        self._settle(SETTLED_AT_ONCE)
        return answers

    def delete(self, job_ids: Sequence[UUID]) -> list[Job | None | ComposerdError]:
        """See `Driver.delete`."""
        answers: list[Job | None | ComposerdError] = []
        for job_id in job_ids:
            row = self._table.find(job_id)
            if row is None:
                answers.append(None)
            elif not row.state.ended or row.needed:
                answers.append(JobNotEnded())
            else:
                answers.append(self._job(job_id))
                self._let(entries.Deleted([row.id]))
        return answers

    def advance(self, limit: int) -> list[UUID]:
        """See `Driver.advance`."""
        table = self._table
        now = self._now()
        done: list[UUID] = []
        settled = self._settle(limit)
        while len(done) + settled < limit and (row := table.delays.pop(now)) is not None:
            table.make_ready(row)
            done.append(row.id)
        while len(done) + settled < limit and (run := table.leases.pop(now)) is not None:
            self._return(run, self._cause(run, now))
            done.append(run.row.id)
        self._settle(limit)
        return done

    def next_due(self) -> int | None:
        """When `advance` has something to do again."""
        if self._table.unsettled:
            return 0
        due = [at for at in (self._table.delays.next(), self._table.leases.next()) if at is not None]
        return min(due) if due else None

    def purge(self, limit: int) -> list[UUID]:
        """See `Driver.purge`."""
        table = self._table
        now = self._now()
        blocked: list[int] = []
        purged: dict[UUID, None] = {}
        while len(purged) + len(blocked) < limit and (seq := table.expiries.pop(now)) is not None:
            row = table.at(seq)
            if row is None:
                continue
            if row.needed:
                blocked.append(seq)
            else:
                purged[row.id] = None
        if purged:
            self._let(entries.Deleted(list(purged)))
        for seq in blocked:
            table.expiries.add(now + BLOCKED_FOR, seq)
        return list(purged)

    def load(self, jobs: Sequence[StoredJob]) -> list[UUID]:
        """See `Driver.load`; the jobs that were not there yet."""
        loaded = []
        for stored in jobs:
            if self._table.find(stored.new.id) is None:
                self._let(restored(stored, self._now(), self._store))
                loaded.append(stored.new.id)
        self._settle(SETTLED_AT_ONCE)
        return loaded

    def move(self, copied: Sequence[Copied]) -> list[UUID]:
        """Let payloads be in this flush that were elsewhere, of jobs that still have them there; of which jobs."""
        moved = []
        for job_id, args, result, args_place, result_place in copied:
            row = self._table.find(job_id)
            if row is None:
                continue
            new_args = self._store(args) if args is not None and row.args == args_place else None
            new_result = self._store(result) if result is not None and row.result == result_place else None
            if new_args is not None or new_result is not None:
                self._let(entries.Moved(job_id, new_args, new_result))
                moved.append(job_id)
        return moved

    def _return(self, run: Run, cause: RequeueCause) -> None:
        self._drop_partial(run.row)
        self._let(entries.Returned(self._now(), run.token, cause))

    def _cause(self, run: Run, now: int) -> RequeueCause:
        timeout = run.row.policy.timeout
        if timeout is not None and self._table.timed_out_at(run, timeout) <= now:
            return RequeueCause.TIMED_OUT
        return RequeueCause.LEASE_EXPIRED if run.confirmed else RequeueCause.HANDOVER_EXPIRED

    # What is not journaled: it changes nothing that a crash may not forget.

    def touch(self, touches: Sequence[Touch]) -> list[Attempt]:
        """See `Driver.touch`."""
        answers = []
        for one in touches:
            run = self._table.find_run(one.token)
            answers.append(attempt_of(run))
            if run is None or run.state is not AttemptState.RUNNING:
                continue
            if one.confirm:
                self._renew(run)
            elif not run.confirmed:
                run.deadline = self._now() + (run.handover or 0)
            if one.partial is not None:
                self._keep_partial(run.row, one.partial)
        return answers

    def _renew(self, run: Run) -> None:
        run.confirmed = True
        deadline = self._now() + run.lease
        earlier = deadline < run.deadline
        run.deadline = deadline
        if earlier:  # the hand-over would have been longer
            self._table.leases.add(deadline, run)

    def _keep_partial(self, row: Row, partial: bytes) -> None:
        self._drop_partial(row)
        row.partial = partial
        self._partials[row.id] = len(partial)
        self._partials_size += len(partial)
        while self._partials_size > MAX_PARTIALS and len(self._partials) > 1:
            self._drop_partial(self._table.rows[next(iter(self._partials))])

    def _drop_partial(self, row: Row) -> None:
        self._partials_size -= self._partials.pop(row.id, 0)
        row.partial = None


def _of(fresh: tuple[NewJob, tuple[UUID, ...]]) -> tuple[bytes, tuple[UUID, ...]]:
    return fresh[0].fingerprint, fresh[1]


def _digest(result: bytes) -> bytes:
    return hashlib.sha256(result).digest()[:16]

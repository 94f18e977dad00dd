"""What the contract's writing methods mean, on the records of a shelf, in one transaction; it has no clock of its own.

The transitions are those of specs/state-machine.md; what follows from an end is drawn at once.
"""

import hashlib
from collections import deque
from collections.abc import Sequence
from uuid import UUID

import msgspec

from composerd.driver.clock import from_time, microseconds
from composerd.driver.contract import StoredJob
from composerd.driver.rules import ReturnCause, dependency_result, lost_result, on_return, retry_backoff
from composerd.driver.simple.record import Held, Record, due_in
from composerd.driver.simple.shelf import Shelf
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
    UNKNOWN_ATTEMPT,
    Attached,
    Attachment,
    Attempt,
    AttemptState,
    Claim,
    Claimed,
    Enqueued,
    Finish,
    Finished,
    Job,
    JobState,
    Key,
    NewJob,
    News,
    OnDependencyFailure,
    Outcome,
    PayloadKind,
    PayloadRef,
    Touch,
)


class Memo(msgspec.Struct):
    """What a shelf keeps beside the records."""

    number: int = 0
    """The last number and place that was given."""
    time: int = 0
    """The latest time that something was written at; the clock does not go behind it."""


class Meaning:
    """The contract in one transaction. An item that is wrong is found out before anything of it is written."""

    def __init__(self, shelf: Shelf, now: int) -> None:
        self.shelf = shelf
        self.now = now
        memo = shelf.memo()
        self.memo = Memo() if memo is None else msgspec.msgpack.decode(memo, type=Memo)
        self.ready: dict[Key, int] = {}
        self.ended: list[UUID] = []
        self.returned: list[UUID] = []
        self.due_at: int | None = None

    def complete(self) -> News:
        """Keep the memo; what this transaction changed that somebody may wait for."""
        self.memo.time = max(self.memo.time, self.now)
        self.shelf.keep_memo(msgspec.msgpack.encode(self.memo))
        return News(self.ready, tuple(self.ended), tuple(self.returned), due_in(self.due_at, self.now))

    # Submissions.

    def enqueue(self, submission: Sequence[NewJob]) -> Enqueued | ComposerdError:
        """See `Driver.enqueue`."""
        answer: list[tuple[UUID, bool]] = []
        alias: dict[UUID, UUID] = {}
        fresh: dict[UUID, NewJob] = {}
        for index, new in enumerate(submission):
            if new.id in fresh or self.shelf.read(new.id) is not None:
                answer.append((new.id, True))
                continue
            job = msgspec.structs.replace(new, dependencies=tuple(alias.get(one, one) for one in new.dependencies))
            existing = self.with_key(job, fresh)
            if existing is not None:
                if (existing.fingerprint, existing.dependencies) != (job.fingerprint, job.dependencies):
                    return IdempotencyConflict(index=index)
                alias[job.id] = existing.id
                answer.append((existing.id, False))
                continue
            for one in job.dependencies:
                dependency = None if one in fresh else self.find(one)
                if dependency is None and one not in fresh:
                    return UnknownDependency(index=index, id=str(one))
                if dependency is not None and dependency.state is JobState.CANCELED:
                    return CanceledDependency(index=index, id=str(one))
            fresh[job.id] = job
            answer.append((job.id, True))
        for job in fresh.values():
            self.add(job)
        return Enqueued(tuple(self.job(one) for one, _ in answer), tuple(created for _, created in answer))

    def with_key(self, job: NewJob, fresh: dict[UUID, NewJob]) -> NewJob | None:
        """The job that has the idempotency key already."""
        if job.idempotency_key is None:
            return None
        found = self.shelf.with_key(job.channel, job.idempotency_key)
        if found is not None:
            return self.get(found).new
        wanted = (job.channel, job.idempotency_key)
        return next((one for one in fresh.values() if (one.channel, one.idempotency_key) == wanted), None)

    def add(self, new: NewJob) -> None:
        """Store a new job."""
        number = self.next_number()
        record = Record(
            new=msgspec.structs.replace(new, args=None, not_before=None),
            number=number,
            place=number,
            queued_at=self.now,
            not_before=self.moment(new),
        )
        if new.args is not None:
            self.shelf.keep_payload(PayloadRef(new.id, PayloadKind.ARGS), new.args)
        dependencies = [self.get(one) for one in record.dependencies]
        record.pending = sum(not one.state.ended for one in dependencies)
        if self.is_strict(record) and any(one.state is JobState.FAILED for one in dependencies):
            self.end(record, JobState.FAILED, dependency_result(self.failed_dependencies(record)))
        else:
            self.wait(record)

    def moment(self, new: NewJob) -> int | None:
        """When a job's time comes."""
        if isinstance(new.not_before, float | int):
            return self.now + microseconds(new.not_before)
        return None if new.not_before is None else from_time(new.not_before)

    # Attempts.

    def claim(self, request: Claim) -> Claimed | None:
        """See `Driver.claim`."""
        known = self.shelf.with_token(request.token)
        if known is not None:
            record = self.get(known)
            held = record.held(request.token)
            if held.state is not AttemptState.RUNNING:
                return None
        else:
            job_id = self.shelf.first_ready(request.keys)
            if job_id is None:
                return None
            record = self.get(job_id)
            record.begin(request, self.now)
            held = record.attempts[-1]
            self.save(record)
        args = self.shelf.payload(PayloadRef(record.id, PayloadKind.ARGS))
        return Claimed(request.token, record.id, record.new.key, args, record.new.dependencies, held.number)

    def touch(self, touch: Touch) -> Attempt:
        """See `Driver.touch`."""
        record, held, attempt = self.attempt(touch.token)
        if record is None or held is None:
            return attempt
        if touch.confirm:
            held.renew(self.now)
        elif not held.confirmed:
            held.deadline = self.now + microseconds(held.handover or 0)
        if touch.partial is not None:
            record.partial = touch.partial
        self.save(record)
        return attempt

    def attach(self, attachment: Attachment) -> Attached:
        """See `Driver.attach`."""
        record, held, attempt = self.attempt(attachment.token)
        if record is None or held is None:
            return Attached(attempt)
        artifact = attachment.artifact
        before = held.artifacts.get(artifact.name)
        held.artifacts[artifact.name] = artifact
        held.renew(self.now)
        self.save(record)
        return Attached(attempt, None if before is None or before.place == artifact.place else before.place)

    def finish(self, outcome: Outcome) -> Finished:
        """See `Driver.finish`."""
        digest = hashlib.sha256(outcome.result).digest()[:16]
        record, held, attempt = self.attempt(outcome.token)
        if record is None or held is None:
            if attempt.state is AttemptState.FINISHED:
                same = self.get_held(outcome.token).digest == digest
                return Finished(Finish.ACCEPTED if same else Finish.CONFLICT, attempt.job_id)
            return Finished(Finish(attempt.state.value), attempt.job_id)
        held.state, held.digest = AttemptState.FINISHED, digest
        if outcome.failed and record.failures < record.new.retry_on_failure:
            record.failures += 1
            record.retries += 1
            record.returns = 0
            record.not_before = self.now + microseconds(retry_backoff(record.new.retry_backoff, record.failures))
            self.put_back(record)
        else:
            record.artifacts = held.artifacts
            self.end(record, JobState.FAILED if outcome.failed else JobState.FINISHED, outcome.result)
        return Finished(Finish.ACCEPTED, record.id)

    def release(self, token: UUID) -> Attempt:
        """See `Driver.release`."""
        record, held, attempt = self.attempt(token)
        if record is not None and held is not None:
            self.give_back(record, held, ReturnCause.RELEASED)
        return attempt

    def attempt(self, token: UUID) -> tuple[Record | None, Held | None, Attempt]:
        """What is said of an attempt; with the job and the attempt itself, to be changed, only if it runs."""
        job_id = self.shelf.with_token(token)
        if job_id is None:
            return None, None, UNKNOWN_ATTEMPT
        record = self.get(job_id)
        held = record.held(token)
        attempt = msgspec.structs.replace(held.seen, job_id=job_id)
        return (record, held, attempt) if held.state is AttemptState.RUNNING else (None, None, attempt)

    def get_held(self, token: UUID) -> Held:
        """The attempt of a known token."""
        job_id = self.shelf.with_token(token)
        assert job_id is not None
        return self.get(job_id).held(token)

    def give_back(self, record: Record, held: Held, cause: ReturnCause) -> None:
        """Let an attempt end without an outcome."""
        held.state = AttemptState.SUPERSEDED
        record.retries, record.returns, again = on_return(
            cause, record.retries, record.failures, record.returns, record.new.max_retries
        )
        if again:
            self.put_back(record)
        else:
            self.end(record, JobState.FAILED, lost_result(cause, record.new.max_retries))

    # Time.

    def advance(self, limit: int) -> list[UUID]:
        """See `Driver.advance`."""
        done = list(self.shelf.due(self.now, limit))
        for job_id in done:
            record = self.get(job_id)
            held = record.running
            if held is None:
                self.wait(record)
            elif held.timeout_at is not None and held.timeout_at <= self.now:
                self.give_back(record, held, ReturnCause.TIMEOUT)
            else:
                self.give_back(record, held, ReturnCause.LEASE if held.confirmed else ReturnCause.HANDOVER)
        self.due_at = self.now if len(done) == limit else self.shelf.next_due()
        return done

    def begin_anew(self) -> None:
        """The storage was opened."""
        for job_id in self.shelf.running():
            record = self.get(job_id)
            record.begin_anew(self.now)
            self.save(record)

    # Ends, and what follows from them.

    def cancel(self, job_id: UUID) -> Job | ComposerdError:
        """See `Driver.cancel`."""
        record = self.find(job_id)
        if record is None:
            return JobNotFound()
        if not record.state.ended:
            self.end(record, JobState.CANCELED, None)
        return self.job(job_id) if record.state is JobState.CANCELED else JobEnded(state=record.state.value)

    def delete(self, job_id: UUID) -> Job | None | ComposerdError:
        """See `Driver.delete`."""
        record = self.find(job_id)
        if record is None:
            return None
        if not record.state.ended or self.is_needed(record):
            return JobNotEnded()
        job = self.job(job_id)
        self.shelf.remove(record)
        return job

    def purge(self, limit: int) -> list[UUID]:
        """See `Driver.purge`."""
        purged: list[UUID] = []
        for job_id in self.shelf.expired(self.now):
            record = self.get(job_id)
            if len(purged) < limit and not self.is_needed(record):
                self.shelf.remove(record)
                purged.append(job_id)
        return purged

    def end(self, record: Record, state: JobState, result: bytes | None) -> None:
        """End a job, and draw what follows for those that depend on it, and on those."""
        self.finish_off(record, state, result)
        ended = deque([record])
        while ended:
            dependency = ended.popleft()
            for job_id in self.shelf.dependents(dependency.id):
                dependent = self.get(job_id)
                if dependent.state is JobState.WAITING and self.follow(dependent, dependency):
                    ended.append(dependent)

    def finish_off(self, record: Record, state: JobState, result: bytes | None) -> None:
        """End one job."""
        if (held := record.running) is not None and held.state is AttemptState.RUNNING:
            held.state = AttemptState.CANCELED
        record.state, record.finished_at, record.partial = state, self.now, None
        if result is not None:
            self.shelf.keep_payload(PayloadRef(record.id, PayloadKind.RESULT), result)
        self.save(record)
        self.ended.append(record.id)

    def follow(self, record: Record, dependency: Record) -> bool:
        """Draw what follows for a waiting job from the end of one that it depends on; whether it ended."""
        if dependency.state is JobState.CANCELED:
            self.finish_off(record, JobState.CANCELED, None)
        elif dependency.state is JobState.FAILED and self.is_strict(record):
            self.finish_off(record, JobState.FAILED, dependency_result(self.failed_dependencies(record)))
        else:
            record.pending -= 1
            self.wait(record)
        return record.state.ended

    def failed_dependencies(self, record: Record) -> list[UUID]:
        """Those that have failed, in the job's order."""
        found = [self.find(one) for one in record.dependencies]
        return [one.id for one in found if one is not None and one.state is JobState.FAILED]

    def is_strict(self, record: Record) -> bool:
        """Whether it fails with a dependency."""
        return record.new.on_dependency_failure is OnDependencyFailure.FAIL

    def is_needed(self, record: Record) -> bool:
        """Whether an unended job depends on it."""
        return any(not self.get(one).state.ended for one in self.shelf.dependents(record.id))

    def put_back(self, record: Record) -> None:
        """Let a job wait again, behind those of its priority."""
        record.place = self.next_number()
        record.partial = None
        self.returned.append(record.id)
        self.wait(record)

    def wait(self, record: Record) -> None:
        """Let a job wait for what it has to wait for, or be ready."""
        record.state = JobState.WAITING
        if record.pending == 0 and (record.not_before is None or record.not_before <= self.now):
            record.state = JobState.READY
            self.ready[record.new.key] = self.ready.get(record.new.key, 0) + 1
        self.save(record)

    # Moving.

    def load(self, stored: StoredJob) -> None:
        """See `Driver.load`."""
        if self.shelf.read(stored.new.id) is not None:
            return
        record = Record.loaded(stored, self.next_number(), self.now)
        for kind, payload in ((PayloadKind.ARGS, stored.new.args), (PayloadKind.RESULT, stored.result)):
            if payload is not None:
                self.shelf.keep_payload(PayloadRef(record.id, kind), payload)
        found = [one for one in map(self.find, record.dependencies) if one is not None]
        record.pending = sum(not one.state.ended for one in found)
        self.save(record)
        if record.state is JobState.WAITING:  # perhaps what follows was not drawn yet where it came from
            ended = [one for one in found if one.state.ended]
            record.pending += len(ended)
            for dependency in ended:
                if record.state is JobState.WAITING:
                    self.follow(record, dependency)

    # Records.

    def find(self, job_id: UUID) -> Record | None:
        """A record, if it is there."""
        encoded = self.shelf.read(job_id)
        return None if encoded is None else Record.decoded(encoded)

    def get(self, job_id: UUID) -> Record:
        """A record that is there."""
        record = self.find(job_id)
        assert record is not None, f"the storage has lost the job {job_id}"
        return record

    def save(self, record: Record) -> None:
        """Keep a record."""
        self.shelf.write(record)
        if record.due_at is not None and (self.due_at is None or record.due_at < self.due_at):
            self.due_at = record.due_at

    def job(self, job_id: UUID) -> Job:
        """A job as `get` has it."""
        return self.get(job_id).job(tuple(self.shelf.dependents(job_id)))

    def next_number(self) -> int:
        """A number larger than any before."""
        self.memo.number += 1
        return self.memo.number

"""The contract's writing methods on the records of a shelf, in one transaction.

`composerd.driver.transitions` decides what happens to a job. What follows from each change is in `changes`.
"""

from collections.abc import Iterator, Sequence
from uuid import UUID

import msgspec

from composerd.driver import transitions
from composerd.driver.attachments import difference, exceeded
from composerd.driver.records import StoredJobView
from composerd.driver.simple.changes import Changes
from composerd.driver.simple.records import AttemptRecord, JobRecord
from composerd.driver.submissions import PlannedJob, plan
from composerd.driver.transitions import RequeueCause
from composerd.driver.values import StoredJob
from composerd.errors import ComposerdError, JobEnded, JobNotEnded, JobNotFound
from composerd.models import (
    MAX_SHOWN_DEPENDENTS,
    MAX_STEP,
    UNKNOWN_ATTEMPT,
    Attached,
    Attachment,
    Attempt,
    AttemptState,
    Claim,
    Claimed,
    Enqueued,
    Finished,
    Job,
    JobFilter,
    JobState,
    NewJob,
    Outcome,
    PayloadKind,
    PayloadRef,
    Touch,
    Verdict,
)


class Kept(msgspec.Struct):
    """Ended jobs that are not purged for now, although their retention seems to be over."""

    before: int
    """Jobs that ended before this time are kept."""
    jobs: set[UUID] = msgspec.field(default_factory=set)
    """The jobs that were found to be kept, so that each is read only once."""


class Transaction(Changes):
    """The writing methods of the contract in one transaction of a shelf. A refused item has changed nothing."""

    # Submissions.

    def enqueue(self, submission: Sequence[NewJob]) -> Enqueued | ComposerdError:
        """Store a submission, all or nothing; see `Driver.enqueue`."""
        try:
            planned = plan(submission, self.find, self.find_key)
        except ComposerdError as exc:
            return exc
        for job in planned.new:
            self.add(job)
        jobs = tuple(self.get(job_id).job() for job_id, _ in planned.answer)
        return Enqueued(jobs, tuple(created for _, created in planned.answer))

    def find_key(self, channel: str, idempotency_key: str) -> StoredJobView | None:
        """Return the job that an idempotency key stands for in a channel, or None."""
        found = self.shelf.with_key(channel, idempotency_key)
        return None if found is None else self.get(found)

    def add(self, planned: PlannedJob) -> None:
        """Store a new job."""
        new, dependencies = planned
        sequence = self.next_sequence()
        record = JobRecord(
            new=msgspec.structs.replace(new, args=None, not_before=None, dependencies=dependencies),
            sequence=sequence,
            position=sequence,
            queued_at=self.now,
            not_before=self.starts_at(new),
            has_args=new.args is not None,
            args_size=len(new.args or b""),
        )
        if new.args is not None:
            self.shelf.store_payload(PayloadRef(new.id, PayloadKind.ARGS), new.args)
        found = [self.get(one) for one in record.distinct_dependencies]
        self.apply(record, transitions.submit(record, found, self.now))

    def starts_at(self, new: NewJob) -> int | None:
        """Return the time before which a new job may not start, or None."""
        return transitions.starts_at(new, self.now)

    # Attempts.

    def claim(self, request: Claim) -> Claimed | None:
        """Begin an attempt at the best ready job of the request's keys; see `Driver.claim`."""
        known = self.shelf.with_token(request.token)
        if known is not None:
            record = self.get(known)
            attempt = record.with_token(request.token)
            if attempt.state is not AttemptState.RUNNING:
                return None
        else:
            job_id = self.shelf.first_ready(request.keys)
            if job_id is None:
                return None
            record = self.get(job_id)
            attempt = self.begin(record, request)
        args = self.shelf.payload(PayloadRef(record.id, PayloadKind.ARGS))
        dependencies = record.new.dependencies
        return Claimed(request.token, record.id, record.new.key, args, dependencies, attempt.number, attempt.confirmed)

    def begin(self, record: JobRecord, request: Claim) -> AttemptRecord:
        """Begin an attempt at a ready job and return it."""
        attempt = AttemptRecord.claimed(request)
        transitions.begin(record, attempt, self.now)
        record.remember(attempt)
        self.save(record)
        return attempt

    def touch(self, touch: Touch) -> Attempt:
        """Renew a running attempt; see `Driver.touch`."""
        record, running, answer = self.attempt(touch.token)
        if record is None or running is None:
            return answer
        if touch.confirm:
            transitions.renew(running, self.now)
        else:
            transitions.restart_handover(running, self.now)
        if touch.partial is not None:
            record.partial = touch.partial
        self.save(record)
        return answer

    def attach(self, attachment: Attachment) -> Attached:
        """Add a file to a running attempt; see `Driver.attach`."""
        record, running, answer = self.attempt(attachment.token)
        if record is None or running is None:
            return Attached(answer)
        artifact = attachment.artifact
        before = running.artifacts.get(artifact.name)
        refused = exceeded(running.artifacts, attachment)
        if refused is None:
            running.artifacts[artifact.name] = artifact
        transitions.renew(running, self.now)
        self.save(record)
        if refused is not None or before is None or before.location == artifact.location:
            return Attached(answer, exceeded=refused)
        return Attached(answer, before.location)

    def finish(self, outcome: Outcome) -> Finished:
        """End a running attempt with its outcome; see `Driver.finish`."""
        digest = transitions.result_digest(outcome.result)
        record, running, answer = self.attempt(outcome.token)
        if record is None or running is None:
            ended = None if answer.job_id is None else self.get(answer.job_id).with_token(outcome.token)
            return Finished(transitions.verdict(ended, digest), answer.job_id)
        if outcome.artifacts is not None and (differs := difference(running.artifacts, outcome.artifacts)) is not None:
            return Finished(Verdict.DIFFERS, record.id, differs)
        verdict = transitions.verdict(running, digest)
        effects = transitions.finish(
            record,
            running,
            failed=outcome.failed,
            digest=digest,
            now=self.now,
            next_position=self.next_sequence,
        )
        if effects.publish:
            record.artifacts = running.artifacts
        self.apply(record, effects._replace(result=outcome.result) if effects.ended else effects)
        return Finished(verdict, record.id)

    def release(self, token: UUID) -> Attempt:
        """Requeue the job of a running attempt; see `Driver.release`."""
        record, running, answer = self.attempt(token)
        if record is not None and running is not None:
            self.requeue(record, running, RequeueCause.RELEASED)
        return answer

    def attempt(self, token: UUID) -> tuple[JobRecord | None, AttemptRecord | None, Attempt]:
        """Return the job and the attempt of a token, to be changed, and the attempt as the contract describes it.

        The first two are None unless the attempt is running.
        """
        job_id = self.shelf.with_token(token)
        if job_id is None:
            return None, None, UNKNOWN_ATTEMPT
        record = self.get(job_id)
        attempt = record.with_token(token)
        answer = attempt.attempt(job_id)
        return (record, attempt, answer) if attempt.state is AttemptState.RUNNING else (None, None, answer)

    def requeue(self, record: JobRecord, attempt: AttemptRecord, cause: RequeueCause) -> None:
        """End a running attempt without an outcome."""
        effects = transitions.requeue(record, attempt, cause, now=self.now, next_position=self.next_sequence)
        self.apply(record, effects)

    # Time.

    def advance(self, limit: int) -> list[UUID]:
        """Do up to `limit` of what is due and return the jobs that it concerned; see `Driver.advance`."""
        done = list(self.shelf.due(self.now, limit))
        for job_id in done:
            record = self.get(job_id)
            if record.unpropagated is not None:
                self.propagate(record)
            elif record.running is None:
                self.apply(record, transitions.start_delayed(record))
            elif (cause := transitions.expiry(record.running, self.now)) is not None:
                self.requeue(record, record.running, cause)
        self.due_at = self.now if len(done) == limit else self.shelf.next_due()
        return done

    def resume(self, jump: int) -> None:
        """Give every running attempt a full lease, because the storage was opened."""
        for record, running in self.running():
            transitions.resume(running, self.now, jump)
            running.handover_seconds = None  # nothing is being delivered any more
            self.save(record)
        self.shorten_backoffs(jump)

    def grant_grace(self, jump: int = 0) -> None:
        """Give every running attempt a full lease, because the clock jumped or nobody could renew it."""
        for record, running in self.running():
            transitions.grant_grace(running, self.now, jump)
            self.save(record)
        self.shorten_backoffs(jump)

    def shorten_backoffs(self, jump: int) -> None:
        """Let no job wait for longer than its backoff after the clock was set back."""
        for job_id in self.shelf.page(JobFilter(JobState.WAITING), None, 2**62) if jump < 0 else ():
            record = self.get(job_id)
            if record.pending == 0 and transitions.shorten_backoff(record, self.now):
                self.save(record)

    def running(self) -> Iterator[tuple[JobRecord, AttemptRecord]]:
        """Iterate over the running jobs and their running attempts."""
        for job_id in self.shelf.running():
            record = self.get(job_id)
            assert record.running is not None
            yield record, record.running

    # Ends.

    def cancel(self, job_id: UUID) -> Job | ComposerdError:
        """Cancel a job and all that depend on it; see `Driver.cancel`."""
        record = self.find(job_id)
        if record is None:
            return JobNotFound()
        if not record.state.ended:
            self.apply(record, transitions.cancel(record, record.running, self.now))
        return self.job(job_id) if record.state is JobState.CANCELED else JobEnded(state=record.state.value)

    def delete(self, job_id: UUID) -> Job | None | ComposerdError:
        """Delete an ended job; see `Driver.delete`."""
        record = self.find(job_id)
        if record is None:
            return None
        if not transitions.deletable(record.state, needed=self.is_needed(record)):
            return JobNotEnded()
        job = self.job(job_id)
        self.remove(record)
        return job

    def purge(self, limit: int, kept: Kept) -> list[UUID]:
        """Delete up to `limit` jobs whose retention is over, and return them; see `Driver.purge`."""
        purged: list[UUID] = []
        for job_id in self.shelf.expired(self.now):
            if len(purged) == limit:
                break
            if job_id in kept.jobs:
                continue
            record = self.get(job_id)
            if (record.finished_at or 0) < kept.before:
                kept.jobs.add(job_id)
            elif transitions.deletable(record.state, needed=self.is_needed(record)):
                self.remove(record)
                purged.append(job_id)
        return purged

    def is_needed(self, record: JobRecord) -> bool:
        """Return True if an unended job depends on it."""
        after = 0
        while found := [self.get(one) for one in self.shelf.dependents_after(record.id, after, MAX_STEP)]:
            if not all(one.state.ended for one in found):
                return True
            after = found[-1].sequence
        return False

    # Opening.

    def count_all(self) -> None:
        """Count what all jobs use, if an earlier version had the storage, which does not."""
        if self.shelf.counts_usage and not self.memo.counted:
            self.usage.count_all()
            self.memo.counted = True

    # Moving.

    def load(self, stored: StoredJob) -> None:
        """Store a job from another storage; see `Driver.load`."""
        if self.shelf.read(stored.new.id) is not None:
            return
        record = JobRecord.loaded(stored, self.next_sequence(), self.now)
        for kind, payload in ((PayloadKind.ARGS, stored.new.args), (PayloadKind.RESULT, stored.result)):
            if payload is not None:
                self.shelf.store_payload(PayloadRef(record.id, kind), payload)
        found = [one for one in map(self.find, record.distinct_dependencies) if one is not None]
        if record.state is not JobState.WAITING:
            self.save(record)
            return
        record.pending = len(found)
        self.save(record)
        for dependency in found:  # an end may not have been propagated in the storage that the job comes from
            if dependency.state.ended:
                self.apply(record, self.dependency_ended(record, dependency))

    def job(self, job_id: UUID) -> Job:
        """Return a stored job as `Driver.get` does."""
        return self.get(job_id).job(tuple(self.shelf.dependents_after(job_id, 0, MAX_SHOWN_DEPENDENTS)))

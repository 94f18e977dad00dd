"""Drivers that break the clauses of attempts, time, outcomes, requeues and cancels (L, F, R, X)."""

from uuid import UUID

import msgspec

from composerd.driver import transitions
from composerd.driver.simple import JobRecord
from composerd.driver.simple.records import AttemptRecord
from composerd.driver.simple.transaction import Transaction
from composerd.driver.transitions import Effects, RequeueCause
from composerd.errors import ComposerdError
from composerd.models import (
    Attempt,
    AttemptState,
    Claim,
    Claimed,
    Finished,
    Job,
    JobFilter,
    JobState,
    Outcome,
    Touch,
    Verdict,
)

from .correct import CorrectShared
from .registry import breaks


@breaks("L1")
class DoesNotRenewOnTouch(Transaction):
    """Does not renew the lease when an attempt is touched."""

    def touch(self, touch: Touch) -> Attempt:
        return self.attempt(touch.token)[2]


@breaks("L2")
class NeverEndsALease(Transaction):
    """Renews a lease that has expired instead of ending the attempt."""

    def requeue(self, record: JobRecord, attempt: AttemptRecord, cause: RequeueCause) -> None:
        if cause is RequeueCause.LEASE_EXPIRED:
            transitions.renew(attempt, self.now)
            self.save(record)
        else:
            super().requeue(record, attempt, cause)


@breaks("L3")
class EndsBeforeAdvance(Transaction):
    """Treats an attempt as superseded as soon as its time is over, before `advance` has ended it."""

    def attempt(self, token: UUID) -> tuple[JobRecord | None, AttemptRecord | None, Attempt]:
        record, running, answer = super().attempt(token)
        if running is not None and running.deadline <= self.now:
            return None, None, msgspec.structs.replace(answer, state=AttemptState.SUPERSEDED)
        return record, running, answer


@breaks("L4")
class CountsExpiredHandovers(Transaction):
    """Counts the requeue after a handover that was never confirmed."""

    def requeue(self, record: JobRecord, attempt: AttemptRecord, cause: RequeueCause) -> None:
        counted = cause is RequeueCause.HANDOVER_EXPIRED
        super().requeue(record, attempt, RequeueCause.LEASE_EXPIRED if counted else cause)


@breaks("L5")
class ConfirmsOnEveryTouch(Transaction):
    """Confirms an attempt on every touch, even on one that does not confirm."""

    def touch(self, touch: Touch) -> Attempt:
        return super().touch(Touch(touch.token, touch.partial))


@breaks("L6")
class IgnoresTimeouts(Transaction):
    """Lets an attempt run for longer than its job's timeout."""

    def claim(self, request: Claim) -> Claimed | None:
        claimed = super().claim(request)
        if claimed is not None:
            record = self.get(claimed.job_id)
            record.attempts[-1].timeout_at = None
            self.save(record)
        return claimed


@breaks("L7")
class DropsProgress(Transaction):
    """Drops the progress when a touch has none."""

    def touch(self, touch: Touch) -> Attempt:
        return super().touch(Touch(touch.token, touch.partial or b"", touch.confirm))


@breaks("L8")
class OmitsThePromise(Transaction):
    """Does not say that the worker promised to confirm."""

    def attempt(self, token: UUID) -> tuple[JobRecord | None, AttemptRecord | None, Attempt]:
        record, running, answer = super().attempt(token)
        return record, running, msgspec.structs.replace(answer, confirm=False)


@breaks("L9")
class RenewsForEndedAttempts(Transaction):
    """Renews the running attempt when an ended one is touched."""

    def touch(self, touch: Touch) -> Attempt:
        attempt = super().touch(touch)
        if attempt.job_id is not None and (running := (record := self.get(attempt.job_id)).running) is not None:
            transitions.renew(running, self.now)
            self.save(record)
        return attempt


@breaks("L10")
class RemembersFifteenTokens(Transaction):
    """Remembers the latest 15 tokens of a job instead of 16."""

    def claim(self, request: Claim) -> Claimed | None:
        claimed = super().claim(request)
        if claimed is not None:
            record = self.get(claimed.job_id)
            record.attempts = record.attempts[-15:]
            self.save(record)
        return claimed


@breaks("L11")
class EndsLeasesAtStart(Transaction):
    """Ends the leases that expired while the storage was closed."""

    def resume(self, jump: int) -> None:
        pass


@breaks("L12")
class IgnoresTheAdvanceLimit(Transaction):
    """Does everything that is due in one call of `advance`."""

    def advance(self, limit: int) -> list[UUID]:
        return super().advance(10**9)


@breaks("L13")
class StartsDelayedJobsEarly(Transaction):
    """Makes a delayed job ready two minutes early."""

    def advance(self, limit: int) -> list[UUID]:
        self.now += 120_000_000
        return super().advance(limit)


@breaks("L14")
class EndsAttemptsOnAJump(Transaction):
    """Ends the attempts whose lease is over by the clock after it jumped."""

    def grant_grace(self, jump: int = 0) -> None:
        if not jump:
            super().grant_grace()


@breaks("L15")
class IgnoresGrace(Transaction):
    """Ends attempts that nobody could renew while the server stood still."""

    def grant_grace(self, jump: int = 0) -> None:
        if jump:
            super().grant_grace(jump)


@breaks("G10")
class ExcusesTheConfirmed(Transaction):
    """Ends attempts that could not be confirmed in an outage."""

    def grant_grace(self, jump: int = 0) -> None:
        for record, running in self.running():
            if running.confirmed:
                transitions.grant_grace(running, self.now, jump)
                self.save(record)
        self.shorten_backoffs(jump)


@breaks("L16")
class RenewsBesideOthers(CorrectShared):
    """Gives every running attempt a full lease at each start, although another server has the storage open."""

    def extend_lease(self, transaction: Transaction) -> None:
        transaction.grant_grace()


@breaks("L17")
class CountsDelays(Transaction):
    """Lets a delayed job wait as long as it was to wait when it was submitted, whatever the clock shows."""

    def grant_grace(self, jump: int = 0) -> None:
        super().grant_grace(jump)
        for job_id in self.shelf.page(JobFilter(JobState.WAITING), None, 1000):
            record = self.get(job_id)
            if record.not_before is not None:
                record.not_before += jump
                self.save(record)


@breaks("L18")
class CountsWhatNobodyRan(Transaction):
    """Counts the requeue after a lease during which nobody ever asked about the attempt."""

    def requeue(self, record: JobRecord, attempt: AttemptRecord, cause: RequeueCause) -> None:
        counted = cause is RequeueCause.HANDOVER_EXPIRED and attempt.handover is None
        super().requeue(record, attempt, RequeueCause.LEASE_EXPIRED if counted else cause)


@breaks("L19")
class CountsTimeoutsThatNobodySaw(Transaction):
    """Counts a timeout of an attempt about which nobody ever asked."""

    def requeue(self, record: JobRecord, attempt: AttemptRecord, cause: RequeueCause) -> None:
        timed_out = cause is not RequeueCause.RELEASED and (attempt.timeout_at or self.now + 1) <= self.now
        super().requeue(record, attempt, RequeueCause.TIMED_OUT if timed_out else cause)


@breaks("L20")
class ConfirmsAtTheStart(Transaction):
    """Confirms running attempts when the storage is opened, so that one which nobody ever saw is counted."""

    def resume(self, jump: int) -> None:
        super().resume(jump)
        for record, running in self.running():
            running.confirmed = True
            self.save(record)


@breaks("L21")
class RenewsOnEveryTouch(Transaction):
    """Renews the lease of an attempt without a handover on a touch that does not confirm."""

    def touch(self, touch: Touch) -> Attempt:
        attempt = super().touch(touch)
        record, running, _ = self.attempt(touch.token)
        if record is not None and running is not None and running.handover is None:
            running.deadline = self.now + running.lease
            self.save(record)
        return attempt


@breaks("L22")
class SaysThatNobodyHasCalled(Transaction):
    """Never says of an attempt that its worker has called."""

    def touch(self, touch: Touch) -> Attempt:
        return msgspec.structs.replace(super().touch(touch), confirmed=False)


@breaks("F1")
class FinishesFailedJobs(Transaction):
    """Ends a job with a failed outcome as finished."""

    def apply(self, record: JobRecord, effects: Effects) -> None:
        if record.state is JobState.FAILED:
            record.state = JobState.FINISHED
        super().apply(record, effects)


@breaks("F2")
class AcceptsAnotherResult(Transaction):
    """Accepts another result of an attempt that has finished."""

    def finish(self, outcome: Outcome) -> Finished:
        finished = super().finish(outcome)
        return Finished(Verdict.ACCEPTED, finished.job_id) if finished.verdict is Verdict.CONFLICT else finished


@breaks("F3")
class AcceptsSupersededOutcomes(Transaction):
    """Accepts the outcome of a superseded attempt."""

    def finish(self, outcome: Outcome) -> Finished:
        finished = super().finish(outcome)
        return Finished(Verdict.ACCEPTED, finished.job_id) if finished.verdict is Verdict.SUPERSEDED else finished


@breaks("F4")
class RetriesWithoutBackoff(Transaction):
    """Makes a failed job ready again at once, without a backoff."""

    def apply(self, record: JobRecord, effects: Effects) -> None:
        if effects.requeued:
            record.not_before, record.state = None, JobState.READY
            effects = transitions.REQUEUED_READY
        super().apply(record, effects)


@breaks("F5")
class SharesOneBudget(Transaction):
    """Lets failed outcomes use up `max_retries`."""

    def requeue(self, record: JobRecord, attempt: AttemptRecord, cause: RequeueCause) -> None:
        record.failures = 0
        super().requeue(record, attempt, cause)


@breaks("F6")
class LooksAtNoDigests(Transaction):
    """Compares the names and sizes of listed artifacts, and no digests."""

    def finish(self, outcome: Outcome) -> Finished:
        listed = outcome.artifacts
        if listed is not None:
            listed = tuple(msgspec.structs.replace(one, sha256=None) for one in listed)
        return super().finish(msgspec.structs.replace(outcome, artifacts=listed))


@breaks("R1")
class CountsReleases(Transaction):
    """Counts a release."""

    def requeue(self, record: JobRecord, attempt: AttemptRecord, cause: RequeueCause) -> None:
        super().requeue(record, attempt, RequeueCause.LEASE_EXPIRED if cause is RequeueCause.RELEASED else cause)


@breaks("R2")
class NeverCountsReleases(Transaction):
    """Never counts a release or an expired handover, however many come in a row."""

    def requeue(self, record: JobRecord, attempt: AttemptRecord, cause: RequeueCause) -> None:
        record.uncounted_requeues = 0
        super().requeue(record, attempt, cause)


@breaks("R3")
class IgnoresMaxRetries(Transaction):
    """Requeues a job although its `max_retries` is used up."""

    def requeue(self, record: JobRecord, attempt: AttemptRecord, cause: RequeueCause) -> None:
        record.retries = min(record.retries, record.failures + record.new.max_retries - 1)
        super().requeue(record, attempt, cause)


@breaks("X1")
class DoesNotCancelRunningJobs(Transaction):
    """Does not cancel a running job."""

    def cancel(self, job_id: UUID) -> Job | ComposerdError:
        record = self.find(job_id)
        running = record is not None and record.state is JobState.RUNNING
        return self.job(job_id) if running else super().cancel(job_id)


@breaks("X2")
class DoesNotPropagateCancels(Transaction):
    """Does not cancel the jobs that depend on a canceled one."""

    def dependency_ended(self, record: JobRecord, dependency: JobRecord) -> Effects:
        if dependency.state is JobState.CANCELED:
            return transitions.dependency_ended(record, JobState.FINISHED, list, self.now)
        return super().dependency_ended(record, dependency)

"""Drivers that break what the contract says of attempts, time, outcomes, returns and cancels (L, F, R, X)."""

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
    JobState,
    Outcome,
    Touch,
    Verdict,
)

from .registry import breaks


@breaks("L1")
class HearsNothing(Transaction):
    """Does not renew what was touched."""

    def touch(self, touch: Touch) -> Attempt:
        return self.attempt(touch.token)[2]


@breaks("L2")
class LeaksALease(Transaction):
    """Never ends a lease that ran out."""

    def requeue(self, record: JobRecord, attempt: AttemptRecord, cause: RequeueCause) -> None:
        if cause is RequeueCause.LEASE_EXPIRED:
            transitions.renew(attempt, self.now)
            self.save(record)
        else:
            super().requeue(record, attempt, cause)


@breaks("L3")
class EndsThemItself(Transaction):
    """Calls an attempt superseded as soon as its time is over."""

    def attempt(self, token: UUID) -> tuple[JobRecord | None, AttemptRecord | None, Attempt]:
        record, running, answer = super().attempt(token)
        if running is not None and running.deadline <= self.now:
            return None, None, msgspec.structs.replace(answer, state=AttemptState.SUPERSEDED)
        return record, running, answer


@breaks("L4")
class CountsHandovers(Transaction):
    """Counts a hand-over that was never confirmed."""

    def requeue(self, record: JobRecord, attempt: AttemptRecord, cause: RequeueCause) -> None:
        counted = cause is RequeueCause.HANDOVER_EXPIRED
        super().requeue(record, attempt, RequeueCause.LEASE_EXPIRED if counted else cause)


@breaks("L5")
class AlwaysConfirms(Transaction):
    """Takes every touch for a confirmation."""

    def touch(self, touch: Touch) -> Attempt:
        return super().touch(Touch(touch.token, touch.partial))


@breaks("L6")
class KnowsNoTimeout(Transaction):
    """Lets an attempt run for longer than its job allows."""

    def claim(self, request: Claim) -> Claimed | None:
        claimed = super().claim(request)
        if claimed is not None:
            record = self.get(claimed.job_id)
            record.attempts[-1].timeout_at = None
            self.save(record)
        return claimed


@breaks("L7")
class ForgetsProgress(Transaction):
    """Forgets the progress when a touch brings none."""

    def touch(self, touch: Touch) -> Attempt:
        return super().touch(Touch(touch.token, touch.partial or b"", touch.confirm))


@breaks("L8")
class ForgetsThePromise(Transaction):
    """Does not say that the worker promised to confirm."""

    def attempt(self, token: UUID) -> tuple[JobRecord | None, AttemptRecord | None, Attempt]:
        record, running, answer = super().attempt(token)
        return record, running, msgspec.structs.replace(answer, confirm=False)


@breaks("L9")
class RenewsForTheDead(Transaction):
    """Renews the attempt that runs when one that has ended is touched."""

    def touch(self, touch: Touch) -> Attempt:
        attempt = super().touch(touch)
        if attempt.job_id is not None and (running := (record := self.get(attempt.job_id)).running) is not None:
            transitions.renew(running, self.now)
            self.save(record)
        return attempt


@breaks("L10")
class RemembersFifteen(Transaction):
    """Remembers fifteen tokens of a job."""

    def claim(self, request: Claim) -> Claimed | None:
        claimed = super().claim(request)
        if claimed is not None:
            record = self.get(claimed.job_id)
            record.attempts = record.attempts[-15:]
            self.save(record)
        return claimed


@breaks("L11")
class BurnsRetries(Transaction):
    """Ends leases that ran out while the storage was closed."""

    def resume(self) -> None:
        pass


@breaks("L12")
class DoesAllAtOnce(Transaction):
    """Does more than `limit` of what is due."""

    def advance(self, limit: int) -> list[UUID]:
        return super().advance(10**9)


@breaks("L13")
class IsEarly(Transaction):
    """Lets a delayed job start two minutes early."""

    def advance(self, limit: int) -> list[UUID]:
        self.now += 120_000_000
        return super().advance(limit)


@breaks("F1")
class NeverFails(Transaction):
    """Ends a job whose outcome has failed as finished."""

    def apply(self, record: JobRecord, effects: Effects) -> None:
        if record.state is JobState.FAILED:
            record.state = JobState.FINISHED
        super().apply(record, effects)


@breaks("F2")
class LastWordWins(Transaction):
    """Accepts another result of an attempt that has finished."""

    def finish(self, outcome: Outcome) -> Finished:
        finished = super().finish(outcome)
        return Finished(Verdict.ACCEPTED, finished.job_id) if finished.verdict is Verdict.CONFLICT else finished


@breaks("F3")
class AcceptsTheDead(Transaction):
    """Accepts the outcome of an attempt that was superseded."""

    def finish(self, outcome: Outcome) -> Finished:
        finished = super().finish(outcome)
        return Finished(Verdict.ACCEPTED, finished.job_id) if finished.verdict is Verdict.SUPERSEDED else finished


@breaks("F4")
class KnowsNoBackoff(Transaction):
    """Tries a failed job again at once."""

    def apply(self, record: JobRecord, effects: Effects) -> None:
        if effects.requeued:
            record.not_before, record.state = None, JobState.READY
            effects = transitions.REQUEUED_READY
        super().apply(record, effects)


@breaks("F5")
class OneBudgetForAll(Transaction):
    """Lets failed outcomes use up `max_retries`."""

    def requeue(self, record: JobRecord, attempt: AttemptRecord, cause: RequeueCause) -> None:
        record.failures = 0
        super().requeue(record, attempt, cause)


@breaks("R1")
class CountsReleases(Transaction):
    """Counts a release."""

    def requeue(self, record: JobRecord, attempt: AttemptRecord, cause: RequeueCause) -> None:
        super().requeue(record, attempt, RequeueCause.LEASE_EXPIRED if cause is RequeueCause.RELEASED else cause)


@breaks("R2")
class NeverCounts(Transaction):
    """Lets a job go back uncounted for ever."""

    def requeue(self, record: JobRecord, attempt: AttemptRecord, cause: RequeueCause) -> None:
        record.uncounted_requeues = 0
        super().requeue(record, attempt, cause)


@breaks("R3")
class NeverGivesUp(Transaction):
    """Tries a job again, however often its workers were lost."""

    def requeue(self, record: JobRecord, attempt: AttemptRecord, cause: RequeueCause) -> None:
        record.retries = min(record.retries, record.failures + record.new.max_retries - 1)
        super().requeue(record, attempt, cause)


@breaks("X1")
class SparesWhatRuns(Transaction):
    """Does not cancel a job that runs."""

    def cancel(self, job_id: UUID) -> Job | ComposerdError:
        record = self.find(job_id)
        running = record is not None and record.state is JobState.RUNNING
        return self.job(job_id) if running else super().cancel(job_id)


@breaks("X2")
class CancelsAlone(Transaction):
    """Lets jobs run that depend on a canceled one."""

    def dependency_ended(self, record: JobRecord, dependency: JobRecord) -> Effects:
        if dependency.state is JobState.CANCELED:
            return transitions.dependency_ended(record, JobState.FINISHED, list, self.now)
        return super().dependency_ended(record, dependency)

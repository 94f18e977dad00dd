"""Drivers that break what the contract says of attempts, time, outcomes, returns and cancels (L, F, R, X)."""

from uuid import UUID

import msgspec

from composerd.driver.rules import ReturnCause
from composerd.driver.simple import Record
from composerd.driver.simple.record import Held
from composerd.driver.simple.transaction import Meaning
from composerd.models import Attempt, AttemptState, Claim, Claimed, Finish, Finished, JobState, Outcome, Touch

from .registry import breaks


@breaks("L1")
class HearsNothing(Meaning):
    """Does not renew what was touched."""

    def touch(self, touch: Touch) -> Attempt:
        return self.attempt(touch.token)[2]


@breaks("L2")
class LeaksALease(Meaning):
    """Never ends a lease that ran out."""

    def give_back(self, record: Record, held: Held, cause: ReturnCause) -> None:
        if cause is ReturnCause.LEASE:
            held.renew(self.now)
            self.save(record)
        else:
            super().give_back(record, held, cause)


@breaks("L3")
class EndsThemItself(Meaning):
    """Calls an attempt superseded as soon as its time is over."""

    def attempt(self, token: UUID) -> tuple[Record | None, Held | None, Attempt]:
        record, held, attempt = super().attempt(token)
        if held is not None and held.deadline <= self.now:
            return None, None, msgspec.structs.replace(attempt, state=AttemptState.SUPERSEDED)
        return record, held, attempt


@breaks("L4")
class CountsHandovers(Meaning):
    """Counts a hand-over that was never confirmed."""

    def give_back(self, record: Record, held: Held, cause: ReturnCause) -> None:
        super().give_back(record, held, ReturnCause.LEASE if cause is ReturnCause.HANDOVER else cause)


@breaks("L5")
class AlwaysConfirms(Meaning):
    """Takes every touch for a confirmation."""

    def touch(self, touch: Touch) -> Attempt:
        return super().touch(Touch(touch.token, touch.partial))


@breaks("L6")
class KnowsNoTimeout(Meaning):
    """Lets an attempt run for longer than its job allows."""

    def claim(self, request: Claim) -> Claimed | None:
        claimed = super().claim(request)
        if claimed is not None:
            record = self.get(claimed.job_id)
            record.attempts[-1].timeout_at = None
            self.save(record)
        return claimed


@breaks("L7")
class ForgetsProgress(Meaning):
    """Forgets the progress when a touch brings none."""

    def touch(self, touch: Touch) -> Attempt:
        return super().touch(Touch(touch.token, touch.partial or b"", touch.confirm))


@breaks("L8")
class ForgetsThePromise(Meaning):
    """Does not say that the worker promised to confirm."""

    def attempt(self, token: UUID) -> tuple[Record | None, Held | None, Attempt]:
        record, held, attempt = super().attempt(token)
        return record, held, msgspec.structs.replace(attempt, confirm=False)


@breaks("L9")
class RenewsForTheDead(Meaning):
    """Renews the attempt that runs when one that has ended is touched."""

    def touch(self, touch: Touch) -> Attempt:
        attempt = super().touch(touch)
        if attempt.job_id is not None and (held := (record := self.get(attempt.job_id)).running) is not None:
            held.renew(self.now)
            self.save(record)
        return attempt


@breaks("L10")
class RemembersFifteen(Meaning):
    """Remembers fifteen tokens of a job."""

    def claim(self, request: Claim) -> Claimed | None:
        claimed = super().claim(request)
        if claimed is not None:
            record = self.get(claimed.job_id)
            record.attempts = record.attempts[-15:]
            self.save(record)
        return claimed


@breaks("L11")
class BurnsRetries(Meaning):
    """Ends leases that ran out while the storage was closed."""

    def begin_anew(self) -> None:
        pass


@breaks("L12")
class DoesAllAtOnce(Meaning):
    """Does more than `limit` of what is due."""

    def advance(self, limit: int) -> list[UUID]:
        return super().advance(10**9)


@breaks("L13")
class IsEarly(Meaning):
    """Lets a delayed job start two minutes early."""

    def advance(self, limit: int) -> list[UUID]:
        self.now += 120_000_000
        return super().advance(limit)


@breaks("F1")
class NeverFails(Meaning):
    """Ends a job whose outcome has failed as finished."""

    def end(self, record: Record, state: JobState, result: bytes | None) -> None:
        super().end(record, JobState.FINISHED if state is JobState.FAILED else state, result)


@breaks("F2")
class LastWordWins(Meaning):
    """Accepts another result of an attempt that has finished."""

    def finish(self, outcome: Outcome) -> Finished:
        finished = super().finish(outcome)
        return Finished(Finish.ACCEPTED, finished.job_id) if finished.verdict is Finish.CONFLICT else finished


@breaks("F3")
class AcceptsTheDead(Meaning):
    """Accepts the outcome of an attempt that was superseded."""

    def finish(self, outcome: Outcome) -> Finished:
        finished = super().finish(outcome)
        return Finished(Finish.ACCEPTED, finished.job_id) if finished.verdict is Finish.SUPERSEDED else finished


@breaks("F4")
class KnowsNoBackoff(Meaning):
    """Tries a failed job again at once."""

    def put_back(self, record: Record) -> None:
        record.not_before = None
        super().put_back(record)


@breaks("F5")
class OneBudgetForAll(Meaning):
    """Lets failed outcomes use up `max_retries`."""

    def give_back(self, record: Record, held: Held, cause: ReturnCause) -> None:
        record.failures = 0
        super().give_back(record, held, cause)


@breaks("R1")
class CountsReleases(Meaning):
    """Counts a release."""

    def give_back(self, record: Record, held: Held, cause: ReturnCause) -> None:
        super().give_back(record, held, ReturnCause.LEASE if cause is ReturnCause.RELEASED else cause)


@breaks("R2")
class NeverCounts(Meaning):
    """Lets a job go back uncounted for ever."""

    def give_back(self, record: Record, held: Held, cause: ReturnCause) -> None:
        record.returns = 0
        super().give_back(record, held, cause)


@breaks("R3")
class NeverGivesUp(Meaning):
    """Tries a job again, however often its workers were lost."""

    def give_back(self, record: Record, held: Held, cause: ReturnCause) -> None:
        record.retries = min(record.retries, record.failures + record.new.max_retries - 1)
        super().give_back(record, held, cause)


@breaks("X1")
class SparesWhatRuns(Meaning):
    """Does not cancel a job that runs."""

    def finish_off(self, record: Record, state: JobState, result: bytes | None) -> None:
        if state is not JobState.CANCELED or record.state is not JobState.RUNNING:
            super().finish_off(record, state, result)


@breaks("X2")
class CancelsAlone(Meaning):
    """Lets jobs run that depend on a canceled one."""

    def follow(self, record: Record, dependency: Record) -> bool:
        if dependency.state is JobState.CANCELED:
            record.pending -= 1
            self.wait(record)
            return False
        return super().follow(record, dependency)

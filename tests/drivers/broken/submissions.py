"""Drivers that break what the contract says of submissions, claims and dependencies (E, C, D)."""

from collections.abc import Sequence
from uuid import UUID, uuid4

import msgspec

from composerd.driver import Batch, transitions
from composerd.driver.records import StoredJobView
from composerd.driver.simple import JobRecord
from composerd.driver.simple.transaction import Transaction
from composerd.driver.submissions import PlannedJob
from composerd.driver.transitions import Effects
from composerd.errors import CanceledDependency, ComposerdError, UnknownDependency
from composerd.models import Claim, Claimed, Enqueued, JobFilter, JobState, Key, NewJob

from .registry import breaks
from .right import DictShelf, Right


def without(submission: Sequence[NewJob], dropped: set[UUID]) -> list[NewJob]:
    """The same jobs without some of their dependencies."""
    return [
        msgspec.structs.replace(job, dependencies=tuple(one for one in job.dependencies if one not in dropped))
        for job in submission
    ]


@breaks("E1")
class StoresHalf(Transaction):
    """Stores the jobs before the one that is wrong."""

    def enqueue(self, submission: Sequence[NewJob]) -> Enqueued | ComposerdError:
        answer = super().enqueue(submission)
        if isinstance(answer, ComposerdError):
            super().enqueue(submission[: answer.details["index"]])
        return answer


@breaks("E2")
class KnowsNoLater(Transaction):
    """Takes a delayed job for one that may start."""

    def starts_at(self, new: NewJob) -> int | None:
        return None


@breaks("E3")
class DropsTheUnknown(Transaction):
    """Leaves dependencies out that do not exist."""

    def enqueue(self, submission: Sequence[NewJob]) -> Enqueued | ComposerdError:
        answer = super().enqueue(submission)
        if isinstance(answer, UnknownDependency):
            return self.enqueue(without(submission, {UUID(answer.details["id"])}))
        return answer


@breaks("E4")
class DropsTheCanceled(Transaction):
    """Takes a canceled dependency for one that has ended well."""

    def enqueue(self, submission: Sequence[NewJob]) -> Enqueued | ComposerdError:
        answer = super().enqueue(submission)
        if isinstance(answer, CanceledDependency):
            return self.enqueue(without(submission, {UUID(answer.details["id"])}))
        return answer


@breaks("E5")
class WaitsForTheDead(Transaction):
    """Waits for a dependency that had ended already."""

    def add(self, planned: PlannedJob) -> None:
        super().add(planned)
        record = self.get(planned.job.id)
        if any(self.get(one).state.ended for one in record.dependencies):
            record.state, record.pending = JobState.WAITING, record.pending + 1
            self.save(record)


@breaks("E6")
class DeniesItWasThere(Transaction):
    """Says of a repetition that it created nothing."""

    def enqueue(self, submission: Sequence[NewJob]) -> Enqueued | ComposerdError:
        known = {job.id for job in submission if self.find(job.id) is not None}
        answer = super().enqueue(submission)
        if isinstance(answer, Enqueued):
            created = tuple(yes and job.id not in known for job, yes in zip(answer.jobs, answer.created, strict=True))
            return Enqueued(answer.jobs, created)
        return answer


@breaks("E7")
class KnowsNoKeys(Transaction):
    """Stores another job for an idempotency key that is used already."""

    def find_key(self, channel: str, idempotency_key: str) -> StoredJobView | None:
        return None


@breaks("E8")
class NeverConflicts(Transaction):
    """Gives the existing job for a key, though what was asked for is another."""

    def enqueue(self, submission: Sequence[NewJob]) -> Enqueued | ComposerdError:
        return super().enqueue([self.as_stored(job) for job in submission])

    def as_stored(self, job: NewJob) -> NewJob:
        """Return a job as if what its key stands for had been submitted."""
        found = None if job.idempotency_key is None else self.find_key(job.channel, job.idempotency_key)
        if found is None or self.find(job.id) is not None:
            return job
        return msgspec.structs.replace(job, fingerprint=found.fingerprint, dependencies=tuple(found.dependencies))


@breaks("E9")
class ForgetsWhoStandsIn(Transaction):
    """Drops dependencies on a job that turned out to exist already."""

    def enqueue(self, submission: Sequence[NewJob]) -> Enqueued | ComposerdError:
        existing = {
            job.id
            for job in submission
            if job.idempotency_key is not None
            and self.find(job.id) is None
            and self.shelf.with_key(job.channel, job.idempotency_key) is not None
        }
        return super().enqueue(without(submission, existing))


@breaks("E10")
class SharesKeys(DictShelf):
    """Looks for an idempotency key in all channels."""

    def with_key(self, channel: str, idempotency_key: str) -> UUID | None:
        return next(iter(self.find(lambda one: one.new.idempotency_key == idempotency_key)), None)


@breaks("E11")
class NamesThemOnce(Transaction):
    """Forgets that a dependency was named twice."""

    def enqueue(self, submission: Sequence[NewJob]) -> Enqueued | ComposerdError:
        once = [msgspec.structs.replace(job, dependencies=tuple(dict.fromkeys(job.dependencies))) for job in submission]
        return super().enqueue(once)


@breaks("C1")
class ForgetsTheToken(Transaction):
    """Hands a job out and does not remember the token."""

    def claim(self, request: Claim) -> Claimed | None:
        claimed = super().claim(request)
        if claimed is not None:
            record = self.get(claimed.job_id)
            record.attempts[-1].token = uuid4()
            self.save(record)
        return claimed


@breaks("C2")
class HandsOutWhatWaits(Transaction):
    """Hands out a job that is not ready, if there is no other."""

    def claim(self, request: Claim) -> Claimed | None:
        if self.shelf.with_token(request.token) is None and self.shelf.first_ready(request.keys) is None:
            for job_id in self.shelf.page(JobFilter(JobState.WAITING), None, 1):
                record = self.get(job_id)
                record.state = JobState.READY
                self.save(record)
        return super().claim(request)


@breaks("C3")
class AnyArchWillDo(DictShelf):
    """Takes no arch for any arch."""

    def first_ready(self, keys: Sequence[Key]) -> UUID | None:
        return super().first_ready([*keys, *[key._replace(arch=None) for key in keys]])


@breaks("C4")
class TheLatestFirst(DictShelf):
    """Hands out the latest job first."""

    def first_ready(self, keys: Sequence[Key]) -> UUID | None:
        def latest_first(one: JobRecord) -> tuple[int, int]:
            return -one.new.priority, -one.position

        ready = self.find(lambda one: one.state is JobState.READY and one.new.key in keys, latest_first)
        return next(iter(ready), None)


@breaks("C5")
class KeepsItsPlace(Transaction):
    """Puts a job that comes back where it was."""

    def apply(self, record: JobRecord, effects: Effects) -> None:
        if effects.requeued:
            record.position = self.get(record.id).position
        super().apply(record, effects)


@breaks("C6")
class ClaimsTwice(Right):
    """Hands one job to two that ask at once."""

    async def claim(self, requests: Sequence[Claim], max_bytes: int) -> Batch[Claimed | None]:
        batch = await super().claim(requests[:1], max_bytes)
        first = batch.items[0] if batch.items else None
        return Batch([first and msgspec.structs.replace(first, token=one.token) for one in requests], batch.news)


@breaks("C7")
class BeginsAgain(Transaction):
    """Takes the repetition of a claim for a new one."""

    def claim(self, request: Claim) -> Claimed | None:
        if self.shelf.with_token(request.token) is not None:
            request = msgspec.structs.replace(request, token=uuid4())
        return super().claim(request)


@breaks("C8")
class KnowsNoBound(Right):
    """Hands out more than `max_bytes`."""

    async def claim(self, requests: Sequence[Claim], max_bytes: int) -> Batch[Claimed | None]:
        return await super().claim(requests, 2**62)


@breaks("D1")
class OneIsEnough(Transaction):
    """Takes a job for ready when the first of its dependencies has ended."""

    def dependency_ended(self, record: JobRecord, dependency: JobRecord) -> Effects:
        record.pending = 1
        return super().dependency_ended(record, dependency)


@breaks("D2")
class RunsAnyway(Transaction):
    """Runs a job whose dependency has failed, though it is to fail with it."""

    def dependency_ended(self, record: JobRecord, dependency: JobRecord) -> Effects:
        if dependency.state is JobState.FAILED:
            return transitions.dependency_ended(record, JobState.FINISHED, list, self.now)
        return super().dependency_ended(record, dependency)


@breaks("D3")
class TiresOfCascades(Transaction):
    """Draws what follows from an end for twenty jobs, and forgets the rest."""

    def propagate(self, record: JobRecord) -> None:
        if self.propagating is None:
            self.left = 20
        super().propagate(record)

    def dependency_ended(self, record: JobRecord, dependency: JobRecord) -> Effects:
        self.left -= 1
        return super().dependency_ended(record, dependency) if self.left >= 0 else transitions.NOTHING

"""Drivers that break the clauses of submissions, claims and dependencies (E, C, D)."""

from collections.abc import Sequence
from uuid import UUID, uuid4

import msgspec

from composerd.driver import Batch, transitions
from composerd.driver.records import StoredJobView
from composerd.driver.simple import JobRecord, Shelf
from composerd.driver.simple.transaction import Transaction
from composerd.driver.submissions import PlannedJob
from composerd.driver.transitions import Effects
from composerd.errors import CanceledDependency, ComposerdError, UnknownDependency
from composerd.models import Claim, Claimed, Enqueued, JobFilter, JobState, Key, NewJob

from .correct import Correct, DictShelf
from .registry import breaks


def without(submission: Sequence[NewJob], dropped: set[UUID]) -> list[NewJob]:
    """Return the same jobs without some of their dependencies."""
    return [
        msgspec.structs.replace(job, dependencies=tuple(one for one in job.dependencies if one not in dropped))
        for job in submission
    ]


@breaks("E1")
class StoresPartially(Transaction):
    """Stores the jobs of a submission that come before the wrong one."""

    def enqueue(self, submission: Sequence[NewJob]) -> Enqueued | ComposerdError:
        answer = super().enqueue(submission)
        if isinstance(answer, ComposerdError):
            super().enqueue(submission[: answer.details["index"]])
        return answer


@breaks("E2")
class IgnoresNotBefore(Transaction):
    """Ignores the `not_before` of a job."""

    def starts_at(self, new: NewJob) -> int | None:
        return None


@breaks("E3")
class DropsUnknownDependencies(Transaction):
    """Drops dependencies that do not exist."""

    def enqueue(self, submission: Sequence[NewJob]) -> Enqueued | ComposerdError:
        answer = super().enqueue(submission)
        if isinstance(answer, UnknownDependency):
            return self.enqueue(without(submission, {UUID(answer.details["id"])}))
        return answer


@breaks("E4")
class DropsCanceledDependencies(Transaction):
    """Drops dependencies that are canceled."""

    def enqueue(self, submission: Sequence[NewJob]) -> Enqueued | ComposerdError:
        answer = super().enqueue(submission)
        if isinstance(answer, CanceledDependency):
            return self.enqueue(without(submission, {UUID(answer.details["id"])}))
        return answer


@breaks("E5")
class WaitsForEndedDependencies(Transaction):
    """Waits for a dependency that had ended before the submission."""

    def add(self, planned: PlannedJob) -> None:
        super().add(planned)
        record = self.get(planned.job.id)
        if any(self.get(one).state.ended for one in record.dependencies):
            record.state, record.pending = JobState.WAITING, record.pending + 1
            self.save(record)


@breaks("E6")
class CallsRepetitionsNotCreated(Transaction):
    """Answers a repetition as if the submission had not created the job."""

    def enqueue(self, submission: Sequence[NewJob]) -> Enqueued | ComposerdError:
        known = {job.id for job in submission if self.find(job.id) is not None}
        answer = super().enqueue(submission)
        if isinstance(answer, Enqueued):
            created = tuple(yes and job.id not in known for job, yes in zip(answer.jobs, answer.created, strict=True))
            return Enqueued(answer.jobs, created)
        return answer


@breaks("E7")
class IgnoresIdempotencyKeys(Transaction):
    """Stores another job for an idempotency key that is in use."""

    def find_key(self, channel: str, idempotency_key: str) -> StoredJobView | None:
        return None


@breaks("E8")
class NeverConflicts(Transaction):
    """Returns the existing job for a key although another job was submitted."""

    def enqueue(self, submission: Sequence[NewJob]) -> Enqueued | ComposerdError:
        return super().enqueue([self.as_stored(job) for job in submission])

    def as_stored(self, job: NewJob) -> NewJob:
        """Return a job as if it had been submitted like the existing job of its key."""
        found = None if job.idempotency_key is None else self.find_key(job.channel, job.idempotency_key)
        if found is None or self.find(job.id) is not None:
            return job
        return msgspec.structs.replace(job, fingerprint=found.fingerprint, dependencies=tuple(found.dependencies))


@breaks("E9")
class DropsReplacedDependencies(Transaction):
    """Drops dependencies on jobs whose idempotency keys exist already."""

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
class SharesKeysBetweenChannels(DictShelf):
    """Looks for an idempotency key in all channels."""

    def with_key(self, channel: str, idempotency_key: str) -> UUID | None:
        return next(iter(self.find(lambda one: one.new.idempotency_key == idempotency_key)), None)


@breaks("E11")
class DropsRepeatedDependencies(Transaction):
    """Stores a dependency that was named twice only once."""

    def enqueue(self, submission: Sequence[NewJob]) -> Enqueued | ComposerdError:
        once = [msgspec.structs.replace(job, dependencies=tuple(dict.fromkeys(job.dependencies))) for job in submission]
        return super().enqueue(once)


@breaks("E12")
class DependsAcrossChannels(Transaction):
    """Accepts a dependency of another channel."""

    def enqueue(self, submission: Sequence[NewJob]) -> Enqueued | ComposerdError:
        answer = super().enqueue(submission)
        if not isinstance(answer, UnknownDependency) or self.find(UUID(answer.details["id"])) is None:
            return answer
        foreign = UUID(answer.details["id"])
        answer = self.enqueue(without(submission, {foreign}))
        for job in submission if isinstance(answer, Enqueued) else ():
            record = self.get(job.id)
            record.new = msgspec.structs.replace(record.new, dependencies=job.dependencies)
            self.save(record)
        return answer


@breaks("C1")
class ForgetsTokens(Transaction):
    """Begins an attempt without remembering its token."""

    def claim(self, request: Claim) -> Claimed | None:
        claimed = super().claim(request)
        if claimed is not None:
            record = self.get(claimed.job_id)
            record.attempts[-1].token = uuid4()
            self.save(record)
        return claimed


@breaks("C2")
class ClaimsWaitingJobs(Transaction):
    """Gives a waiting job to a claim if no job is ready."""

    def claim(self, request: Claim) -> Claimed | None:
        if self.shelf.with_token(request.token) is None and self.shelf.first_ready(request.keys) is None:
            for job_id in self.shelf.page(JobFilter(JobState.WAITING), None, 1):
                record = self.get(job_id)
                record.state = JobState.READY
                self.save(record)
        return super().claim(request)


@breaks("C3")
class IgnoresArch(DictShelf):
    """Gives jobs without an arch to claims that ask for an arch."""

    def first_ready(self, keys: Sequence[Key]) -> UUID | None:
        return super().first_ready([*keys, *[key._replace(arch=None) for key in keys]])


@breaks("C4")
class ClaimsLatestFirst(DictShelf):
    """Gives the job that was submitted last to the first claim."""

    def first_ready(self, keys: Sequence[Key]) -> UUID | None:
        def latest_first(one: JobRecord) -> tuple[int, int]:
            return -one.new.priority, -one.position

        ready = self.find(lambda one: one.state is JobState.READY and one.new.key in keys, latest_first)
        return next(iter(ready), None)


@breaks("C5")
class KeepsThePosition(Transaction):
    """Leaves a requeued job at its former position."""

    def apply(self, record: JobRecord, effects: Effects) -> None:
        if effects.requeued:
            record.position = self.get(record.id).position
        super().apply(record, effects)


@breaks("C6")
class ClaimsTwice(Correct):
    """Gives the same job to all claims of a call."""

    async def claim(self, requests: Sequence[Claim], max_bytes: int) -> Batch[Claimed | None]:
        batch = await super().claim(requests[:1], max_bytes)
        first = batch.items[0] if batch.items else None
        return Batch([first and msgspec.structs.replace(first, token=one.token) for one in requests], batch.news)


@breaks("C7")
class BeginsASecondAttempt(Transaction):
    """Treats the repetition of a claim as a new claim."""

    def claim(self, request: Claim) -> Claimed | None:
        if self.shelf.with_token(request.token) is not None:
            request = msgspec.structs.replace(request, token=uuid4())
        return super().claim(request)


@breaks("C8")
class IgnoresMaxBytes(Correct):
    """Answers all claims although their args exceed `max_bytes`."""

    async def claim(self, requests: Sequence[Claim], max_bytes: int) -> Batch[Claimed | None]:
        return await super().claim(requests, 2**62)


@breaks("C9")
class SaysThatABegunAttemptIsConfirmed(Transaction):
    """Says of each attempt that a claim begins, and of its repetitions, that the worker has called."""

    def claim(self, request: Claim) -> Claimed | None:
        claimed = super().claim(request)
        return claimed and msgspec.structs.replace(claimed, confirmed=True)


@breaks("D1")
class WaitsForOneDependency(Transaction):
    """Makes a job ready when the first of its dependencies has ended."""

    def dependency_ended(self, record: JobRecord, dependency: JobRecord) -> Effects:
        record.pending = 1
        return super().dependency_ended(record, dependency)


@breaks("D2")
class RunsAfterFailedDependencies(Transaction):
    """Runs a job that should fail because a dependency has failed."""

    def dependency_ended(self, record: JobRecord, dependency: JobRecord) -> Effects:
        if dependency.state is JobState.FAILED:
            return transitions.dependency_ended(record, JobState.FINISHED, list, self.now)
        return super().dependency_ended(record, dependency)


@breaks("D4")
class PropagatesAllAtOnce(Transaction):
    """Updates all dependents of a job in the call that ends it, however many there are."""

    def __init__(self, shelf: Shelf, now: int) -> None:
        super().__init__(shelf, now)
        self.steps_left = 10**9


@breaks("D3")
class StopsPropagating(Transaction):
    """Propagates an end to twenty jobs and forgets the others."""

    def propagate(self, record: JobRecord) -> None:
        if self.propagating is None:
            self.left = 20
        super().propagate(record)

    def dependency_ended(self, record: JobRecord, dependency: JobRecord) -> Effects:
        self.left -= 1
        return super().dependency_ended(record, dependency) if self.left >= 0 else transitions.NOTHING

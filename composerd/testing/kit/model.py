"""A small pure model of the contract: what every driver must answer. No storage, no concurrency, nothing but the meaning.

Written from specs/driver-contract.md and specs/state-machine.md alone. Its time is a number of seconds from its
beginning. Where the contract leaves a choice the model takes the driver's: `begin` is told which of the candidates it
was, and jobs that came back in one `advance` share a place.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import msgspec

from composerd.driver.rules import on_return, retry_backoff
from composerd.driver.transitions import RequeueCause, lost_result
from composerd.errors import CanceledDependency, ComposerdError, IdempotencyConflict, UnknownDependency
from composerd.models import (
    MAX_REMEMBERED_TOKENS,
    Artifact,
    AttemptState,
    Claim,
    JobState,
    Key,
    NewJob,
    OnDependencyFailure,
    Outcome,
    Touch,
    Verdict,
)

FAIL = OnDependencyFailure.FAIL


@dataclass(slots=True, eq=False)
class ModelAttempt:
    """An attempt that is remembered."""

    claim: Claim
    number: int
    began: float
    deadline: float
    timeout_at: float | None
    confirmed: bool
    state: AttemptState = AttemptState.RUNNING
    result: bytes | None = None
    artifacts: dict[str, Artifact] = field(default_factory=dict)

    @property
    def lapses_at(self) -> float:
        """When `advance` ends it."""
        return self.deadline if self.timeout_at is None else min(self.deadline, self.timeout_at)


@dataclass(slots=True, eq=False)
class ModelJob:
    """A job."""

    new: NewJob
    number: int
    place: int
    not_before: float | None
    state: JobState = JobState.WAITING
    retries: int = 0
    failures: int = 0
    returns: int = 0
    attempts: list[ModelAttempt] = field(default_factory=list)
    attempt: int = 0
    finished_at: float | None = None
    result: bytes | None = None
    failed_with: list[UUID] | None = None
    """The failed dependencies, if it failed with them: its result names some of them, those known then."""
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    partial: bytes | None = None
    worker_id: UUID | None = None

    @property
    def running(self) -> ModelAttempt | None:
        """The attempt that runs."""
        return self.attempts[-1] if self.state is JobState.RUNNING else None

    @property
    def expires_at(self) -> float | None:
        """When its retention is over."""
        if self.finished_at is None or self.new.retention is None:
            return None
        return self.finished_at + self.new.retention


class Model:
    """All jobs, in the order of their submission."""

    def __init__(self) -> None:
        self.now = 0.0
        self.jobs: dict[UUID, ModelJob] = {}
        self.ready_news: set[Key] = set()
        """Keys of which jobs became ready since this was emptied; so the others."""
        self.ended_news: set[UUID] = set()
        self.returned_news: set[UUID] = set()
        self._last = 0

    # Submissions.

    def enqueue(self, jobs: Sequence[NewJob]) -> list[tuple[UUID, bool]] | ComposerdError:
        """Which jobs the answer names, and which of them it says were created; or the error."""
        answer: list[tuple[UUID, bool]] = []
        alias: dict[UUID, UUID] = {}
        fresh: dict[UUID, NewJob] = {}
        for index, new in enumerate(jobs):
            if new.id in self.jobs:
                answer.append((new.id, True))
                continue
            job = _renamed(new, alias)
            existing = self._with_key(job, fresh)
            if existing is not None:
                if (existing.fingerprint, existing.dependencies) != (job.fingerprint, job.dependencies):
                    return IdempotencyConflict(index=index)
                alias[job.id] = existing.id
                answer.append((existing.id, False))
                continue
            for one in job.dependencies:
                if one not in self.jobs and one not in fresh:
                    return UnknownDependency(index=index, id=str(one))
                if one in self.jobs and self.jobs[one].state is JobState.CANCELED:
                    return CanceledDependency(index=index, id=str(one))
            fresh[job.id] = job
            answer.append((job.id, True))
        for job in fresh.values():
            self._store(job)
        return answer

    def _with_key(self, job: NewJob, fresh: dict[UUID, NewJob]) -> NewJob | None:
        if job.idempotency_key is None:
            return None
        wanted = (job.channel, job.idempotency_key)
        known = [*[one.new for one in self.jobs.values()], *fresh.values()]
        return next((one for one in known if (one.channel, one.idempotency_key) == wanted), None)

    def _store(self, new: NewJob) -> None:
        not_before = None if new.not_before is None else self.now + _seconds(new.not_before)
        job = self.jobs[new.id] = ModelJob(new, self._next(), self._last, not_before)
        if new.on_dependency_failure is FAIL and self.failed(job):
            self._fail_with_dependency(job)
        else:
            self._wait_or_ready(job)

    # Attempts.

    def candidates(self, keys: Sequence[Key]) -> set[UUID]:
        """The ready jobs of which a claim gets one."""
        ready = [job for job in self.jobs.values() if job.state is JobState.READY and job.new.key in keys]
        best = min((_rank(job) for job in ready), default=None)
        return {job.new.id for job in ready if _rank(job) == best}

    def begin(self, job_id: UUID, claim: Claim) -> None:
        """A claim got this job."""
        job = self.jobs[job_id]
        job.state = JobState.RUNNING
        job.attempt += 1
        job.worker_id = claim.worker_id
        lives = claim.lease if claim.handover is None else claim.handover
        timeout_at = None if job.new.timeout is None else self.now + job.new.timeout
        attempt = ModelAttempt(claim, job.attempt, self.now, self.now + lives, timeout_at, claim.handover is None)
        job.attempts = [*job.attempts, attempt][-MAX_REMEMBERED_TOKENS:]

    def find(self, token: UUID) -> tuple[ModelJob, ModelAttempt] | None:
        """The attempt that a token stands for."""
        for job in self.jobs.values():
            for attempt in job.attempts:
                if attempt.claim.token == token:
                    return job, attempt
        return None

    def touch(self, touch: Touch) -> None:
        """A sign of life."""
        if (running := self._running(touch.token)) is None:
            return
        job, attempt = running
        if touch.confirm:
            self._renew(attempt)
        elif not attempt.confirmed:
            attempt.deadline = self.now + (attempt.claim.handover or 0)
        if touch.partial is not None:
            job.partial = touch.partial

    def attach(self, token: UUID, artifact: Artifact) -> str | None:
        """An uploaded file; the place of the one it replaces."""
        if (running := self._running(token)) is None:
            return None
        _, attempt = running
        self._renew(attempt)
        before = attempt.artifacts.get(artifact.name)
        attempt.artifacts[artifact.name] = artifact
        return None if before is None or before.location == artifact.location else before.location

    def finish(self, outcome: Outcome) -> Verdict:
        """An outcome."""
        found = self.find(outcome.token)
        if found is None:
            return Verdict.UNKNOWN
        job, attempt = found
        if attempt.state is AttemptState.FINISHED:
            return Verdict.ACCEPTED if attempt.result == outcome.result else Verdict.CONFLICT
        if attempt.state is not AttemptState.RUNNING:
            return Verdict(attempt.state.value)
        attempt.state, attempt.result = AttemptState.FINISHED, outcome.result
        if outcome.failed and job.failures < job.new.retry_on_failure:
            job.failures += 1
            job.retries += 1
            job.returns = 0
            job.not_before = self.now + retry_backoff(job.new.retry_backoff, job.failures)
            self._put_back(job, self._next())
        else:
            job.artifacts = attempt.artifacts
            self._end(job, JobState.FAILED if outcome.failed else JobState.FINISHED, outcome.result)
        return Verdict.ACCEPTED

    def release(self, token: UUID) -> None:
        """A job given back."""
        if (running := self._running(token)) is not None:
            self._return(*running, RequeueCause.RELEASED, self._next())

    def _running(self, token: UUID) -> tuple[ModelJob, ModelAttempt] | None:
        found = self.find(token)
        return found if found is not None and found[1].state is AttemptState.RUNNING else None

    def _renew(self, attempt: ModelAttempt) -> None:
        attempt.confirmed = True
        attempt.deadline = self.now + attempt.claim.lease

    def _return(self, job: ModelJob, attempt: ModelAttempt, cause: RequeueCause, place: int) -> None:
        attempt.state = AttemptState.SUPERSEDED
        job.retries, job.returns, again = on_return(cause, job.retries, job.failures, job.returns, job.new.max_retries)
        if again:
            self._put_back(job, place)
        else:
            self._end(job, JobState.FAILED, lost_result(cause, job.new.max_retries))

    # Time.

    def advance(self) -> set[UUID]:
        """Do all that is due; which jobs it concerned."""
        due = {job for job in self.jobs.values() if (at := self._due_at(job)) is not None and at <= self.now}
        place = self._next()
        for job in due:
            if (attempt := job.running) is None:
                self._ready(job)
            elif attempt.timeout_at is not None and attempt.timeout_at <= self.now:
                self._return(job, attempt, RequeueCause.TIMED_OUT, place)
            else:
                cause = RequeueCause.LEASE_EXPIRED if attempt.confirmed else RequeueCause.HANDOVER_EXPIRED
                self._return(job, attempt, cause, place)
        return {job.new.id for job in due}

    def next_due(self) -> float | None:
        """When `advance` is needed."""
        return min((at for job in self.jobs.values() if (at := self._due_at(job)) is not None), default=None)

    def restart(self) -> None:
        """The storage was opened again."""
        for job in self.jobs.values():
            if (attempt := job.running) is not None:
                attempt.confirmed = True
                attempt.deadline = self.now + attempt.claim.lease
                if attempt.timeout_at is not None:
                    attempt.timeout_at = max(attempt.timeout_at, attempt.deadline)

    def reload(self) -> None:
        """Everything went out of the storage and in again: who came back has the place of its submission."""
        self.restart()
        for job in self.jobs.values():
            job.number = job.place = self._next()

    def expired(self) -> set[UUID]:
        """The jobs that `purge` may forget."""
        return {
            job.new.id
            for job in self.jobs.values()
            if job.expires_at is not None and job.expires_at <= self.now and not self.needed(job)
        }

    def _due_at(self, job: ModelJob) -> float | None:
        if (attempt := job.running) is not None:
            return attempt.lapses_at
        return job.not_before if job.state is JobState.WAITING and not self._blocked(job) else None

    # Ends.

    def cancel(self, job: ModelJob) -> None:
        """A job that has not ended, and all that depends on it."""
        self._end(job, JobState.CANCELED, None)

    def needed(self, job: ModelJob) -> bool:
        """Whether an unended job depends on it."""
        return any(not one.state.ended for one in self.dependents(job))

    def dependents(self, job: ModelJob) -> Iterator[ModelJob]:
        """The jobs that depend on it, in the order of submission."""
        return (one for one in self.jobs.values() if job.new.id in one.new.dependencies)

    def _end(self, job: ModelJob, state: JobState, result: bytes | None) -> None:
        if (attempt := job.running) is not None and attempt.state is AttemptState.RUNNING:
            attempt.state = AttemptState.CANCELED
        job.state, job.result, job.finished_at, job.partial = state, result, self.now, None
        self.ended_news.add(job.new.id)
        for one in self.dependents(job):
            if one.state is not JobState.WAITING:
                continue
            if state is JobState.CANCELED:
                self._end(one, JobState.CANCELED, None)
            elif state is JobState.FAILED and one.new.on_dependency_failure is FAIL:
                self._fail_with_dependency(one)
            else:
                self._wait_or_ready(one)

    def _fail_with_dependency(self, job: ModelJob) -> None:
        self._end(job, JobState.FAILED, None)
        job.failed_with = self.failed(job)

    def failed(self, job: ModelJob) -> list[UUID]:
        """Its dependencies that have failed, in its order."""
        found = [self.jobs[one] for one in dict.fromkeys(job.new.dependencies) if one in self.jobs]
        return [one.new.id for one in found if one.state is JobState.FAILED]

    def _put_back(self, job: ModelJob, place: int) -> None:
        job.state, job.place, job.partial = JobState.WAITING, place, None
        self.returned_news.add(job.new.id)
        self._wait_or_ready(job)

    def _wait_or_ready(self, job: ModelJob) -> None:
        if not self._blocked(job) and (job.not_before is None or job.not_before <= self.now):
            self._ready(job)

    def _blocked(self, job: ModelJob) -> bool:
        return any(one in self.jobs and not self.jobs[one].state.ended for one in job.new.dependencies)

    def _ready(self, job: ModelJob) -> None:
        job.state = JobState.READY
        self.ready_news.add(job.new.key)

    def _next(self) -> int:
        self._last += 1
        return self._last


def _rank(job: ModelJob) -> tuple[int, int]:
    return -job.new.priority, job.place


def _renamed(job: NewJob, alias: dict[UUID, UUID]) -> NewJob:
    dependencies = tuple(alias.get(one, one) for one in job.dependencies)
    return msgspec.structs.replace(job, dependencies=dependencies)


def _seconds(not_before: object) -> float:
    assert isinstance(not_before, float), "the model's histories have no absolute times"
    return not_before

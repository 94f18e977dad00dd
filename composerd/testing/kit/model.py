"""A model of the contract in memory: what every driver has to answer. It has no storage and no concurrency.

It is written from specs/driver-contract.md and specs/state-machine.md alone and shares no code with the drivers: a
mistake in their code is not made here too. Its time is a number of seconds since it began.

Where the contract leaves a choice to the driver, the model takes over the driver's choice: `begin` is told which of the
candidates the claim got, and the jobs that one `advance` requeued share a position.
"""

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import msgspec

from composerd.errors import CanceledDependency, ComposerdError, IdempotencyConflict, UnknownDependency
from composerd.models import (
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
from composerd.testing.kit.results import timed_out, workers_lost

# The numbers of the specification, as literals: a wrong constant in composerd would make a driver and the model agree.
REMEMBERED_TOKENS = 16
"""The number of a job's latest tokens that are remembered (L10)."""

UNCOUNTED_IN_A_ROW = 10
"""The number of requeues in a row that are not counted (R2)."""

LONGEST_BACKOFF = 3600.0
"""The longest wait after a failed outcome, in seconds (F4)."""

STEADY_AFTER = 60.0
"""Time in seconds after a start or a jump in which only jobs that ended after it are purged (P6)."""

DISPUTED = 3600.0
"""The largest jump forward, in seconds, that keeps no jobs from being purged (P5)."""

SETTLED_AFTER = 86_400.0
"""Time in seconds after which a clock that jumped further is trusted again (P5)."""

FAIL = OnDependencyFailure.FAIL


class Cause(enum.Enum):
    """The reason why an attempt ended without an outcome."""

    RELEASED = enum.auto()
    HANDOVER_EXPIRED = enum.auto()
    LEASE_EXPIRED = enum.auto()
    TIMED_OUT = enum.auto()


@dataclass(slots=True, eq=False)
class ModelAttempt:
    """An attempt that is remembered."""

    claim: Claim
    number: int
    deadline: float
    """Time at which the lease expires, or the handover as long as the attempt is not confirmed."""
    timeout_at: float | None
    handover: float | None
    """Time that a touch which does not confirm gives it, in seconds; None if it changes nothing."""
    confirmed: bool = False
    state: AttemptState = AttemptState.RUNNING
    result: bytes | None = None
    artifacts: dict[str, Artifact] = field(default_factory=dict)

    @property
    def due_at(self) -> float:
        """Time at which `advance` ends it."""
        return self.deadline if self.timeout_at is None else min(self.deadline, self.timeout_at)


@dataclass(slots=True, eq=False)
class ModelJob:
    """A job."""

    new: NewJob
    position: int
    not_before: float | None
    state: JobState = JobState.WAITING
    counted_requeues: int = 0
    """The counted requeues that were not caused by a failed outcome: those that `max_retries` limits."""
    failures: int = 0
    """The failed outcomes that requeued it: those that `retry_on_failure` limits."""
    uncounted_in_a_row: int = 0
    attempts: list[ModelAttempt] = field(default_factory=list)
    attempt: int = 0
    finished_at: float | None = None
    result: bytes | None = None
    failed_with: list[UUID] | None = None
    """The failed dependencies, if it failed with them. Its result names some of them: those that had failed then."""
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    partial: bytes | None = None
    worker_id: UUID | None = None

    @property
    def retries(self) -> int:
        """The number of counted requeues, including those after failed outcomes."""
        return self.counted_requeues + self.failures

    @property
    def running(self) -> ModelAttempt | None:
        """The running attempt, if there is one."""
        return self.attempts[-1] if self.state is JobState.RUNNING else None

    @property
    def expires_at(self) -> float | None:
        """Time at which its retention is over; None before it has ended, or if it is kept until it is deleted."""
        if self.finished_at is None or self.new.retention is None:
            return None
        return self.finished_at + self.new.retention


class Model:
    """Model of a storage: the jobs in the order of their submission, and the rules by which they change."""

    def __init__(self) -> None:
        self.now = 0.0
        self.jobs: dict[UUID, ModelJob] = {}
        self.ready_news: set[Key] = set()
        """The keys of the jobs that became ready since the set was last emptied."""
        self.ended_news: set[UUID] = set()
        """The jobs that ended since the set was last emptied."""
        self.requeued_news: set[UUID] = set()
        """The jobs that were requeued since the set was last emptied."""
        self._last_position = 0
        self._steady_since = 0.0
        """Time at which the storage was opened last, or at which its clock jumped last."""
        self._disputed_since: float | None = None
        """Time of the last jump after which ended jobs are kept; None if the clock is trusted."""

    # Submissions.

    def enqueue(self, jobs: Sequence[NewJob]) -> list[tuple[UUID, bool]] | ComposerdError:
        """Store a submission.

        Returns:
            For each job its id in the answer and True if it counts as created; or the error of the submission.
        """
        answer: list[tuple[UUID, bool]] = []
        alias: dict[UUID, UUID] = {}
        fresh: dict[UUID, NewJob] = {}
        for index, new in enumerate(jobs):
            if new.id in self.jobs:
                answer.append((new.id, True))
                continue
            job = _with_existing_dependencies(new, alias)
            existing = self._with_key(job, fresh)
            if existing is not None:
                if (existing.fingerprint, existing.dependencies) != (job.fingerprint, job.dependencies):
                    return IdempotencyConflict(index=index)
                alias[job.id] = existing.id
                answer.append((existing.id, False))
                continue
            for one in job.dependencies:
                known = self.jobs[one].new if one in self.jobs else fresh.get(one)
                if known is None or known.channel != job.channel:
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
        job = self.jobs[new.id] = ModelJob(new, self._next_position(), not_before)
        if new.on_dependency_failure is FAIL and self.failed_dependencies(job):
            self._fail_with_dependency(job)
        else:
            self._wait_or_ready(job)

    # Attempts.

    def candidates(self, keys: Sequence[Key]) -> set[UUID]:
        """Return the ready jobs of which a claim of these keys gets one; empty if it gets none."""
        ready = [job for job in self.jobs.values() if job.state is JobState.READY and job.new.key in keys]
        first = min((ready_order(job) for job in ready), default=None)
        return {job.new.id for job in ready if ready_order(job) == first}

    def begin(self, job_id: UUID, claim: Claim) -> None:
        """Begin an attempt at a job that a claim got."""
        job = self.jobs[job_id]
        job.state = JobState.RUNNING
        job.attempt += 1
        job.worker_id = claim.worker_id
        first_deadline = self.now + (claim.lease if claim.handover is None else claim.handover)
        timeout_at = None if job.new.timeout is None else self.now + job.new.timeout
        attempt = ModelAttempt(claim, job.attempt, first_deadline, timeout_at, claim.handover)
        job.attempts = [*job.attempts, attempt][-REMEMBERED_TOKENS:]

    def find(self, token: UUID) -> tuple[ModelJob, ModelAttempt] | None:
        """Return the job and the attempt that a token stands for, or None if the token is unknown."""
        for job in self.jobs.values():
            for attempt in job.attempts:
                if attempt.claim.token == token:
                    return job, attempt
        return None

    def touch(self, touch: Touch) -> None:
        """Renew an attempt if it is running."""
        if (running := self._running(touch.token)) is None:
            return
        job, attempt = running
        if touch.confirm:
            self._renew(attempt)
        elif attempt.handover is not None and not attempt.confirmed:
            attempt.deadline = self.now + attempt.handover
        if touch.partial is not None:
            job.partial = touch.partial

    def attach(self, token: UUID, artifact: Artifact) -> str | None:
        """Attach a file if the attempt is running. Return the location of the file that it replaces, or None."""
        if (running := self._running(token)) is None:
            return None
        _, attempt = running
        self._renew(attempt)
        before = attempt.artifacts.get(artifact.name)
        attempt.artifacts[artifact.name] = artifact
        return None if before is None or before.location == artifact.location else before.location

    def finish(self, outcome: Outcome) -> Verdict:
        """End an attempt with its outcome and return the answer."""
        found = self.find(outcome.token)
        if found is None:
            return Verdict.UNKNOWN
        job, attempt = found
        if attempt.state is AttemptState.FINISHED:
            return Verdict.ACCEPTED if attempt.result == outcome.result else Verdict.CONFLICT
        if attempt.state is AttemptState.CANCELED:
            return Verdict.CANCELED
        if attempt.state is AttemptState.SUPERSEDED:
            return Verdict.SUPERSEDED
        if outcome.artifacts is not None and [one.name for one in outcome.artifacts] != sorted(attempt.artifacts):
            return Verdict.DIFFERS
        attempt.state, attempt.result = AttemptState.FINISHED, outcome.result
        if outcome.failed and job.failures < job.new.retry_on_failure:
            job.failures += 1
            job.uncounted_in_a_row = 0
            job.not_before = self.now + _backoff(job)
            self._back_to_queue(job, self._next_position())
        else:
            job.artifacts = attempt.artifacts
            self._end(job, JobState.FAILED if outcome.failed else JobState.FINISHED, outcome.result)
        return Verdict.ACCEPTED

    def release(self, token: UUID) -> None:
        """Release an attempt if it is running."""
        if (running := self._running(token)) is not None:
            self._requeue(*running, Cause.RELEASED, self._next_position())

    def _running(self, token: UUID) -> tuple[ModelJob, ModelAttempt] | None:
        found = self.find(token)
        return found if found is not None and found[1].state is AttemptState.RUNNING else None

    def _renew(self, attempt: ModelAttempt) -> None:
        attempt.confirmed = True
        attempt.deadline = self.now + attempt.claim.lease

    def _requeue(self, job: ModelJob, attempt: ModelAttempt, cause: Cause, position: int) -> None:
        attempt.state = AttemptState.SUPERSEDED
        if cause in (Cause.RELEASED, Cause.HANDOVER_EXPIRED):
            job.uncounted_in_a_row += 1
            if job.uncounted_in_a_row <= UNCOUNTED_IN_A_ROW:
                self._back_to_queue(job, position)
                return
        else:
            job.uncounted_in_a_row = 0
        if job.counted_requeues < job.new.max_retries:
            job.counted_requeues += 1
            self._back_to_queue(job, position)
            return
        result = timed_out if cause is Cause.TIMED_OUT else workers_lost
        self._end(job, JobState.FAILED, result(job.new.max_retries))

    # Time.

    def advance(self) -> set[UUID]:
        """Do everything that is due and return the jobs that it concerned."""
        due = {job for job in self.jobs.values() if (at := self._due_at(job)) is not None and at <= self.now}
        position = self._next_position()
        for job in due:
            if (attempt := job.running) is None:
                self._ready(job)
            elif not attempt.confirmed:
                self._requeue(job, attempt, Cause.HANDOVER_EXPIRED, position)
            elif attempt.timeout_at is not None and attempt.timeout_at <= self.now:
                self._requeue(job, attempt, Cause.TIMED_OUT, position)
            else:
                self._requeue(job, attempt, Cause.LEASE_EXPIRED, position)
        return {job.new.id for job in due}

    def next_due(self) -> float | None:
        """Return when `advance` is needed next, or None if nothing is in sight."""
        return min((at for job in self.jobs.values() if (at := self._due_at(job)) is not None), default=None)

    def restart(self, *, shared: bool) -> None:
        """Open the storage again, a moment after it was closed.

        If it is not shared, every running attempt has a full lease, and none has a handover any more (L11).
        """
        self._steady_since = self.now
        if not shared:
            self._end_handovers()

    def _end_handovers(self) -> None:
        self.grant_grace()
        for job in self.jobs.values():
            if (attempt := job.running) is not None:
                attempt.handover = None

    def grant_grace(self, jump: float = 0.0) -> None:
        """Give every running attempt a full lease; its job's timeout jumps with the clock (L14, L15)."""
        for job in self.jobs.values():
            if (attempt := job.running) is not None:
                attempt.deadline = self.now + attempt.claim.lease
                if attempt.timeout_at is not None:
                    attempt.timeout_at = max(attempt.timeout_at + jump, attempt.deadline)

    def jump(self, seconds: float) -> None:
        """Set the clock, and notice it."""
        self.now += seconds
        self._steady_since = self.now
        if seconds > DISPUTED:
            self._disputed_since = self.now
        elif self._disputed_since is not None and self._disputed_since > self.now + DISPUTED:
            self._disputed_since = None
        self.grant_grace(seconds)
        for job in self.jobs.values():
            if seconds < 0.0 and job.state is JobState.WAITING and not self._blocked(job):
                self._shorten_backoff(job)

    def _shorten_backoff(self, job: ModelJob) -> None:
        if job.failures and job.not_before is not None:
            job.not_before = min(job.not_before, self.now + _backoff(job))

    def reload(self) -> None:
        """Dump everything, delete it, and load it again: every job gets the position of its submission."""
        self._end_handovers()
        for job in self.jobs.values():
            job.position = self._next_position()

    def kept_before(self) -> float:
        """Return the time before which jobs must have ended to be kept by `purge` (P5, P6)."""
        if self._disputed_since is not None and self.now - self._disputed_since >= SETTLED_AFTER:
            self._disputed_since = None
        kept_before = float("-inf") if self._disputed_since is None else self._disputed_since
        if self.now - self._steady_since < STEADY_AFTER:
            kept_before = max(kept_before, self._steady_since)
        return kept_before

    def expired(self) -> set[UUID]:
        """Return the jobs that `purge` may delete."""
        kept_before = self.kept_before()
        return {
            job.new.id
            for job in self.jobs.values()
            if job.expires_at is not None
            and job.finished_at is not None
            and job.expires_at <= self.now
            and job.finished_at >= kept_before
            and not self.needed(job)
        }

    def _due_at(self, job: ModelJob) -> float | None:
        if (attempt := job.running) is not None:
            return attempt.due_at
        return job.not_before if job.state is JobState.WAITING and not self._blocked(job) else None

    def usage(self, channel: str) -> tuple[int, int, int, int]:
        """Return what the jobs of a channel use: waiting and running jobs, bytes of payloads and of artifacts."""
        jobs = [job for job in self.jobs.values() if job.new.channel == channel]
        waiting = sum(job.state in (JobState.WAITING, JobState.READY) for job in jobs)
        files = [one for job in jobs for one in (job.running or job).artifacts.values()]
        payloads = sum(len(job.new.args or b"") + len(job.result or b"") for job in jobs)
        return waiting, sum(job.running is not None for job in jobs), payloads, sum(one.size for one in files)

    # Ends.

    def cancel(self, job: ModelJob) -> None:
        """Cancel a job that has not ended, and all that depend on it."""
        self._end(job, JobState.CANCELED, None)

    def needed(self, job: ModelJob) -> bool:
        """Return True if an unended job depends on this job."""
        return any(not one.state.ended for one in self.dependents(job))

    def dependents(self, job: ModelJob) -> Iterator[ModelJob]:
        """Return the jobs that depend on this job, in the order of their submission."""
        return (one for one in self.jobs.values() if job.new.id in one.new.dependencies)

    def failed_dependencies(self, job: ModelJob) -> list[UUID]:
        """Return the dependencies of a job that have failed, each once, in the order in which it names them."""
        found = [self.jobs[one] for one in dict.fromkeys(job.new.dependencies) if one in self.jobs]
        return [one.new.id for one in found if one.state is JobState.FAILED]

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
        job.failed_with = self.failed_dependencies(job)

    def _back_to_queue(self, job: ModelJob, position: int) -> None:
        job.state, job.position, job.partial = JobState.WAITING, position, None
        self.requeued_news.add(job.new.id)
        self._wait_or_ready(job)

    def _wait_or_ready(self, job: ModelJob) -> None:
        if not self._blocked(job) and (job.not_before is None or job.not_before <= self.now):
            self._ready(job)

    def _blocked(self, job: ModelJob) -> bool:
        return any(one in self.jobs and not self.jobs[one].state.ended for one in job.new.dependencies)

    def _ready(self, job: ModelJob) -> None:
        job.state = JobState.READY
        self.ready_news.add(job.new.key)

    def _next_position(self) -> int:
        self._last_position += 1
        return self._last_position


def ready_order(job: ModelJob) -> tuple[int, int]:
    """Return the key by which ready jobs are sorted: the first one is claimed first."""
    return -job.new.priority, job.position


def _with_existing_dependencies(job: NewJob, alias: dict[UUID, UUID]) -> NewJob:
    dependencies = tuple(alias.get(one, one) for one in job.dependencies)
    return msgspec.structs.replace(job, dependencies=dependencies)


def _backoff(job: ModelJob) -> float:
    return min(job.new.retry_backoff * 2.0 ** (job.failures - 1), LONGEST_BACKOFF)


def _seconds(not_before: object) -> float:
    assert isinstance(not_before, float), "the histories have no absolute times"
    return not_before

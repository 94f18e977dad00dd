"""`JobRecord` and `AttemptRecord`: a job and an attempt as the table keeps them, and as the contract describes them.

They are mutable, and have the fields that `composerd.driver.transitions` reads and changes. Before a transition the
table copies them, so that a flush that is refused can be taken back.
"""

from uuid import UUID

import msgspec

from composerd.driver import StoredAttempt, StoredJob
from composerd.driver.clock import seconds, to_time
from composerd.driver.records import Policy
from composerd.models import Artifact, Attempt, AttemptState, Job, JobState, Key, NewJob, OnDependencyFailure
from composerd_fs.journal.entries import Payload
from composerd_fs.state.edges import Dependents


class AttemptRecord(msgspec.Struct, eq=False):
    """A remembered attempt. Durations are in microseconds."""

    token: UUID
    job: "JobRecord"
    lease: int
    handover: int | None
    worker_id: UUID | None
    confirm: bool
    """True if its worker promised to confirm the handover."""
    number: int = 0
    state: AttemptState = AttemptState.RUNNING
    confirmed: bool = False
    deadline: int = 0
    timeout_at: int | None = None
    digest: bytes = b""
    artifacts: dict[str, Artifact] | None = None
    """The files that are attached to it, by name, while it runs."""

    def attempt(self) -> Attempt:
        """Return the attempt as the contract describes it."""
        confirmed = self.confirmed and self.state is AttemptState.RUNNING
        return Attempt(self.state, self.job.id, self.number, self.confirm, self.worker_id, confirmed)


class JobRecord(msgspec.Struct, eq=False):
    """A job that is not archived, or the copy of one that is. Times are in microseconds since the epoch."""

    id: UUID
    sequence: int
    """A number that grows with every submission; no two jobs have the same."""
    key: Key
    policy: Policy
    priority: int
    queued_at: int
    position: int = 0
    state: JobState = JobState.WAITING
    args: Payload | None = None
    result: Payload | None = None
    dependencies: tuple[UUID, ...] = ()
    dependents: Dependents | None = None
    """The sequences of the jobs that depend on it, in the order of their submission; deleted ones may be among them."""
    needed: int = 0
    """The number of its dependents that have not ended."""
    pending: int = 0
    """The number of its dependencies that have not ended."""
    not_before: int | None = None
    started_at: int | None = None
    finished_at: int | None = None
    retries: int = 0
    failures: int = 0
    uncounted_requeues: int = 0
    attempt_number: int = 0
    attempts: tuple[AttemptRecord, ...] = ()
    """The remembered attempts, oldest first."""
    worker_id: UUID | None = None
    partial: bytes | None = None
    idempotency_key: str | None = None
    fingerprint: bytes = b""
    artifacts: tuple[Artifact, ...] = ()
    """The files of the attempt that ended it, by name."""

    @property
    def channel(self) -> str:
        """The job's channel."""
        return self.key.channel

    @property
    def running(self) -> AttemptRecord | None:
        """The running attempt, if there is one."""
        if self.attempts and self.attempts[-1].state is AttemptState.RUNNING:
            return self.attempts[-1]
        return None

    @property
    def edges(self) -> int:
        """The number of its dependencies and dependents."""
        return len(self.dependencies) + (0 if self.dependents is None else len(self.dependents))

    @property
    def expires_at(self) -> int | None:
        """Time at which its retention is over; None before it has ended, or if it is kept until it is deleted."""
        if self.finished_at is None or self.policy.retention is None:
            return None
        return self.finished_at + self.policy.retention

    @property
    def files(self) -> tuple[Artifact, ...]:
        """The files of the running attempt as they were attached, or those of the job if none is running."""
        running = self.running
        return self.artifacts if running is None else tuple((running.artifacts or {}).values())

    def job(self, dependents: tuple[UUID, ...] = (), *, listed: bool = False) -> Job:
        """Return the job as the contract describes it; as `list` shows it if `listed` is true."""
        channel, type, arch = self.key
        expires_at = self.expires_at
        return Job(
            id=self.id,
            type=type,
            arch=arch,
            channel=channel,
            state=self.state,
            priority=self.priority,
            queued_at=to_time(self.queued_at),
            not_before=None if self.not_before is None else to_time(self.not_before),
            started_at=None if self.started_at is None else to_time(self.started_at),
            finished_at=None if self.finished_at is None else to_time(self.finished_at),
            retries=self.retries,
            dependencies=() if listed else self.dependencies,
            dependents=dependents,
            worker_id=self.worker_id,
            partial=None if listed else self.partial,
            idempotency_key=self.idempotency_key,
            expires_at=None if expires_at is None else to_time(expires_at),
            attempt=self.attempt_number,
        )

    def stored(self, dependents: tuple[UUID, ...], args: bytes | None, result: bytes | None) -> StoredJob:
        """Return everything about the job, for another storage."""
        policy = self.policy
        return StoredJob(
            new=NewJob(
                id=self.id,
                type=self.key.type,
                arch=self.key.arch,
                channel=self.key.channel,
                args=args,
                dependencies=self.dependencies,
                priority=self.priority,
                not_before=None if self.not_before is None else to_time(self.not_before),
                timeout=None if policy.timeout is None else seconds(policy.timeout),
                max_retries=policy.max_retries,
                retry_on_failure=policy.retry_on_failure,
                retry_backoff=seconds(policy.retry_backoff),
                on_dependency_failure=OnDependencyFailure.FAIL
                if policy.fail_with_dependency
                else OnDependencyFailure.RUN,
                idempotency_key=self.idempotency_key,
                fingerprint=self.fingerprint,
                retention=None if policy.retention is None else seconds(policy.retention),
            ),
            job=self.job(dependents),
            attempts=tuple(
                StoredAttempt(
                    token=attempt.token,
                    number=attempt.number,
                    state=attempt.state,
                    confirm=attempt.confirm,
                    lease=seconds(attempt.lease),
                    digest=attempt.digest,
                    worker_id=attempt.worker_id,
                )
                for attempt in self.attempts
            ),
            result=result,
            failures=self.failures,
            uncounted_requeues=self.uncounted_requeues,
            artifacts=self.files,
        )

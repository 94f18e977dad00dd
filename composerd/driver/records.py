"""The mutable records that `composerd.driver.transitions` works on, as protocols. Drivers read and store them.

Times are integers, microseconds since the epoch on the storage's clock; durations are integers in microseconds.
`composerd.driver.clock` converts both to the values of the contract.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol
from uuid import UUID

from composerd.driver.clock import microseconds
from composerd.models import AttemptState, JobState, NewJob, OnDependencyFailure


class Policy(NamedTuple):
    """The part of a submission that decides how long attempts may run and what happens after a failure."""

    timeout: int | None
    """Longest time that one attempt may run, in microseconds; None for no limit."""
    max_retries: int
    """Number of counted requeues after which the next counted one fails the job."""
    retry_on_failure: int
    """Number of failed outcomes that requeue the job; the next one ends it."""
    retry_backoff: int
    """The wait after the first failed outcome, in microseconds; each further one doubles it."""
    fail_with_dependency: bool
    """True if the job fails as soon as a dependency fails."""
    retention: int | None
    """Time that the job is kept after its end, in microseconds; None if it is kept until it is deleted."""

    @classmethod
    def of(cls, job: NewJob) -> "Policy":
        """Return the policy of a submitted job, with its durations in microseconds."""
        return cls(
            timeout=None if job.timeout is None else microseconds(job.timeout),
            max_retries=job.max_retries,
            retry_on_failure=job.retry_on_failure,
            retry_backoff=microseconds(job.retry_backoff),
            fail_with_dependency=job.on_dependency_failure is OnDependencyFailure.FAIL,
            retention=None if job.retention is None else microseconds(job.retention),
        )


class StoredJobView(Protocol):
    """The part of a stored job that planning a submission and beginning its jobs read."""

    @property
    def id(self) -> UUID:
        """The job's id."""

    @property
    def channel(self) -> str:
        """The job's channel."""

    @property
    def state(self) -> JobState:
        """The job's state."""

    @property
    def dependencies(self) -> Sequence[UUID]:
        """The ids of the jobs that it depends on, as named, repetitions included."""

    @property
    def fingerprint(self) -> bytes:
        """The digest of what was submitted under the job's idempotency key; empty without a key."""


class JobRecord(Protocol):
    """A job as a driver keeps it, with the fields that transitions read or change."""

    state: JobState
    position: int
    """The job's position among the ready jobs of its priority: the lowest is claimed first."""
    pending: int
    """The number of its dependencies that have not ended."""
    not_before: int | None
    started_at: int | None
    finished_at: int | None
    retries: int
    """The number of counted requeues, including those after failed outcomes."""
    failures: int
    """The number of failed outcomes that requeued it; they are part of `retries`."""
    uncounted_requeues: int
    """The number of uncounted requeues in a row."""
    attempt_number: int
    """The number of its latest attempt; 0 before the first."""
    worker_id: UUID | None
    """The worker of its latest attempt."""

    @property
    def dependencies(self) -> Sequence[UUID]:
        """The ids of the jobs that it depends on, as named, repetitions included."""

    @property
    def policy(self) -> Policy:
        """The job's policy."""


class AttemptRecord(Protocol):
    """An attempt as a driver keeps it, with the fields that its end changes."""

    state: AttemptState
    digest: bytes
    """The digest of the result with which it finished (`transitions.result_digest`); empty before."""


class LeaseRecord(Protocol):
    """The lease of a running attempt. A driver may keep it in the attempt's record or apart from it."""

    confirmed: bool
    """True once the worker has called. An attempt that ends before that was never run as far as anybody knows."""
    deadline: int
    """Time at which the lease expires, or the handover if there is one, as long as the attempt is not confirmed."""
    timeout_at: int | None
    """Time at which the attempt reaches the job's `timeout`; None if the job has none."""

    @property
    def lease(self) -> int:
        """Time that the attempt lives without a heartbeat, in microseconds."""

    @property
    def handover(self) -> int | None:
        """Time that the attempt lives unconfirmed, in microseconds; None if no confirmation was promised."""


class NewAttempt(AttemptRecord, LeaseRecord, Protocol):
    """An attempt that is about to begin, with its lease."""

    number: int

    @property
    def worker_id(self) -> UUID | None:
        """The worker that claimed it; None if the claim named no worker."""

"""Jobs and attempts as the tests of transitions give them to these functions."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from composerd.driver import transitions
from composerd.driver.records import Policy
from composerd.models import AttemptState, JobState

NOW = 1_000_000_000
SECOND = 1_000_000
HOUR = 3600 * SECOND

POLICY = Policy(
    timeout=None,
    max_retries=2,
    retry_on_failure=0,
    retry_backoff=10 * SECOND,
    fail_with_dependency=False,
    retention=None,
)
STRICT = POLICY._replace(fail_with_dependency=True)


@dataclass
class Job:
    id: UUID = field(default_factory=uuid4)
    state: JobState = JobState.WAITING
    policy: Policy = POLICY
    position: int = 1
    pending: int = 0
    not_before: int | None = None
    started_at: int | None = None
    finished_at: int | None = None
    retries: int = 0
    failures: int = 0
    uncounted_requeues: int = 0
    attempt_number: int = 0
    worker_id: UUID | None = None
    channel: str = ""
    dependencies: Sequence[UUID] = ()
    fingerprint: bytes = b""


@dataclass
class Attempt:
    lease: int = 20 * SECOND
    handover: int | None = None
    worker_id: UUID | None = None
    number: int = 0
    state: AttemptState = AttemptState.RUNNING
    digest: bytes = b""
    confirmed: bool = True
    deadline: int = 0
    timeout_at: int | None = None


def running(**fields: object) -> tuple[Job, Attempt]:
    """Return a job with a running attempt."""
    job, attempt = Job(state=JobState.READY, **fields), Attempt()  # type: ignore[arg-type]
    transitions.begin(job, attempt, NOW - SECOND)
    return job, attempt

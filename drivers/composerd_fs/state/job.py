"""What the table remembers of a job and of an attempt: mutable, compact, and copied before it is changed (`undo`)."""

from typing import NamedTuple
from uuid import UUID

from composerd.models import Artifact, AttemptState, JobState, Key
from composerd_fs.journal.entries import Payload
from composerd_fs.journal.frames import where


class Policy(NamedTuple):
    """What a job says about time and failure; equal ones are shared. Durations in microseconds."""

    timeout: int | None
    max_retries: int
    retry_on_failure: int
    retry_backoff: int
    fail_with_dependency: bool
    retention: int | None


class Run:
    """An attempt."""

    __slots__ = (
        "artifacts",
        "confirm",
        "confirmed",
        "deadline",
        "digest",
        "handover",
        "lease",
        "number",
        "row",
        "state",
        "token",
        "worker",
    )

    def __init__(
        self, token: UUID, row: "Row", number: int, lease: int, handover: int | None, worker: UUID | None
    ) -> None:
        self.token = token
        self.row = row
        self.number = number
        self.state = AttemptState.RUNNING
        self.lease = lease
        self.handover = handover
        self.confirm = handover is not None
        self.confirmed = handover is None
        self.worker = worker
        self.deadline = 0
        self.digest = b""
        self.artifacts: dict[str, Artifact] | None = None


class Row:
    """A job."""

    __slots__ = (
        "args",
        "artifacts",
        "dependencies",
        "dependents",
        "failures",
        "fingerprint",
        "finished_at",
        "id",
        "idempotency_key",
        "key",
        "needed",
        "not_before",
        "number",
        "partial",
        "pending",
        "place",
        "policy",
        "priority",
        "queued_at",
        "result",
        "retries",
        "returns",
        "runs",
        "seq",
        "started_at",
        "state",
        "worker",
    )

    def __init__(self, id: UUID, seq: int, key: Key, policy: Policy, priority: int, queued_at: int) -> None:
        self.id = id
        self.seq = seq
        self.key = key
        self.policy = policy
        self.priority = priority
        self.place = seq
        self.queued_at = queued_at
        self.state = JobState.WAITING
        self.args: Payload | None = None
        self.result: Payload | None = None
        self.dependencies: tuple[UUID, ...] = ()
        self.dependents: dict[int, None] | None = None
        """By number, in the order of their submission."""
        self.needed = 0
        """How many dependents have not ended."""
        self.pending = 0
        """How many dependencies have not ended."""
        self.not_before: int | None = None
        self.started_at: int | None = None
        self.finished_at: int | None = None
        self.retries = 0
        self.failures = 0
        self.returns = 0
        self.number = 0
        """Of the latest attempt."""
        self.runs: tuple[Run, ...] = ()
        """The remembered attempts, oldest first."""
        self.worker: UUID | None = None
        self.partial: bytes | None = None
        self.idempotency_key: str | None = None
        self.fingerprint = b""
        self.artifacts: tuple[Artifact, ...] = ()
        """Of the attempt that ended it."""

    @property
    def weight(self) -> int:
        """Bytes of payload that it has in the journal."""
        return sum(where(one)[2] for one in (self.args, self.result) if isinstance(one, int))

    @property
    def expires_at(self) -> int | None:
        """When it may be forgotten."""
        if self.finished_at is None or self.policy.retention is None:
            return None
        return self.finished_at + self.policy.retention

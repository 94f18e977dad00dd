"""What the table remembers of a job and of an attempt: mutable, compact, and copied before it is changed (undo)."""

from collections.abc import Callable
from operator import attrgetter
from typing import Any, NamedTuple
from uuid import UUID

from composerd.models import Artifact, AttemptState, JobState, Key
from composerd_fs.frames import where
from composerd_fs.records import Payload


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


_COPY: dict[type, Callable[[Any], tuple[object, ...]]] = {kind: attrgetter(*kind.__slots__) for kind in (Run, Row)}


class Undo:
    """How to take back what a flush did to the table: copies of what was changed, and calls that reverse the rest."""

    def __init__(self) -> None:
        self._saved: dict[int, tuple[Row | Run, tuple[object, ...]]] = {}
        self._calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self.before: Callable[[Row], None] | None = None
        """Told of each row before a flush changes it for the first time, if somebody looks at the table as it was."""
        self.replaying = True
        """Nothing is to be taken back: what is done has long been on stable storage."""

    def save(self, changed: Row | Run) -> None:
        """About to change a row or a run."""
        if not self.replaying and id(changed) not in self._saved:
            if self.before is not None:
                self.before(changed if isinstance(changed, Row) else changed.row)
            self._saved[id(changed)] = (changed, _COPY[type(changed)](changed))

    def call(self, reverse: Callable[..., Any], *args: Any) -> None:
        """How to reverse what is about to be done."""
        if not self.replaying:
            self._calls.append((reverse, args))

    def clear(self) -> None:
        """The flush is on stable storage."""
        self._saved.clear()
        self._calls.clear()

    def roll_back(self) -> list[Row]:
        """Take everything back; the rows that have changed, to be put into the indexes again."""
        rows: list[Row] = []
        for changed, values in self._saved.values():
            for name, value in zip(changed.__slots__, values, strict=True):
                setattr(changed, name, value)
            if isinstance(changed, Row):
                rows.append(changed)
        for reverse, args in reversed(self._calls):
            reverse(*args)
        self.clear()
        return rows

"""The entries of the journal and of checkpoints.

The journal has one entry for each transition that a call or the time has caused, and none for its consequences.

Ids and tokens are UUIDs (16 bytes in the journal), times are microseconds since the epoch on the driver's clock,
durations are microseconds. Entries are encoded by position, so the order of the fields and the tags are the format;
their names are not. docs/reference/fs-format.md lists them.
"""

from typing import TypeAlias
from uuid import UUID

import msgspec

from composerd.driver.transitions import RequeueCause
from composerd_fs.journal.frames import Span

Payload: TypeAlias = int | bytes
"""The args or the result of a job: its location (see `frames`), or the bytes themselves."""

StoredPayload: TypeAlias = bytes | Span
"""A payload in a checkpoint: the bytes themselves, or their location."""


class JobFields(msgspec.Struct, array_like=True, gc=False):
    """A job as it was submitted."""

    id: UUID
    type: str
    arch: str | None
    channel: str
    args: Payload | None
    dependencies: tuple[UUID, ...]
    priority: int
    not_before: int | None
    timeout: int | None
    max_retries: int
    retry_on_failure: int
    retry_backoff: int
    fail_with_dependency: bool
    retention: int | None
    idempotency_key: str | None
    fingerprint: bytes


class ArtifactFields(msgspec.Struct, array_like=True, gc=False):
    """A file that was attached."""

    name: str
    size: int
    sha256: bytes
    location: str


class AttemptFields(msgspec.Struct, array_like=True, gc=False):
    """A remembered attempt at a job."""

    token: UUID
    number: int
    state: str
    confirm: bool
    digest: bytes
    lease: int
    worker_id: UUID | None


# The journal.


class EnqueuedEntry(msgspec.Struct, array_like=True, tag=1, gc=False):
    """A submission was stored."""

    at: int
    jobs: list[JobFields]


class ClaimedEntry(msgspec.Struct, array_like=True, tag=2, gc=False):
    """An attempt began."""

    at: int
    job_id: UUID
    token: UUID
    lease: int
    handover: int | None
    worker_id: UUID | None


class AttachedEntry(msgspec.Struct, array_like=True, tag=3, gc=False):
    """A file was attached to an attempt."""

    token: UUID
    artifact: ArtifactFields


class FinishedEntry(msgspec.Struct, array_like=True, tag=4, gc=False):
    """An attempt ended with an outcome."""

    at: int
    token: UUID
    result: Payload
    digest: bytes
    failed: bool


class RequeuedEntry(msgspec.Struct, array_like=True, tag=5, gc=False):
    """An attempt ended without an outcome."""

    at: int
    token: UUID
    cause: RequeueCause


class CanceledEntry(msgspec.Struct, array_like=True, tag=6, gc=False):
    """A job was canceled."""

    at: int
    job_id: UUID


class DeletedEntry(msgspec.Struct, array_like=True, tag=7, gc=False):
    """Jobs were deleted."""

    job_ids: list[UUID]


class RestoredEntry(msgspec.Struct, array_like=True, tag=8, gc=False):
    """A job was loaded from another storage."""

    at: int
    job: JobFields
    state: str
    queued_at: int
    started_at: int | None
    finished_at: int | None
    retries: int
    failures: int
    uncounted_requeues: int
    worker_id: UUID | None
    result: Payload | None
    attempts: list[AttemptFields]
    artifacts: list[ArtifactFields]


class PropagatedEntry(msgspec.Struct, array_like=True, tag=9, gc=False):
    """Ends of jobs were propagated to all dependents that had not ended then, of which there are so many together."""

    dependents: int


class PropagatedToEntry(msgspec.Struct, array_like=True, tag=16, gc=False):
    """Ends of jobs were propagated, not all of them to all dependents; those submitted last come first."""

    lowest: list[UUID | None]
    """For each end, in order, the dependent that was submitted first of those that were updated; None if all were."""


class MovedEntry(msgspec.Struct, array_like=True, tag=13, gc=False):
    """Payloads of a job were copied into this frame; None stands for one that was not copied."""

    job_id: UUID
    args: Payload | None
    result: Payload | None


# Checkpoints.


class BegunEntry(msgspec.Struct, array_like=True, tag=10, gc=False):
    """A checkpoint begins: it holds the state after this frame of the journal."""

    frame: int
    last_sequence: int
    last_position: int
    latest: int
    """The latest time in an entry."""


class KeptEntry(msgspec.Struct, array_like=True, tag=11, gc=False):
    """A job with its complete history."""

    job: JobFields
    """The job without its args."""
    sequence: int
    position: int
    state: str
    queued_at: int
    started_at: int | None
    finished_at: int | None
    retries: int
    failures: int
    uncounted_requeues: int
    worker_id: UUID | None
    args: StoredPayload | None
    result: StoredPayload | None
    attempts: list[AttemptFields]
    artifacts: list[ArtifactFields]
    dependents: list[int]
    """The sequences of its dependents, oldest first."""


class CompleteEntry(msgspec.Struct, array_like=True, tag=12, gc=False):
    """A checkpoint ends; it has this number of jobs."""

    jobs: int


class ShapeFields(msgspec.Struct, array_like=True, gc=False):
    """Fields that many archived jobs have in common."""

    type: str
    arch: str | None
    channel: str
    timeout: int | None
    max_retries: int
    retry_on_failure: int
    retry_backoff: int
    fail_with_dependency: bool
    retention: int | None
    priority: int
    state: str
    attempt: str
    """The state of the only attempt."""
    lease: int
    confirm: bool


class ShapesEntry(msgspec.Struct, array_like=True, tag=15, gc=False):
    """Shapes of the archived jobs that follow; they are numbered through all entries of this kind, from 0."""

    shapes: list[ShapeFields]


class ArchivedEntry(msgspec.Struct, array_like=True, tag=14, gc=False):
    """Archived jobs; each is a `PackedJob`, encoded as MessagePack."""

    jobs: list[bytes]


class PackedRest(msgspec.Struct, array_like=True, gc=False):
    """The fields of an archived job that most jobs do not need."""

    attempt_number: int
    """The number of the latest attempt."""
    retries: int = 0
    failures: int = 0
    uncounted_requeues: int = 0
    not_before: int | None = None
    dependencies: tuple[UUID, ...] = ()
    dependents: list[int] = []
    """The sequences of its dependents, oldest first."""
    idempotency_key: str | None = None
    fingerprint: bytes = b""
    artifacts: list[ArtifactFields] = []
    attempts: list[AttemptFields] = []
    """The remembered attempts; empty if `PackedJob` describes the only one."""


class PackedJob(msgspec.Struct, array_like=True, gc=False):
    """A job that has ended, as it is archived in memory and in a checkpoint."""

    sequence: int
    shape: int
    """The number of its shape."""
    id: bytes
    queued_at: int
    finished: int
    """Time of its end, in microseconds after `queued_at`."""
    started: int | None
    """Time at which its latest attempt began, in microseconds after `queued_at`."""
    args: StoredPayload | None
    result: StoredPayload | None
    token: bytes | None
    """The token of its only attempt."""
    digest: bytes
    worker_id: bytes | None
    rest: PackedRest | None


JournalEntry: TypeAlias = (
    EnqueuedEntry
    | ClaimedEntry
    | AttachedEntry
    | FinishedEntry
    | RequeuedEntry
    | CanceledEntry
    | DeletedEntry
    | RestoredEntry
    | PropagatedEntry
    | PropagatedToEntry
    | MovedEntry
)
"""An entry of a segment."""

CheckpointEntry: TypeAlias = BegunEntry | KeptEntry | ShapesEntry | ArchivedEntry | CompleteEntry
"""An entry of a checkpoint."""

Entry: TypeAlias = JournalEntry | CheckpointEntry

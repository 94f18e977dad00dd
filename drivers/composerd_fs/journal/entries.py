"""The facts that the journal keeps: one record for each transition that somebody caused, none for what follows from it.

Ids and tokens are UUIDs (16 bytes in the journal), times are microseconds since the epoch on the driver's clock,
durations are microseconds. A payload is an integer, its place in the journal (`composerd_fs.journal.frames`); in memory it is
the bytes themselves.
"""

from typing import TypeAlias
from uuid import UUID

import msgspec

from composerd.driver.transitions import RequeueCause

Payload: TypeAlias = int | bytes
"""Where a payload is, or the payload itself."""


Place: TypeAlias = tuple[int, int, int]
"""A payload in a checkpoint: its segment, the offset of its checksum in the file, and its length with the checksum."""


class JobFields(msgspec.Struct, array_like=True, gc=False):
    """A submitted job."""

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
    """An attached file."""

    name: str
    size: int
    sha256: bytes
    place: str


class Enqueued(msgspec.Struct, array_like=True, tag=1, gc=False):
    """A submission was stored."""

    at: int
    jobs: list[JobFields]


class Claimed(msgspec.Struct, array_like=True, tag=2, gc=False):
    """An attempt began."""

    at: int
    job: UUID
    token: UUID
    lease: int
    handover: int | None
    worker: UUID | None


class Attached(msgspec.Struct, array_like=True, tag=3, gc=False):
    """A file was added to an attempt."""

    token: UUID
    artifact: ArtifactFields


class Finished(msgspec.Struct, array_like=True, tag=4, gc=False):
    """An attempt reported its outcome."""

    at: int
    token: UUID
    result: Payload
    digest: bytes
    failed: bool


class Returned(msgspec.Struct, array_like=True, tag=5, gc=False):
    """An attempt ended without an outcome."""

    at: int
    token: UUID
    cause: RequeueCause


class Canceled(msgspec.Struct, array_like=True, tag=6, gc=False):
    """A job was canceled."""

    at: int
    job: UUID


class Deleted(msgspec.Struct, array_like=True, tag=7, gc=False):
    """Jobs were forgotten."""

    jobs: list[UUID]


class AttemptFields(msgspec.Struct, array_like=True, gc=False):
    """A remembered attempt of a restored job."""

    token: UUID
    number: int
    state: str
    confirm: bool
    digest: bytes
    lease: int
    worker: UUID | None


class Restored(msgspec.Struct, array_like=True, tag=8, gc=False):
    """A job came from another storage, as it was there."""

    at: int
    job: JobFields
    state: str
    queued_at: int
    started_at: int | None
    finished_at: int | None
    retries: int
    failures: int
    returns: int
    worker: UUID | None
    result: Payload | None
    attempts: list[AttemptFields]
    artifacts: list[ArtifactFields]


class Settled(msgspec.Struct, array_like=True, tag=9, gc=False):
    """What followed from ends was drawn for so many dependents: which, follows from the facts before."""

    dependents: int


class Begun(msgspec.Struct, array_like=True, tag=10, gc=False):
    """A checkpoint begins: the state after this frame of the journal."""

    frame: int
    last_seq: int
    last_place: int
    latest: int


class Kept(msgspec.Struct, array_like=True, tag=11, gc=False):
    """All that is known of a job, in a checkpoint."""

    job: JobFields
    """Without its args."""
    seq: int
    place: int
    state: str
    queued_at: int
    started_at: int | None
    finished_at: int | None
    retries: int
    failures: int
    returns: int
    worker: UUID | None
    args: bytes | Place | None
    result: bytes | Place | None
    attempts: list[AttemptFields]
    artifacts: list[ArtifactFields]
    dependents: list[int]
    """By number, oldest first."""


class Complete(msgspec.Struct, array_like=True, tag=12, gc=False):
    """A checkpoint ends, with so many jobs."""

    jobs: int


class ShapeFields(msgspec.Struct, array_like=True, gc=False):
    """What many packed jobs have in common."""

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
    """State of the only attempt."""
    lease: int
    confirm: bool


class Shapes(msgspec.Struct, array_like=True, tag=15, gc=False):
    """Shapes of packed jobs that follow, in a checkpoint; counted on through all such records, from 0."""

    shapes: list[ShapeFields]


class Archived(msgspec.Struct, array_like=True, tag=14, gc=False):
    """Jobs that ended and that nobody unended depends on, in a checkpoint: each a `Packed` as MessagePack."""

    jobs: list[bytes]


class Rest(msgspec.Struct, array_like=True, gc=False):
    """What a packed job says beyond the usual."""

    number: int
    """Of its latest attempt."""
    retries: int = 0
    failures: int = 0
    returns: int = 0
    not_before: int | None = None
    dependencies: tuple[UUID, ...] = ()
    dependents: list[int] = []
    idempotency_key: str | None = None
    fingerprint: bytes = b""
    artifacts: list[ArtifactFields] = []
    attempts: list[AttemptFields] = []
    """All that are remembered, unless the one that `Packed` has is all there was."""


class Packed(msgspec.Struct, array_like=True, gc=False):
    """An ended job, in memory and in a checkpoint."""

    seq: int
    shape: int
    id: bytes
    queued_at: int
    finished: int
    """Microseconds after `queued_at`."""
    started: int | None
    """The same."""
    args: bytes | Place | None
    result: bytes | Place | None
    token: bytes | None
    digest: bytes
    worker: bytes | None
    rest: Rest | None


class Moved(msgspec.Struct, array_like=True, tag=13, gc=False):
    """A job's payloads were copied into this frame; None: not that one."""

    job: UUID
    args: Payload | None
    result: Payload | None


Fact: TypeAlias = Enqueued | Claimed | Attached | Finished | Returned | Canceled | Deleted | Restored | Settled | Moved
"""What a segment holds."""

Record: TypeAlias = Fact | Begun | Kept | Shapes | Archived | Complete
"""What a segment or a checkpoint holds."""

"""What the server says, as values."""

from typing import Any

import msgspec


class Job(msgspec.Struct, frozen=True, omit_defaults=True):
    """A job as the composer API returns it; docs/reference/protocol.md says what each field means."""

    kind: str
    href: str
    id: str
    type: str
    arch: str | None
    channel: str
    state: str
    """`waiting`, `ready`, `running`, `finished`, `failed` or `canceled`."""
    priority: int
    queued_at: str
    not_before: str | None
    started_at: str | None
    finished_at: str | None
    retries: int
    canceled: bool
    dependencies: list[str]
    worker_id: str | None
    idempotency_key: str | None
    expires_at: str | None
    dependents: list[str] = []
    """Empty in a listing."""
    partial: Any = None
    """The latest progress; None in a listing."""
    result: Any = None
    """None before the end, and in a listing."""

    @property
    def ended(self) -> bool:
        """Whether it has left the queue for good."""
        return self.state in ("finished", "failed", "canceled")


class Artifact(msgspec.Struct, frozen=True):
    """A file that a job left."""

    kind: str
    href: str
    id: str
    name: str
    size: int
    sha256: str
    """Hexadecimal."""


class Why(msgspec.Struct, frozen=True):
    """Why a job is not running."""

    id: str
    state: str
    reason: str
    """In a sentence."""
    blocked_by: list[str]
    """Dependencies that have not ended."""
    delayed_until: str | None
    workers: int | None
    """Live workers that take such jobs; None unless the job is ready."""
    ahead: int | None
    """Jobs alike that go first, counted up to 10,000; None unless the job is ready."""


class WorkerSeen(msgspec.Struct, frozen=True):
    """A worker that the server heard of lately."""

    id: str
    arch: str | None
    types: list[str]
    """What it asked for last."""
    channel: str
    jobs: list[str]
    """The jobs that it runs."""
    seen_at: str


class WorkerList(msgspec.Struct, frozen=True):
    """The workers heard of lately."""

    items: list[WorkerSeen]


class JobList(msgspec.Struct, frozen=True):
    """A page of jobs."""

    items: list[Job]
    next: str | None = None


class ArtifactList(msgspec.Struct, frozen=True):
    """The artifacts of a job."""

    items: list[Artifact]


class Assignment(msgspec.Struct, frozen=True):
    """A job that a worker got."""

    id: str
    type: str
    location: str
    artifact_location: str
    args: msgspec.Raw = msgspec.Raw(b"")
    """Empty if the job has none."""
    dynamic_args: list[msgspec.Raw] = []

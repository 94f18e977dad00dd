"""The values that the server returns."""

from typing import Annotated, Any

import msgspec


class Job(msgspec.Struct, frozen=True, omit_defaults=True):
    """A job as the composer API returns it. docs/reference/protocol.md describes its fields."""

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
    worker_id: str | None
    idempotency_key: str | None
    expires_at: str | None
    dependencies: list[str] = []
    """Empty in a listing."""
    dependents: list[str] = []
    """The first thousand; empty in a listing."""
    partial: Any = None
    """The latest progress that the worker reported; None in a listing."""
    result: Any = None
    """The result; None before the job has ended, and in a listing."""

    @property
    def ended(self) -> bool:
        """True if the job is finished, failed or canceled."""
        return self.state in ("finished", "failed", "canceled")


class Artifact(msgspec.Struct, frozen=True):
    """A file that an attempt has uploaded for its job."""

    kind: str
    href: str
    id: str
    name: str
    size: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
    sha256: str
    """The digest in hexadecimal."""


class Why(msgspec.Struct, frozen=True):
    """The reason why a job is not running."""

    id: str
    state: str
    reason: str
    """The reason, in a sentence."""
    blocked_by: list[str]
    """Dependencies that have not ended."""
    delayed_until: str | None
    workers: int | None
    """Number of workers that request such jobs; None unless the job is ready."""
    ahead: int | None
    """Number of similar jobs that are ahead in the queue, at most 10,000; None unless the job is ready."""


class KnownWorker(msgspec.Struct, frozen=True):
    """A worker that has contacted the server lately."""

    id: str
    arch: str | None
    types: list[str]
    """The types of jobs in its latest request."""
    channel: str
    jobs: list[str]
    """The ids of the jobs that it is running."""
    seen_at: str


class WorkerList(msgspec.Struct, frozen=True):
    """The workers that have contacted the server lately."""

    items: list[KnownWorker]
    next: str | None = None


class JobIdList(msgspec.Struct, frozen=True):
    """A page of the ids of jobs."""

    items: list[str]
    next: str | None


class JobList(msgspec.Struct, frozen=True):
    """A page of jobs."""

    items: list[Job]
    next: str | None = None


class ArtifactList(msgspec.Struct, frozen=True):
    """The artifacts of a job."""

    items: list[Artifact]


class Attempt(msgspec.Struct, frozen=True):
    """An attempt at a job, as the server assigns it to a worker."""

    id: str
    """The id of the job."""
    type: str
    location: str
    """The path of the attempt, to which the worker reports."""
    artifact_location: str
    """The path for uploads, to which the name of the file is appended."""
    lease: str = ""
    """The duration of the lease; empty if the server is older, and does not tell it."""
    args: msgspec.Raw = msgspec.Raw(b"")
    """The args of the job; empty if it has none."""
    dynamic_args: list[msgspec.Raw] = []
    """The results of the dependencies, in their order."""

"""The values that describe workers, without behaviour or I/O; `composerd.models` has all others."""

from datetime import datetime
from uuid import UUID

import msgspec


class Worker(msgspec.Struct, frozen=True):
    """A worker that has contacted a server, or a sign of life of one."""

    id: UUID
    arch: str
    """The architecture; empty, like `types`, if the contact was only a sign of life."""
    types: tuple[str, ...] = ()
    """The types of jobs in its latest request; empty if it has not requested any."""
    channel: str = ""
    seen_at: datetime | None = None
    """The time of the latest contact. The driver sets it."""
    jobs: tuple[UUID, ...] = ()
    """The jobs that it is running. The driver sets it."""
    client: str = ""
    """The client that named it, an opaque text; empty if that is not known. The worker belongs to that client."""
    problem: str | None = None
    """The reason for which it asks for no jobs now, in its own words; None without one.

    In a contact without arch and types, None leaves the stored reason as it is, and an empty text removes it.
    """
    age: float = 0.0
    """Seconds since it sent what this says of it; a driver returns 0."""


class WorkerCursor(msgspec.Struct, frozen=True):
    """The place of a worker in a listing. Workers that were seen earlier, or at that moment, come after it."""

    seen: int
    """The time when the worker was seen, as the driver counts it: positive, and below 2**63."""
    id: UUID


class WorkerPage(msgspec.Struct, frozen=True):
    """A page of the workers."""

    workers: tuple[Worker, ...]
    next: WorkerCursor | None
    """The cursor of the next page; None after the last one. A page may be short, or empty, before the last one."""

"""The values that only drivers and their callers exchange; `composerd.models` has those that all of composerd knows."""

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar
from uuid import UUID

import msgspec

from composerd.models import NO_NEWS, Artifact, AttemptState, Job, NewJob, News

T = TypeVar("T", covariant=True)


class Batch(msgspec.Struct, Generic[T], frozen=True):
    """The answer of a writing method: an item for each item of the call, and news of what the call changed."""

    items: Sequence[T]
    news: News = NO_NEWS


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """The properties in which drivers may differ."""

    durable: bool
    """True if what a writing method has answered is on stable storage."""
    shared: bool
    """True if several servers may have the storage open at one time. `watch` then carries news between them."""
    max_submission: int
    """The most jobs in one submission; at least 1,000."""
    max_payload: int
    """The largest args or result, in bytes; at least 32 MiB."""
    coalesces: bool = False
    """True if the driver gathers concurrent calls into one flush by itself. The queue then makes no write wait for an
    earlier call to end. It repeats calls that failed as for any driver, so a call must not fail because of the items of
    another one."""
    hashes_tokens: bool = False
    """True if the storage keeps the hashes of tokens only (`composerd.driver.tokens`). The driver then finds an attempt
    by the hash of the token that it is given, and `dump` yields hashes."""
    compares_artifacts: bool = False
    """True if `finish` refuses an outcome that lists other files than the attempt has. If it is false, composerd
    compares them before it calls `finish`, and a file that is attached in between is published unlisted."""
    counts_usage: bool = False
    """True if the driver has `usage`. If it is false, there are no quotas of what a tenant has stored."""


class Usage(msgspec.Struct, frozen=True):
    """The use that the jobs of one channel make of a storage (Q1 to Q3)."""

    waiting: int = 0
    """The number of jobs that are waiting or ready."""
    running: int = 0
    """The number of jobs that are running."""
    payloads: int = 0
    """The size of the args and the results that are stored, in bytes."""
    artifacts: int = 0
    """The size of the files that running attempts and ended jobs have, in bytes."""


class StorageInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A summary of a storage, for people."""

    description: str
    """The kind of storage and its location, without secrets: `fs at /var/lib/composerd`."""
    jobs: Mapping[str, int]
    """The number of jobs by state; approximate where counting is expensive."""
    details: Mapping[str, Any] = {}
    """Further figures of the driver, as plain values."""
    not_checked: tuple[str, ...] = ()
    """A sentence for each part of the storage that was not read; the command adds what `start_reading` returned."""


class StorageCheck(msgspec.Struct, frozen=True, kw_only=True):
    """The result of reading everything in a storage."""

    problems: tuple[str, ...] = ()
    """A sentence for each problem that names where it is; empty if the storage is intact."""
    jobs: Mapping[str, int]
    """The number of jobs that can be read, by state."""
    details: Mapping[str, Any] = {}
    """Further figures of the driver, as plain values."""
    not_checked: tuple[str, ...] = ()
    """A sentence for each part of the storage that was not checked, and why; it is no problem."""


class Damage(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a salvage could not take out of a damaged storage."""

    problem: str
    """A sentence about it; for a part of the storage it names where that is."""
    job_id: UUID | None = None
    """The job that is incomplete or lost; None for a part of the storage."""
    type: str | None = None
    state: str | None = None
    """The state in which the job is stored; of a lost job the last one that is known."""
    lost: bool = False
    """True if the job is not stored at all."""
    harmless: bool = False
    """True for what a start would remove without a loss: a write that was not acknowledged."""


class StoredAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """A remembered attempt, to be moved between storages."""

    token: UUID
    """The token, or its hash (`composerd.driver.tokens`) if the storage from which the job comes keeps no tokens."""
    number: int
    state: AttemptState
    confirm: bool = False
    lease: float
    digest: bytes = b""
    """The first 16 bytes of the sha256 of its result, if it has finished."""
    worker_id: UUID | None = None


class StoredJob(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one job, to be moved between storages. A running attempt is moved as it is."""

    new: NewJob
    job: Job
    attempts: tuple[StoredAttempt, ...] = ()
    """The remembered attempts, oldest first."""
    result: bytes | None = None
    failures: int = 0
    """The number of failed outcomes that requeued the job."""
    uncounted_requeues: int = 0
    """The number of uncounted requeues in a row."""
    artifacts: tuple[Artifact, ...] = ()
    """The files that are attached to the running attempt, or to the one that ended the job."""

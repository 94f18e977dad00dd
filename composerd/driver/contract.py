"""The contract of a storage driver: `Driver`, an ABC, and the values that only it and its callers exchange. No behaviour.

In short; specs/driver-contract.md has it in numbered clauses, which the docstrings name (E1 to E11), and which the
conformance kit (`composerd.testing.kit`) tests. A driver stores jobs and decides who holds which; it never waits for a
job, knows nothing of HTTP, and owns time: no method takes a `now`. The caller mints ids and tokens. The rules for every
method (G1 to G8):

- **Batches.** A method that takes a sequence answers one item for each, in order: a value, or an instance of the
  `ComposerdError` named in its docstring (returned, not raised). Items are applied in their order; each is atomic by
  itself, the batch is not.
- **Durable.** When a writing method returns, what it says is on stable storage, unless `Capabilities.durable` is false.
  `touch` and `seen` alone need not survive a crash.
- **Repeatable.** Every write may be repeated with the same ids and tokens and gives the same answer. That is how an
  outcome that nobody knows (a connection lost in a commit) is resolved.
- **Failure.** An exception raised by a batch says nothing about its items: the caller repeats them. Raise `StorageFull`
  when there is no room (nothing was changed, or it can be repeated), `Unavailable` when the store does not answer,
  `DriverTimeout` when it was only slow. Anything else becomes a `DriverError` in the guard. `asyncio.CancelledError`
  passes; the queue never cancels a write.
- **Races.** Methods may be called concurrently with one another, and with other servers where `Capabilities.shared` is
  true. Each answer is that of some order of the calls.
- **News** (N1 to N5). `Batch.news` says what the call changed that somebody may wait for. It is a hint: a driver may
  leave news out when it cannot know it (a repetition), may report too much, but must not report a job as ready or ended
  before that is durable. `due_in` 0 asks for `advance` at once: something is left to do.

The states of a job and of an attempt, and every transition between them, are in specs/state-machine.md.
"""

import abc
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, ClassVar, Generic, Self, TypeVar
from uuid import UUID

import msgspec

from composerd.errors import ComposerdError
from composerd.models import (
    NO_NEWS,
    Artifact,
    Attached,
    Attachment,
    Attempt,
    AttemptState,
    Claim,
    Claimed,
    Enqueued,
    Finished,
    Job,
    JobFilter,
    JobPage,
    NewJob,
    News,
    Outcome,
    PayloadRef,
    Touch,
    Worker,
)

CONTRACT_VERSION = "1.0"
"""Major: a driver written for another one is refused. Minor: what was added that a driver need not know."""

T = TypeVar("T", covariant=True)


class Batch(msgspec.Struct, Generic[T], frozen=True):
    """What a writing method answers: an item for each that was asked, and what else it changed."""

    items: Sequence[T]
    news: News = NO_NEWS


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """In what drivers may differ; in meaning they may not."""

    durable: bool
    """What returned is on stable storage."""
    shared: bool
    """Many servers may have the storage open at once; `watch` carries news between them."""
    max_submission: int
    """How many jobs one submission may have; at least 1,000."""
    max_payload: int
    """The largest args or result, in bytes; at least 32 MiB."""
    coalesces: bool = False
    """The driver gathers concurrent calls into one flush by itself. The queue then calls a writing method for each item
    as it comes, and gathers nothing; it repeats calls that failed as for any driver."""


class StorageInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is in a storage, for people."""

    description: str
    """What and where, without secrets: `fs at /var/lib/composerd`."""
    jobs: Mapping[str, int]
    """How many jobs are in each state; approximate where counting is dear."""
    details: Mapping[str, Any] = {}
    """What else the driver has to say: plain values."""


class StorageCheck(msgspec.Struct, frozen=True, kw_only=True):
    """What a look at everything in a storage found."""

    problems: tuple[str, ...] = ()
    """What is wrong, a sentence each that names the place; none: the storage is whole."""
    jobs: Mapping[str, int]
    """How many jobs can be read, by state."""
    details: Mapping[str, Any] = {}
    """What else the driver has to say: plain values."""


class StoredAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """A remembered attempt, for moving it between storages."""

    token: UUID
    number: int
    state: AttemptState
    confirm: bool = False
    lease: float
    digest: bytes = b""
    """The first 16 bytes of the sha256 of its result, if it has finished."""
    worker_id: UUID | None = None


class StoredJob(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one job, for moving it between storages. An attempt that runs is moved as it is."""

    new: NewJob
    job: Job
    attempts: tuple[StoredAttempt, ...] = ()
    """The remembered ones, oldest first."""
    result: bytes | None = None
    failures: int = 0
    """How many failed outcomes put it back."""
    uncounted_requeues: int = 0
    """Uncounted returns in a row."""
    artifacts: tuple[Artifact, ...] = ()
    """Attached to the running or finishing attempt."""


class Driver(abc.ABC):
    """A storage of jobs. One instance is one opened storage; it is used from one event loop."""

    contract: ClassVar[str]
    """The CONTRACT_VERSION that the driver was written for, as a literal: `contract = "1.0"`."""

    name: ClassVar[str]
    """The driver's name in errors and logs: its scheme."""

    capabilities: Capabilities

    artifacts_directory: str | None = None
    """A directory that the driver offers for artifacts, or None. Known once constructed."""

    # The storage itself.

    @classmethod
    @abc.abstractmethod
    def from_url(cls, url: str) -> Self:
        """Make an unopened driver from a storage URL. No I/O (S1).

        Raises `StorageURLError` for an unknown or bad option, naming it.
        """

    @abc.abstractmethod
    async def start(self, *, create: bool = True) -> None:
        """Open the storage, bringing it up to date first (`migrate`). No attempt that runs ends within one lease of this (S2, S8, L11).

        Where there is none it is made, unless `create` is false: then that is `StorageUnusable`. Where
        `Capabilities.shared` is true it may be called again after `Unavailable`; until it has returned, every other call
        is `Unavailable`.

        Raises `StorageUnusable` if it is damaged, held by another process, of a newer format or not permitted;
        `Unavailable` if the store does not answer.
        """

    @abc.abstractmethod
    async def close(self) -> None:
        """Let go of the storage; what was promised is stored. Fine twice, and after a failed `start` (S3)."""

    @abc.abstractmethod
    async def migrate(self) -> None:
        """Bring the storage up to date. Fine to repeat, and from two servers at once. Called on an unopened driver (S4)."""

    @abc.abstractmethod
    async def ping(self) -> None:
        """Return if the storage takes writes now; else raise `Unavailable` or `StorageFull` saying why (S5)."""

    @abc.abstractmethod
    async def info(self) -> StorageInfo:
        """Say what is in the storage (S6)."""

    @abc.abstractmethod
    async def check(self) -> StorageCheck:
        """Read everything, and say whether it is whole. Called on an unopened driver; changes nothing (S7).

        Raises what `start` raises where there is no storage to read, or one that may not be read now.
        """

    @abc.abstractmethod
    async def shift_clock(self, seconds: float) -> None:
        """Let this instance's clock run that much further ahead; also before `start` (S9).

        For the conformance kit; a server never calls it.
        """

    # A job's way in and out.

    @abc.abstractmethod
    async def enqueue(self, submissions: Sequence[Sequence[NewJob]]) -> Batch[Enqueued | ComposerdError]:
        """Store submissions, each all or nothing (E1 to E11).

        In a submission, in its order: a job whose id is stored already is a repetition and answers as the first time. A
        job whose idempotency key is used in its channel is the existing job if `fingerprint` (which covers the args)
        and `dependencies` (with jobs of this submission that turned out to exist replaced by those) are equal; else the
        submission is `IdempotencyConflict` (details `index`). A dependency that does not exist is `UnknownDependency`
        (details `index`, `id`), a canceled one `CanceledDependency` (the same details).

        A dependency is seen either unended, and the job takes part in its end, or ended, and that is applied at once;
        never neither. A job is `ready` when all its dependencies have ended and its time has come, else `waiting`; one
        with `on_dependency_failure` `fail` whose dependency has failed has failed itself (result in
        specs/state-machine.md).
        """

    @abc.abstractmethod
    async def claim(self, requests: Sequence[Claim], max_bytes: int) -> Batch[Claimed | None]:
        """Begin an attempt at a ready job for each request, or answer None. Never waits (C1 to C8).

        Answers a prefix of the requests, at least one: once the args of the jobs it hands out reach `max_bytes`, the
        rest is not looked at.

        The job is, among the ready ones of the request's keys, the one of highest priority, then of earliest place. Job
        running, token and lease are one atomic write. A job is given to one request only, whatever races. With
        `handover` the attempt is unconfirmed: it lives that long until its first confirming touch (or attach or
        finish), then `lease`. A token that has an attempt running already is a repetition: the same job.
        """

    @abc.abstractmethod
    async def touch(self, touches: Sequence[Touch]) -> Batch[Attempt]:
        """Renew running attempts, and confirm them; say what became of the others (L1, L4, L5, L7 to L10).

        An attempt that has ended is not changed.

        The renewal may be lost in a crash: that only lengthens a lease.
        """

    @abc.abstractmethod
    async def attach(self, attachments: Sequence[Attachment]) -> Batch[Attached]:
        """Add an uploaded file to a running attempt, in place of one of the same name (U1 to U5).

        It renews like a touch, and is refused unless the attempt runs.
        """

    @abc.abstractmethod
    async def finish(self, outcomes: Sequence[Outcome]) -> Batch[Finished]:
        """End running attempts with their outcome, accepted once (F1 to F5, D1 to D3).

        The job ends, `failed` if the outcome says so, with the result and the attempt's attached artifacts in the same
        write; its dependents are counted down. But a failed outcome of a job that has used less than `retry_on_failure`
        of its tries puts it back, counted in `retries`, `waiting` for its backoff (`composerd.driver.retry_backoff`).
        Either way the attempt is `finished`; the same outcome again is accepted again, another is a conflict.
        """

    @abc.abstractmethod
    async def release(self, tokens: Sequence[UUID]) -> Batch[Attempt]:
        """Put the jobs of running attempts back in the queue, behind those of their priority, and supersede the attempts (R1 to R3).

        Uncounted, but see `composerd.driver.on_return`. The answer is the attempt as it was before: anything but
        running was refused, except that a superseded one may be a repetition and is answered `superseded`.
        """

    @abc.abstractmethod
    async def cancel(self, job_ids: Sequence[UUID]) -> Batch[Job | ComposerdError]:
        """End jobs, and all that depend on them, as canceled; a canceled one stays so. `JobNotFound`, `JobEnded` (X1 to X3)."""

    @abc.abstractmethod
    async def delete(self, job_ids: Sequence[UUID]) -> Batch[Job | None | ComposerdError]:
        """Forget ended jobs that nobody unended depends on. `JobNotEnded`; None for a job that does not exist (P1 to P3)."""

    # Time.

    @abc.abstractmethod
    async def advance(self, limit: int) -> Batch[UUID]:
        """Make time pass: do up to `limit` of what is due, and answer the jobs that it concerned (L2, L3, L6, L12, L13).

        Due are leases, hand-overs and attempts over their job's `timeout` (one that began before the storage's start:
        never within one lease of that): the attempt is superseded and the job goes back or fails, as
        `composerd.driver.on_return` says. Also
        delayed jobs whose time has come, and what a crash left half done. `news.due_in` says when there is more to do:
        0 if the limit was reached, None if nothing is in sight.
        """

    @abc.abstractmethod
    async def purge(self, limit: int) -> Batch[UUID]:
        """Forget up to `limit` ended jobs that are past their retention and that nobody unended depends on; answer which (P4)."""

    # Looking.

    @abc.abstractmethod
    async def get(self, job_ids: Sequence[UUID]) -> Sequence[Job | None]:
        """Look up jobs (V5)."""

    @abc.abstractmethod
    async def list(self, filter: JobFilter, cursor: int | None, limit: int) -> JobPage:
        """Up to `limit` jobs that pass the filter, newest submission first, from the cursor on (V1 to V3).

        The order is stable: no job is shown twice or left out because others come and go. A call looks at a bounded
        number of jobs. A cursor is a positive integer below 2**63; one that the driver never gave is no error.
        """

    @abc.abstractmethod
    async def payload(self, refs: Sequence[PayloadRef]) -> Sequence[bytes | None]:
        """Read args and results, byte for byte; None where there is none (V4)."""

    @abc.abstractmethod
    async def artifacts(self, job_ids: Sequence[UUID]) -> Sequence[tuple[Artifact, ...]]:
        """The artifacts of jobs, by name (U1, U2).

        Of an ended job those of the attempt that ended it; of a running one those attached so far.
        """

    # Workers.

    @abc.abstractmethod
    async def seen(self, workers: Sequence[Worker]) -> None:
        """Remember that workers were heard of just now. Lossy; a driver bounds how many it remembers (W2).

        A worker without arch and types is a sign of life: what is known of it stays as it is.
        """

    @abc.abstractmethod
    async def workers(self, within: float, ids: Sequence[UUID] | None = None) -> Sequence[Worker]:
        """The workers heard of in the last so many seconds, with the jobs they run, the latest first; of these ids if given (W1, W3)."""

    @abc.abstractmethod
    async def ahead(self, job_id: UUID, limit: int) -> int:
        """How many jobs of a ready job's key go before it, counted up to `limit`; 0 for a job that is not ready (V6)."""

    # Other servers, other storages.

    async def watch(self) -> AsyncIterator[News]:
        """News of what other servers did to this storage. Lossy, duplicates allowed. Only called where `shared` is true (N5)."""
        return
        yield  # makes this an async generator: a storage that is not shared has no news

    @abc.abstractmethod
    def dump(self) -> AsyncIterator[StoredJob]:
        """Everything, oldest submission first, so that a job comes after those it depends on (M1)."""

    @abc.abstractmethod
    async def load(self, jobs: Sequence[StoredJob]) -> None:
        """Store what `dump` of another storage gave, in that order. A job that is there already is left as it is (M2, M3)."""

"""The contract of a storage driver: `Driver`, an ABC. The values of its methods are in `values` and `composerd.models`.

specs/driver-contract.md has the contract in numbered clauses. The docstrings name them (E1 to E12), and the conformance
kit (`composerd.testing.kit`) tests them. A driver stores jobs and decides which attempt has which job. It never waits
for a job, knows nothing of HTTP, and owns time: no method takes a `now`. The caller chooses ids and tokens.

The rules for every method (G1 to G10):

- **Batches.** A method that takes a sequence answers one item for each, in order. An answer is a value, or an instance
  of a `ComposerdError` that the method's docstring names, which is returned and not raised. Items are applied in their
  order. Each item is atomic by itself, the batch is not.
- **Durable.** When a writing method returns, what it answers is on stable storage, unless `Capabilities.durable` is
  false. Only the effects of `touch` and `seen` may be lost in a crash.
- **Repeatable.** Every write may be repeated with the same ids and tokens, and gives the same answer. The caller
  repeats a write whose outcome is unknown, for example because a connection was lost during a commit.
- **Failure.** An exception raised by a batch says nothing about its items: the caller repeats them. Raise `StorageFull`
  if there is no space, and `Unavailable` if the storage does not answer, only if nothing was changed. Raise
  `OutcomeUnknown` if a change may have been made, and `DriverTimeout` if the storage took too long; the guard turns any
  other exception into a `DriverError`, which leaves the outcome unknown too (G9). A call should end in bounded time
  (G10). Let `asyncio.CancelledError` pass; the queue never cancels a write, except `seen`.
- **Races.** Methods may be called concurrently, and by several servers if `Capabilities.shared` is true. The answers
  are those of some order of the calls.
- **News** (N1 to N6). `Batch.news` reports changes that requests may wait for. It is a hint: a driver may leave news
  out when it cannot know it, as in a repetition, and may report too much. It must not report a job as ready or ended
  before that is on stable storage. With `due_in` 0 it asks for a call of `advance` at once, because work is left.

The states of a job and of an attempt, and every transition between them, are in specs/state-machine.md.
"""

import abc
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from secrets import token_bytes
from typing import ClassVar, Self
from uuid import UUID

from composerd.driver import payloads
from composerd.driver.values import Batch, Capabilities, Damage, StorageCheck, StorageInfo, StoredJob, Usage
from composerd.errors import ComposerdError, NotOffered
from composerd.free_space import DiskSpace
from composerd.models import (
    Artifact,
    Attached,
    Attachment,
    Attempt,
    Claim,
    Claimed,
    Enqueued,
    Finished,
    IdPage,
    Job,
    JobFilter,
    JobPage,
    NewJob,
    News,
    Outcome,
    PayloadRef,
    Touch,
    Worker,
    WorkerCursor,
    WorkerPage,
)

CONTRACT_VERSION = "1.5"
"""The version of this contract. A driver that was written for another major version is refused.

A new minor version only adds things that a driver may ignore.
"""

SECRET_SIZE = 32
"""Length of a storage's secret in bytes."""

_SECRET_OF_THE_PROCESS = token_bytes(SECRET_SIZE)
"""The secret of storages that keep none."""


class Driver(abc.ABC):
    """A storage of jobs. One instance is one opened storage; it is used from one event loop."""

    contract: ClassVar[str]
    """The CONTRACT_VERSION for which the driver was written, as a literal: `contract = "1.5"`."""

    name: ClassVar[str]
    """The driver's name in errors and logs: its scheme."""

    capabilities: Capabilities

    artifacts_directory: str | None = None
    """A directory that the driver offers for artifacts, or None. It is known as soon as the driver is constructed."""

    # The storage itself.

    @classmethod
    @abc.abstractmethod
    def from_url(cls, url: str) -> Self:
        """Return a driver for a storage URL, without opening it. No I/O (S1).

        Raises:
            StorageURLError: An option is unknown or has a bad value; the error names it.
        """

    @abc.abstractmethod
    async def start(self, *, create: bool = True) -> None:
        """Open the storage, after upgrading it (`migrate`) if necessary (S2, S8, L11, L20).

        If no storage exists, create it; if `create` is false, raise `StorageUnusable` instead. No running attempt ends
        because no server had the storage open, and none is confirmed by a start. If `Capabilities.shared` is true,
        `start` may be called again after `Unavailable`. Until it has returned, every other method raises `Unavailable`.

        Raises:
            StorageUnusable: The storage is damaged, in use by another process, of a newer format, or not permitted.
            Unavailable: The storage does not answer.
        """

    async def start_reading(self, *, alone: bool = False) -> Sequence[str]:  # noqa: ARG002  # `start` is alone anyway
        """Open the storage for its queries, `info` and `dump` only, and change nothing, not even its clock (S12).

        It works without the right to write. If another process has the storage open and goes on, everything is read as
        it was at one moment, or as it is at the moment of each query. If `alone` is true and the storage is not shared,
        raise `StorageUnusable` if another process has it open, and keep others out. Raises what `start` raises.

        Returns:
            A sentence for each part that cannot be read now, such as a write that is not complete.
        """
        await self.start(create=False)  # for drivers of contract 1.3
        return ()

    @abc.abstractmethod
    async def close(self) -> None:
        """Close the storage; everything that was answered is stored (S3).

        It may be called twice, and after a `start` that failed.
        """

    @abc.abstractmethod
    async def migrate(self) -> str | None:
        """Upgrade the format of the storage, and say from what to what. Called on a driver that is not open (S4).

        It may be repeated, and be called by two servers at once if `Capabilities.shared` is true. Raises what `start`
        raises, also if there is no storage: none is created.

        Returns:
            `upgraded from version 3 to 4`; None if the storage has the latest format.
        """

    @abc.abstractmethod
    async def ping(self) -> None:
        """Return if the storage accepts writes now; if not, raise `Unavailable` or `StorageFull` and say why (S5)."""

    async def free_space(self) -> DiskSpace | None:
        """Return the space of the file system that the storage is on, or None if the driver cannot know it (S11).

        It is called once a second, and has to be cheap.
        """
        return None

    @abc.abstractmethod
    async def info(self) -> StorageInfo:
        """Return a summary of the storage (S6)."""

    @abc.abstractmethod
    async def check(self) -> StorageCheck:
        """Read everything, change nothing, and return what is wrong. Called on a driver that is not open (S7).

        Whatever `start_reading` can open, this can read. Raises what `start` raises if there is no storage.
        """

    async def backup(self, directory: Path) -> str:  # noqa: ARG002
        """Copy the storage as it is at one moment, without its artifacts, and return the URL of the copy.

        Called on a driver that is not open; another process may have the storage open and go on, and nothing of it is
        changed. The directory exists, and has nothing but a directory `artifacts`. Everything that was answered before
        the call is in the copy, on stable storage. A driver need not offer this.

        Raises:
            NotOffered: The driver does not; the text says what to use.
            StorageUnusable: As `start_reading`, or the storage is damaged.
        """
        raise NotOffered(f"{self.name}: composerd cannot back this storage up: use the storage's own tools")

    def salvage(self) -> AsyncGenerator[StoredJob | Damage, None]:
        """Yield every job that can be taken out of a damaged storage, as `dump` does, and what is missing.

        Called on a driver that is not open. The storage is not changed, and no other process may have it open. No job
        is yielded in a state in which it would run although it may have ended. A driver need not offer this.

        Raises:
            NotOffered: The driver does not.
            StorageUnusable: There is no storage, it is in use, or of a newer format.
        """
        raise NotOffered(f"{self.name}: composerd cannot salvage this storage: restore it from a backup")

    async def secret(self) -> bytes:
        """Return 32 random bytes that the storage made once and keeps: the secret that all its servers share (S13).

        Servers sign with it what clients have to bring back, such as cursors. Nobody else may get to know it.
        """
        return _SECRET_OF_THE_PROCESS  # for drivers of contract 1.4

    @abc.abstractmethod
    async def shift_clock(self, seconds: float) -> None:
        """Let this number of seconds pass on the clock of this instance, in addition to earlier calls (S9).

        It may be called before `start`. The conformance kit calls it; a server never does.
        """

    async def jump_clock(self, seconds: float) -> None:
        """Step the clock of this instance by this number of seconds, back if negative, while no time passes (S10).

        This is how a wall clock is set, or wrong at a start. It may be called before `start`. The conformance kit calls
        it; a server never does.
        """
        raise NotImplementedError(f"{self.name}: jump_clock; contract 1.1 needs it")

    async def confirm_clock(self) -> None:  # noqa: B027  # drivers of contract 1.0 have none
        """Trust the clock again after a jump that suspended the purging of ended jobs: an operator says so (P5)."""

    # Jobs, from their submission to their deletion.

    @abc.abstractmethod
    async def enqueue(self, submissions: Sequence[Sequence[NewJob]]) -> Batch[Enqueued | ComposerdError]:
        """Store submissions, each as a whole or not at all (E1 to E12).

        The jobs of a submission are planned in its order (`composerd.driver.submissions.plan`):

        - A job whose id is stored already is a repetition, and is answered as the first time.
        - A job whose idempotency key is used in its channel stands for the existing job, if `fingerprint` (which covers
          the args) and `dependencies` are equal. Dependencies on the new job become dependencies on the existing one.
        - A dependency of another channel is as unknown as one that does not exist.

        If a dependency is still unfinished when the job is stored, the job is updated when it ends. If it has already
        ended, its outcome is applied immediately. No end is ever missed in between. A job is `ready` when all its
        dependencies have ended and its time has come; until then it is `waiting`. A job with `on_dependency_failure`
        `fail` whose dependency has failed has failed itself, with the result that specs/state-machine.md gives.

        Returns:
            For each submission its jobs as they are now, without dependents, and which of them it created; or one of
            these errors:
            `UnknownDependency` (details `index`, `id`), `CanceledDependency` (details `index`, `id`),
            `IdempotencyConflict` (details `index`).
        """

    @abc.abstractmethod
    async def claim(self, requests: Sequence[Claim], max_bytes: int) -> Batch[Claimed | None]:
        """Begin an attempt at a ready job for each request, or answer None. Never waits (C1 to C9).

        The job is, among the ready jobs of the request's keys, the one of highest priority, and among those the one of
        the earliest position. Its state, the token and the lease are one atomic write. However many requests race, a
        job is given to one of them only. The attempt is unconfirmed until its first touch that confirms, or an attach.
        With `handover` it lives for that time until then, and for its lease from then on. A token that has a running
        attempt is a repetition, and is answered with the same job.

        Returns:
            Answers to a prefix of the requests, at least one: once the args of the answered jobs reach `max_bytes`,
            the remaining requests are not looked at.
        """

    @abc.abstractmethod
    async def touch(self, touches: Sequence[Touch]) -> Batch[Attempt]:
        """Renew the leases of running attempts, and confirm them (L1, L4, L5, L7 to L10, L21, L22).

        An attempt that has ended is not changed. A renewal may be lost in a crash: the start makes up for it.

        Returns:
            The attempts as they are now, `unknown` for a token that is not remembered.
        """

    @abc.abstractmethod
    async def attach(self, attachments: Sequence[Attachment]) -> Batch[Attached]:
        """Add uploaded files to running attempts, each replacing a file of the same name, and renew them (U1 to U8).

        `composerd.driver.attachments` decides whether a running attempt may have a file.

        Returns:
            The attempts as they are now. An attempt that is not running refused the file, and so did one that may not
            have it, for the reason that the answer names in `exceeded`.
        """

    @abc.abstractmethod
    async def finish(self, outcomes: Sequence[Outcome]) -> Batch[Finished]:
        """End running attempts with their outcomes, each accepted once (F1 to F6, D1 to D4).

        The job ends, `failed` if the outcome says so. The result and the files that are attached to the attempt become
        the job's in the same write, and the end is propagated to its dependents: to at most `MAX_STEP` of them by this
        call, as in any other, and to the rest by `advance`. But a failed outcome requeues the job as long as
        `retry_on_failure` is not used up: it counts in `retries`, and the job is `waiting` for its backoff.
        Of several calls that would end one attempt, one does.

        Returns:
            Verdicts: the same outcome again is accepted again; another one is a conflict, or refused with the state of
            the attempt. An outcome that lists other files than are attached (`composerd.driver.attachments`) is refused
            and changes nothing.
        """

    @abc.abstractmethod
    async def release(self, tokens: Sequence[UUID]) -> Batch[Attempt]:
        """Supersede running attempts, and requeue their jobs behind all others of their priority (R1 to R3).

        A release is not counted as a retry, within the limit that `composerd.driver.transitions.requeue` sets.

        Returns:
            The attempts as they were before. An attempt that was not running refused the release; a superseded one may
            be a repetition, and is answered `superseded`.
        """

    @abc.abstractmethod
    async def cancel(self, job_ids: Sequence[UUID]) -> Batch[Job | ComposerdError]:
        """Cancel jobs that have not ended, and all jobs that depend on them (X1 to X3, D4).

        Returns:
            The jobs as they are now, canceled; or `JobNotFound`, or `JobEnded` for a job that ended otherwise.
        """

    @abc.abstractmethod
    async def delete(self, job_ids: Sequence[UUID]) -> Batch[Job | None | ComposerdError]:
        """Delete ended jobs on which no unended job depends (P1 to P3).

        Returns:
            The jobs as they were, None for a job that does not exist, or `JobNotEnded`.
        """

    # Time.

    @abc.abstractmethod
    async def advance(self, limit: int) -> Batch[UUID]:
        """Process up to `limit` jobs for which something is due (L2, L3, L6, L12 to L14, L17 to L19).

        Due are expired leases and handovers, attempts that have run for longer than their job's `timeout`, delayed jobs
        whose time has come, and ends that were not propagated yet, also because of a crash. An attempt whose time is
        over is superseded, and its job is requeued or fails; that of an attempt that was never confirmed is requeued
        uncounted. A jump of the clock is noticed.

        Returns:
            The jobs concerned. `news.due_in` says when there is more to do: 0 if the limit was reached, None if nothing
            is known to be due.
        """

    async def grace(self) -> None:  # noqa: B027  # drivers of contract 1.0 have none
        """Give the running attempts a full lease that nobody could renew for a while (L15, L16).

        The caller was paused, or could not reach the storage, and calls this before it calls `advance` again. If
        `Capabilities.shared` is true and another server had the storage open meanwhile, nothing changes.
        """

    @abc.abstractmethod
    async def purge(self, limit: int) -> Batch[UUID]:
        """Delete up to `limit` ended jobs whose retention is over, and return which (P4 to P7).

        It may delete fewer, so that a call does not take long: the caller repeats it until it deletes none. A job on
        which an unended job depends is kept, and so are jobs of which only a jump of the clock says that their
        retention is over. `composerd.driver.timekeeper` decides that.
        """

    # Queries.

    @abc.abstractmethod
    async def get(self, job_ids: Sequence[UUID]) -> Sequence[Job | None]:
        """Return jobs by id, in the order of the ids; None for one that does not exist (V5)."""

    async def listed(self, job_ids: Sequence[UUID]) -> Sequence[Job | None]:
        """Return jobs by id as `list` shows them, in the order of the ids; None for one that does not exist (V8)."""
        return await self.get(job_ids)  # for drivers of contract 1.1

    async def dependents(self, job_id: UUID, cursor: int | None, limit: int) -> IdPage | None:
        """Return up to `limit` of the jobs that depend on a job, in the order of their submission (V9).

        The page begins at the cursor, which is as that of `list`. None stands for a job that does not exist.
        """
        (job,) = await self.get([job_id])  # for drivers of contract 1.1, whose jobs show all their dependents
        if job is None:
            return None
        begin = cursor or 0
        end = begin + limit
        return IdPage(job.dependents[begin:end], end if end < len(job.dependents) else None)

    @abc.abstractmethod
    async def list(self, filter: JobFilter, cursor: int | None, limit: int) -> JobPage:
        """Return up to `limit` jobs that match the filter, newest submission first (V1 to V3, V12, V13).

        They are without dependencies, dependents and progress, so that a page is not larger than its jobs are many.
        The order is stable: no job is shown twice or left out because others are added or deleted. A call looks at a
        bounded number of jobs, all of them of the filter's channel if that is not empty.

        A page begins at the cursor, a positive integer below 2**63; one that was never returned is accepted. The guard
        looks for `states` itself if the driver was written for contract 1.3 or earlier.
        """

    @abc.abstractmethod
    async def payload(self, refs: Sequence[PayloadRef]) -> Sequence[bytes | None]:
        """Return args and results, byte for byte as they were stored, in the order of the references (V4, V7).

        None stands for a job that does not exist, for the args of a job that was submitted without, and for the result
        of a job that is not finished or failed. Any other payload that is not found raises `Unavailable`.
        """

    async def payloads_up_to(self, refs: Sequence[PayloadRef], limit: int) -> Sequence[bytes | int | None]:
        """Return payloads as `payload` does, but of those that are too large their sizes in bytes (V10).

        A payload is returned if it and all those before it in `refs` have at most `limit` bytes together.
        """
        return payloads.up_to(await self.payload(refs), limit)  # for drivers of contract 1.1

    async def payload_part(self, ref: PayloadRef, start: int, stop: int) -> bytes | None:
        """Return the bytes of a payload from `start` up to `stop`, or up to its end if that comes first (V11).

        `start` is 0 or more and less than `stop`. None is answered as in `payload`.
        """
        (found,) = await self.payload([ref])  # for drivers of contract 1.1
        return None if found is None else found[start:stop]

    @abc.abstractmethod
    async def artifacts(self, job_ids: Sequence[UUID]) -> Sequence[tuple[Artifact, ...]]:
        """Return the artifacts of jobs, by name (U1, U2).

        For an ended job these are the files of the attempt that ended it, for a running job those attached so far.
        """

    async def usage(self, channels: Sequence[str]) -> Sequence[Usage]:  # noqa: ARG002
        """Return what the jobs of channels use, in the order of the channels; nothing for an unknown one (Q1 to Q4).

        Called only if `Capabilities.counts_usage` is true. It costs the same however many jobs there are.
        """
        raise NotOffered(f"{self.name}: this storage does not count what its jobs use")  # for drivers of contract 1.4

    # Workers.

    @abc.abstractmethod
    async def seen(self, workers: Sequence[Worker]) -> None:
        """Remember that workers were seen just now (W2, W5 to W7, W9).

        A worker without arch and types is a sign of life: its stored arch and types stay as they are. What a worker has
        sent earlier (`age`) than what is stored of it is a sign of life too. A worker that belongs to another client is
        left as it is, and is not seen. The driver limits what it remembers, so that a client that names many workers
        makes it forget its own, and may forget workers in a crash.
        """

    async def sign_off(self, workers: Sequence[Worker]) -> None:  # noqa: B027  # drivers of contract 1.3 have none
        """Show workers no longer, because they have ended, until they describe themselves again (W8).

        A worker that belongs to another client is left as it is.
        """

    @abc.abstractmethod
    async def workers(self, within: float, ids: Sequence[UUID] | None = None) -> Sequence[Worker]:
        """Return the workers that were seen in the last `within` seconds, with the jobs that they run (W1, W3).

        The worker seen last comes first. If ids are given, only those workers are returned.
        """

    async def worker_page(
        self, within: float, after: WorkerCursor | None, limit: int, channel: str | None = None
    ) -> WorkerPage:
        """Return up to `limit` of the workers that `workers` returns, in its order, from a cursor on (W4, W10).

        With a channel, the workers that described themselves in another one are left out. A worker that is seen again
        moves to the front, so it may be left out of the pages that come after that. A cursor that was never returned is
        accepted. This implementation is for drivers of contract 1.1: it asks for all workers.
        """
        known = [one for one in await self.workers(within) if channel is None or may_be_in(one, channel)]
        found = [(WorkerCursor(_microseconds(one), one.id), one) for one in known]
        found.sort(key=lambda each: (each[0].seen, each[0].id), reverse=True)
        if after is not None:
            found = [each for each in found if (each[0].seen, each[0].id) < (after.seen, after.id)]
        shown = found[:limit]
        return WorkerPage(tuple(one for _, one in shown), shown[-1][0] if len(found) > limit else None)

    @abc.abstractmethod
    async def ahead(self, job_id: UUID, limit: int) -> int:
        """Count, up to `limit`, the ready jobs of a ready job's key that are ahead of it; 0 if it is not ready (V6)."""

    # Other servers and other storages.

    async def watch(self) -> AsyncIterator[News]:
        """Yield news of what other servers did to this storage. Called only if `Capabilities.shared` is true (N5).

        News may be lost, and may be repeated.
        """
        return
        yield  # makes this an async generator: a storage that is not shared has no news

    @abc.abstractmethod
    def dump(self) -> AsyncIterator[StoredJob]:
        """Yield every job, oldest submission first, so that a job comes after those on which it depends (M1)."""

    @abc.abstractmethod
    async def load(self, jobs: Sequence[StoredJob]) -> None:
        """Store what `dump` of another storage yielded, in that order. Leave a job that exists as it is (M2, M3)."""


def minor_version(driver: Driver) -> int:
    """Return the minor version of the contract for which a driver was written; 0 if it says none."""
    minor = driver.contract.partition(".")[2]
    return int(minor) if minor.isdecimal() else 0


def may_be_in(worker: Worker, channel: str) -> bool:
    """Return True unless a worker has described itself in another channel."""
    return worker.channel == channel or not (worker.arch or worker.types)


def _microseconds(worker: Worker) -> int:
    """Return when a worker was seen, in microseconds since the epoch."""
    return 0 if worker.seen_at is None else int(worker.seen_at.timestamp() * 1_000_000)

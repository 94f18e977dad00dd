"""The drivers: the contract on one table, with a journal in a directory (`fs`) or without one (`memory`)."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar
from uuid import UUID

from composerd.directory import Directory, make_directory
from composerd.driver import Batch, Capabilities, Driver, StorageCheck, StorageInfo, StoredJob
from composerd.driver.clock import Clock, microseconds
from composerd.driver.timekeeper import ClockState
from composerd.driver.url import path_of
from composerd.errors import ComposerdError, StorageUnusable, StorageURLError, Unavailable
from composerd.models import (
    Artifact,
    Attached,
    Attachment,
    Attempt,
    Claim,
    Claimed,
    Enqueued,
    Finished,
    Job,
    JobFilter,
    JobPage,
    NewJob,
    Outcome,
    PayloadRef,
    Touch,
    Worker,
)
from composerd_fs.commit import Committer, FlushLog, NullLog
from composerd_fs.journal.checkpoint import Restoration
from composerd_fs.journal.clock_file import ClockFile
from composerd_fs.journal.compactor import Compactor
from composerd_fs.journal.entries import (
    ArchivedEntry,
    BegunEntry,
    CompleteEntry,
    Entry,
    KeptEntry,
    Payload,
    ShapesEntry,
)
from composerd_fs.journal.lock import DirectoryLock
from composerd_fs.journal.reader import Reader
from composerd_fs.journal.reserve import LARGEST_RESULT, Purpose
from composerd_fs.journal.writer import Journal
from composerd_fs.state import queries
from composerd_fs.state.commands import Commands, CopiedPayloads
from composerd_fs.state.table import Table
from composerd_fs.state.timekeeping import Timekeeping
from composerd_fs.state.workers import Workers

_CHECKPOINT_ENTRIES = (BegunEntry, KeptEntry, ShapesEntry, ArchivedEntry, CompleteEntry)

T = TypeVar("T")


class _TableDriver(Driver):
    """The parts that both drivers share: a table behind a group commit."""

    contract = "1.1"

    def __init__(self, log: FlushLog) -> None:
        self._clock = Clock()
        self._table = Table()
        self._workers = Workers()
        self._time = Timekeeping(self._table, self._clock)
        self._commands = Commands(self._table, self._time, log.payload, log.record)
        self._committer = Committer(self._table, self._clock, log)

    async def _read_payloads(self, payloads: Sequence[Payload | None]) -> list[bytes | None]:
        return [payload if isinstance(payload, bytes) else None for payload in payloads]

    async def shift_clock(self, seconds: float) -> None:
        self._clock.shift(seconds)

    async def jump_clock(self, seconds: float) -> None:
        self._clock.jump(seconds)

    async def confirm_clock(self) -> None:
        self._time.keeper.confirm()

    # Writes.

    async def enqueue(self, submissions: Sequence[Sequence[NewJob]]) -> Batch[Enqueued | ComposerdError]:
        size = sum(len(job.args) for jobs in submissions for job in jobs if job.args is not None)
        done = await self._committer.write(self._commands.enqueue, submissions, items=len(submissions), size=size)
        return Batch(done.answer, done.news)

    async def claim(self, requests: Sequence[Claim], max_bytes: int) -> Batch[Claimed | None]:
        done = await self._committer.write(self._commands.claim, requests, max_bytes, items=len(requests), reads=True)
        claimed: list[Claimed | None] = []
        for attempt, args in zip(done.answer.attempts, done.payloads, strict=True):
            if attempt is None:
                claimed.append(None)
            else:  # of the job only what never changes: another write of the same flush may have ended the attempt
                job = attempt.job
                claimed.append(Claimed(attempt.token, job.id, job.key, args, job.dependencies, attempt.number))
        return Batch(claimed, done.news)

    async def touch(self, touches: Sequence[Touch]) -> Batch[Attempt]:
        return await self._committer.between_flushes(self._commands.touch, touches)

    async def attach(self, attachments: Sequence[Attachment]) -> Batch[Attached]:
        done = await self._committer.write(self._commands.attach, attachments, items=len(attachments))
        return Batch(done.answer, done.news)

    async def finish(self, outcomes: Sequence[Outcome]) -> Batch[Finished]:
        size = sum(len(outcome.result) for outcome in outcomes)
        purpose = Purpose.END if size <= LARGEST_RESULT else Purpose.STORE
        done = await self._committer.write(
            self._commands.finish, outcomes, items=len(outcomes), size=size, purpose=purpose
        )
        return Batch(done.answer, done.news)

    async def release(self, tokens: Sequence[UUID]) -> Batch[Attempt]:
        done = await self._committer.write(self._commands.release, tokens, items=len(tokens), purpose=Purpose.END)
        return Batch(done.answer, done.news)

    async def cancel(self, job_ids: Sequence[UUID]) -> Batch[Job | ComposerdError]:
        done = await self._committer.write(self._commands.cancel, job_ids, items=len(job_ids), purpose=Purpose.REMOVE)
        return Batch(done.answer, done.news)

    async def delete(self, job_ids: Sequence[UUID]) -> Batch[Job | None | ComposerdError]:
        done = await self._committer.write(self._commands.delete, job_ids, items=len(job_ids), purpose=Purpose.REMOVE)
        return Batch(done.answer, done.news)

    async def advance(self, limit: int) -> Batch[UUID]:
        done = await self._committer.write(self._commands.advance, limit, purpose=Purpose.END)
        return Batch(done.answer, done.news)

    async def purge(self, limit: int) -> Batch[UUID]:
        done = await self._committer.write(self._commands.purge, limit, purpose=Purpose.REMOVE)
        return Batch(done.answer, done.news)

    async def grace(self) -> None:
        await self._committer.between_flushes(self._time.grace)

    async def load(self, jobs: Sequence[StoredJob]) -> None:
        size = sum(len(job.new.args or b"") + len(job.result or b"") for job in jobs)
        await self._committer.write(self._commands.load, jobs, items=len(jobs), size=size)

    # Queries.

    async def get(self, job_ids: Sequence[UUID]) -> Sequence[Job | None]:
        return await self._committer.between_flushes(queries.jobs, self._table, job_ids)

    async def list(self, filter: JobFilter, cursor: int | None, limit: int) -> JobPage:
        return await self._committer.between_flushes(queries.page, self._table, filter, cursor, limit)

    async def payload(self, refs: Sequence[PayloadRef]) -> "Sequence[bytes | None]":
        return (await self._query_and_read(queries.payloads, refs))[1]

    async def artifacts(self, job_ids: Sequence[UUID]) -> "Sequence[tuple[Artifact, ...]]":
        return await self._committer.between_flushes(queries.artifacts, self._table, job_ids)

    async def ahead(self, job_id: UUID, limit: int) -> int:
        return await self._committer.between_flushes(queries.ahead, self._table, job_id, limit)

    async def dump(self) -> AsyncIterator[StoredJob]:
        last = 0
        for chunk in await self._committer.between_flushes(self._table.jobs.by_sequence.chunks):
            while True:
                part, payloads = await self._query_and_read(queries.dump_part, chunk, last)
                if not part:
                    break
                for index, (job, dependents) in enumerate(part):
                    yield job.stored(dependents, payloads[2 * index], payloads[2 * index + 1])
                last = part[-1][0].sequence

    async def _query_and_read(
        self, query: Callable[..., queries.WithPayloads[T]], *args: Any
    ) -> "tuple[T, Sequence[bytes | None]]":
        """Make a query and read its payloads; repeat it if a compaction has moved them in between."""
        tried: Sequence[Payload | None] | None = None
        while True:
            answer, payloads = await self._committer.between_flushes(query, self._table, *args)
            try:
                return answer, await self._read_payloads(payloads)
            except Unavailable:
                if payloads == tried:
                    raise
                tried = payloads

    # Workers.

    async def seen(self, workers: Sequence[Worker]) -> None:
        self._workers.seen(workers, self._clock.read())

    async def workers(self, within: float, ids: "Sequence[UUID] | None" = None) -> "Sequence[Worker]":
        found = self._workers.since(self._clock.elapsed() - microseconds(within), ids)
        return await self._committer.between_flushes(queries.with_jobs, self._table, found)

    def _counts(self) -> dict[str, int]:
        return {state.value: count for state, count in self._table.jobs.counts.items()}


class MemoryDriver(_TableDriver):
    """The driver `memory`: keeps jobs in the memory of this process. They are lost when it ends.

    It is for tests and for trying things out: only one server can use it, and it offers no directory for artifacts.
    """

    name = "memory"
    capabilities = Capabilities(
        durable=False, shared=False, max_submission=100_000, max_payload=1024**3, coalesces=True
    )

    def __init__(self) -> None:
        super().__init__(NullLog())

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Return the driver of `memory:`."""
        rest = url.partition(":")[2]
        if rest.strip("/"):
            raise StorageURLError(f"{url!r}: memory: takes no path and no options")
        return cls()

    async def start(self, *, create: bool = True) -> None:
        if not create:
            raise StorageUnusable("memory: has no jobs from an earlier process; use another storage")
        self._time.open(ClockState())

    async def close(self) -> None:
        pass

    async def migrate(self) -> None:
        pass

    async def ping(self) -> None:
        pass

    async def check(self) -> StorageCheck:
        return StorageCheck(jobs={})

    async def info(self) -> StorageInfo:
        return StorageInfo(
            description="memory of this process", jobs=self._counts(), details=self._time.keeper.details()
        )


class FsDriver(_TableDriver):
    """The driver `fs`: keeps jobs in a directory, which one process at a time uses.

    All jobs are in memory, without their args and results, and every change is in the journal before it is
    acknowledged.
    """

    name = "fs"
    capabilities = Capabilities(durable=True, shared=False, max_submission=100_000, max_payload=1024**3, coalesces=True)

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.artifacts_directory = str(directory / "artifacts")
        self._lock = DirectoryLock(directory)
        self._journal = Journal(Directory(directory / "journal"), self._lock)
        super().__init__(self._journal)
        self._restoration = Restoration(self._table)
        self._compactor = Compactor(self._table, self._journal, self._committer.between_flushes, self._copy)
        self._committer.compaction = self._compactor
        self._clock_file = ClockFile(self._journal.directory)
        self._opened = False
        self._closed = False

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Return the driver of `fs:/var/lib/composerd`, `fs:relative/path` or `fs:///var/lib/composerd`."""
        return cls(path_of(url, "directory"))

    # Starting and stopping.

    async def start(self, *, create: bool = True) -> None:
        await asyncio.to_thread(self._prepare, create)
        gc.disable()  # the start creates millions of small objects, and no garbage
        try:
            await self._journal.open(self._replay)
            await asyncio.to_thread(self._compactor.tidy)
        except OSError as exc:
            raise Unavailable(f"the journal in {self.directory} cannot be used: {exc.strerror}") from exc
        finally:
            gc.enable()
        stored = await asyncio.to_thread(self._clock_file.read)
        self._time.open(stored if stored.seen else ClockState(self._table.latest))
        self._opened = True

    def _prepare(self, create: bool) -> None:
        if not create and not (self.directory / "journal").is_dir():
            raise StorageUnusable(f"there is no storage in {self.directory}")
        try:
            make_directory(self.directory / "journal")
            self._lock.acquire()
            self._journal.directory.open()
        except OSError as exc:
            raise StorageUnusable(f"{self.directory} cannot be used: {exc.strerror}") from exc
        if create and self._lock.read_only:
            raise StorageUnusable(f"{self.directory} is on a read-only file system: mount it read-write")

    def _replay(self, base: int, entries: "list[Entry]") -> None:
        self._table.base = base
        for entry in entries:
            if isinstance(entry, _CHECKPOINT_ENTRIES):
                self._restoration.apply(entry)
            else:
                self._table.apply(entry)
        self._table.replayed()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._compactor.close()
        await self._committer.close()
        if self._opened and not self._lock.read_only:
            self._time.keep_seen()
            await self._clock_file.close(self._time.keeper.state)
        await self._journal.close()
        self._lock.release()

    async def migrate(self) -> None:
        """Do nothing, because the format has only one version."""

    # Time.

    async def advance(self, limit: int) -> Batch[UUID]:
        done = await super().advance(limit)
        self._store_clock()
        return done

    async def purge(self, limit: int) -> Batch[UUID]:
        purged = await super().purge(limit)
        self._store_clock()
        return purged

    async def confirm_clock(self) -> None:
        await super().confirm_clock()
        self._store_clock()

    def _store_clock(self) -> None:
        """Store the state of the clock now and then, after calls that a server makes regularly."""
        state = self._time.keeper.to_store()
        if state is not None and not self._lock.read_only:
            self._clock_file.store(state)

    # For operators.

    async def ping(self) -> None:
        await self._journal.ping()

    async def info(self) -> StorageInfo:
        live = await self._committer.between_flushes(self._table.jobs.live_bytes.copy)
        return StorageInfo(
            description=f"fs at {self.directory}",
            jobs=self._counts(),
            details={**await asyncio.to_thread(self._compactor.describe, live), **self._time.keeper.details()},
        )

    async def check(self) -> StorageCheck:
        await asyncio.to_thread(self._prepare, False)
        try:
            return await asyncio.to_thread(self._read_all)
        finally:
            self._journal.directory.close()
            self._lock.release()

    def _read_all(self) -> StorageCheck:
        reader = Reader(self._journal.directory, repair=False)
        problems: list[str] = []
        try:
            reader.read(self._replay)
            problems += map(str, self._compactor.missing_segments())
            problems += reader.verify_old_segments()
        except StorageUnusable as exc:
            problems.append(str(exc))
        except OSError as exc:
            problems.append(f"the journal in {self.directory} cannot be read: {exc.strerror}")
        return StorageCheck(problems=tuple(problems), jobs=self._counts())

    # Payloads.

    async def _copy(self, copied: "Sequence[CopiedPayloads]") -> None:
        size = sum(len(one.args or b"") + len(one.result or b"") for one in copied)
        await self._committer.write(self._commands.move, copied, items=len(copied), size=size, purpose=Purpose.END)

    async def _read_payloads(self, payloads: "Sequence[Payload | None]") -> "list[bytes | None]":
        wanted = [payload for payload in payloads if isinstance(payload, int)]
        read = iter(await self._journal.read_many(wanted) if wanted else ())
        return [next(read) if isinstance(payload, int) else payload for payload in payloads]

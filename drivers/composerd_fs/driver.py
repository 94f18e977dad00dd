"""The drivers: the contract on a table, with the journal of a directory (`fs`) or without one (`memory`)."""

import asyncio
import gc
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from itertools import takewhile
from pathlib import Path
from typing import Self, TypeVar
from uuid import UUID

import msgspec

from composerd.driver import Batch, Capabilities, Driver, StorageCheck, StorageInfo, StoredJob
from composerd.driver.clock import Clock, microseconds, seconds, to_time
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
    News,
    Outcome,
    PayloadRef,
    Touch,
    Worker,
)
from composerd_fs.commit import Committer, Log
from composerd_fs.journal.checkpoint import Restoring
from composerd_fs.journal.compactor import Keeper
from composerd_fs.journal.entries import Archived, Begun, Complete, Kept, Payload, Record, Shapes
from composerd_fs.journal.frames import length_of
from composerd_fs.journal.io import DirectoryLock, make_directory
from composerd_fs.journal.reader import Reader
from composerd_fs.journal.writer import Journal
from composerd_fs.state import queries
from composerd_fs.state.commands import Copied, Operations
from composerd_fs.state.job import Row, Run
from composerd_fs.state.table import Table
from composerd_fs.state.views import stored_job_of

MAX_WORKERS = 100_000
"""How many workers are remembered; those not heard of for longest are forgotten first."""

_BYTES_DUMPED_AT_ONCE = 16 * 1024 * 1024

_CHECKPOINTED = (Begun, Kept, Shapes, Archived, Complete)

T = TypeVar("T")


class _TableDriver(Driver):
    """What both drivers are: a table behind a group commit."""

    contract = "1.0"

    def __init__(self) -> None:
        self._clock = Clock()
        self._table = Table()
        self._workers: OrderedDict[UUID, Worker] = OrderedDict()
        self._closed = False
        self._operations: Operations
        self._committer: Committer

    def _build(self, log: Log, store: Callable[[bytes], Payload], record: Callable[[Record], None]) -> None:
        self._operations = Operations(self._table, self._clock.now, store, record)
        self._committer = Committer(self._table, self._clock, log)

    async def _read_payloads(self, places: Sequence[Payload | None]) -> list[bytes | None]:
        return [place if isinstance(place, bytes) else None for place in places]

    async def shift_clock(self, seconds: float) -> None:
        self._clock.shift(seconds)

    async def _write(self, decide: Callable[[], list[T]], size: int = 0) -> Batch[T]:
        return await self._committer.write(decide, _batch, size=size)

    async def enqueue(self, submissions: Sequence[Sequence[NewJob]]) -> Batch[Enqueued | ComposerdError]:
        size = sum(len(job.args) for jobs in submissions for job in jobs if job.args is not None)
        return await self._write(lambda: self._operations.enqueue(submissions), size)

    async def claim(self, requests: Sequence[Claim], max_bytes: int) -> Batch[Claimed | None]:
        return await self._committer.write(
            lambda: self._operations.claim(requests, max_bytes, _size), _claimed_batch, wants=_args_of
        )

    async def touch(self, touches: Sequence[Touch]) -> Batch[Attempt]:
        return Batch(await self._committer.look(lambda: self._operations.touch(touches)))

    async def attach(self, attachments: Sequence[Attachment]) -> Batch[Attached]:
        return await self._write(lambda: self._operations.attach(attachments))

    async def finish(self, outcomes: Sequence[Outcome]) -> Batch[Finished]:
        size = sum(len(outcome.result) for outcome in outcomes)
        return await self._write(lambda: self._operations.finish(outcomes), size)

    async def release(self, tokens: Sequence[UUID]) -> Batch[Attempt]:
        return await self._write(lambda: self._operations.release(tokens))

    async def cancel(self, job_ids: Sequence[UUID]) -> Batch[Job | ComposerdError]:
        return await self._write(lambda: self._operations.cancel(job_ids))

    async def delete(self, job_ids: Sequence[UUID]) -> Batch[Job | None | ComposerdError]:
        return await self._write(lambda: self._operations.delete(job_ids))

    async def advance(self, limit: int) -> Batch[UUID]:
        def complete(done: list[UUID], _payloads: object, news: News) -> Batch[UUID]:
            due = self._operations.next_due()
            if len(done) >= limit:
                due = 0
            due_in = None if due is None else max(seconds(due - self._clock.now()), 0.0)
            return Batch(done, msgspec.structs.replace(news, due_in=due_in))

        return await self._committer.write(lambda: self._operations.advance(limit), complete)

    async def purge(self, limit: int) -> Batch[UUID]:
        return await self._write(lambda: self._operations.purge(limit))

    async def get(self, job_ids: Sequence[UUID]) -> Sequence[Job | None]:
        return await self._committer.look(lambda: queries.jobs(self._table, job_ids))

    async def list(self, filter: JobFilter, cursor: int | None, limit: int) -> JobPage:
        return await self._committer.look(lambda: queries.page(self._table, filter, cursor, limit))

    async def payload(self, refs: Sequence[PayloadRef]) -> "Sequence[bytes | None]":
        def look() -> tuple[None, Sequence[Payload | None]]:
            return None, queries.payloads(self._table, refs)

        return (await self._look_and_read(look))[1]

    async def artifacts(self, job_ids: Sequence[UUID]) -> "Sequence[tuple[Artifact, ...]]":
        return await self._committer.look(lambda: queries.artifacts(self._table, job_ids))

    async def seen(self, workers: Sequence[Worker]) -> None:
        now = to_time(self._clock.now())
        for worker in workers:
            known = worker if worker.types or worker.arch else self._workers.get(worker.id, worker)
            self._workers[worker.id] = msgspec.structs.replace(known, seen_at=now)
            self._workers.move_to_end(worker.id)
        while len(self._workers) > MAX_WORKERS:
            self._workers.popitem(last=False)

    async def workers(self, within: float, ids: "Sequence[UUID] | None" = None) -> "Sequence[Worker]":
        since = to_time(self._clock.now() - microseconds(within))
        if ids is None:
            found = list(takewhile(lambda one: _seen_since(one, since), reversed(self._workers.values())))
        else:
            found = [one for one in map(self._workers.get, ids) if one is not None and _seen_since(one, since)]
            found.sort(key=_seen_at, reverse=True)
        return await self._committer.look(lambda: queries.with_jobs(self._table, found))

    async def ahead(self, job_id: UUID, limit: int) -> int:
        return await self._committer.look(lambda: queries.ahead(self._table, job_id, limit))

    async def dump(self) -> AsyncIterator[StoredJob]:
        last = 0
        for chunk in await self._committer.look(self._table.by_seq.chunks):
            while True:
                some, payloads = await self._look_and_read(lambda: self._some(chunk, last))  # noqa: B023  # called at once
                if not some:
                    break
                for index, (row, dependents) in enumerate(some):
                    yield stored_job_of(row, dependents, payloads[2 * index], payloads[2 * index + 1])
                last = some[-1][0].seq

    async def _look_and_read(
        self, look: "Callable[[], tuple[T, Sequence[Payload | None]]]"
    ) -> "tuple[T, Sequence[bytes | None]]":
        """Look at the table, and read the payloads that are wanted: again, if they were moved between the one and the other."""
        tried: Sequence[Payload | None] | None = None
        while True:
            seen, wanted = await self._committer.look(look)
            try:
                return seen, await self._read_payloads(wanted)
            except Unavailable:
                if wanted == tried:
                    raise
                tried = wanted

    def _some(self, chunk: int, last: int) -> "tuple[Sequence[tuple[Row, tuple[UUID, ...]]], Sequence[Payload | None]]":
        """Rows of a run of numbers from behind one on, as many as are dumped at once, and their dependents; where their payloads are."""
        some = []
        size = 0
        for seq, _ in self._table.by_seq.chunk(chunk):
            if seq <= last:
                continue
            row = self._table.at(seq)
            assert row is not None, "there is one of this number"
            some.append((row, self._table.dependents_of(row)))
            size += sum(_size(payload) for payload in (row.args, row.result) if payload is not None)
            if size >= _BYTES_DUMPED_AT_ONCE:
                break
        return some, [place for row, _ in some for place in (row.args, row.result)]

    async def load(self, jobs: Sequence[StoredJob]) -> None:
        size = sum(len(job.new.args or b"") + len(job.result or b"") for job in jobs)
        await self._write(lambda: self._operations.load(jobs), size)

    def _counts(self) -> dict[str, int]:
        return {state.value: count for state, count in self._table.counts.items()}


class _Nowhere:
    """The log of a table that is not kept."""

    async def begin(self) -> int:
        return 0

    async def flush(self, wanted: Sequence[int]) -> "list[bytes | Unavailable]":  # noqa: ARG002  # nothing is elsewhere
        return []


class MemoryDriver(_TableDriver):
    """Jobs in this process's memory; gone with it."""

    name = "memory"
    capabilities = Capabilities(
        durable=False, shared=False, max_submission=100_000, max_payload=1024**3, coalesces=True
    )

    @classmethod
    def from_url(cls, url: str) -> Self:
        """`memory:`; nothing else."""
        rest = url.partition(":")[2]
        if rest.strip("/"):
            raise StorageURLError(f"{url!r}: memory: takes no path and no options")
        return cls()

    async def start(self, *, create: bool = True) -> None:
        if not create:
            raise StorageUnusable("memory: keeps nothing from one process to the next")
        self._build(_Nowhere(), bytes, lambda _record: None)
        self._table.restart(self._clock.now())

    async def close(self) -> None:
        pass

    async def migrate(self) -> None:
        pass

    async def ping(self) -> None:
        pass

    async def check(self) -> StorageCheck:
        return StorageCheck(jobs={})

    async def info(self) -> StorageInfo:
        return StorageInfo(description="memory of this process", jobs=self._counts())


class FsDriver(_TableDriver):
    """Jobs in a directory that one process holds."""

    name = "fs"
    capabilities = Capabilities(durable=True, shared=False, max_submission=100_000, max_payload=1024**3, coalesces=True)

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory
        self.artifacts_directory = str(directory / "artifacts")
        self._lock = DirectoryLock(directory)
        self._journal = Journal(directory / "journal")
        self._restoring = Restoring(self._table)
        self._keeper = Keeper(self._table, self._journal)
        self._keeper.copy = self._copy

    @classmethod
    def from_url(cls, url: str) -> Self:
        """`fs:/var/lib/composerd`, `fs:relative/path`, `fs:///var/lib/composerd`."""
        return cls(path_of(url, "directory"))

    async def start(self, *, create: bool = True) -> None:
        await asyncio.to_thread(self._prepare, create)
        self._build(self._keeper, self._journal.payload, self._journal.record)
        self._keeper.look = self._committer.look
        gc.disable()  # a million small objects, none of them garbage
        try:
            await self._journal.open(self._replay)
            await asyncio.to_thread(self._keeper.tidy)
        except OSError as exc:
            raise Unavailable(f"the journal in {self.directory} cannot be used: {exc.strerror}") from exc
        finally:
            gc.enable()
        self._clock.not_before(self._table.latest)
        self._table.restart(self._clock.now())

    def _prepare(self, create: bool) -> None:
        if not create and not (self.directory / "journal").is_dir():
            raise StorageUnusable(f"there is no storage in {self.directory}")
        try:
            make_directory(self.directory / "journal")
            self._lock.acquire()
        except OSError as exc:
            raise StorageUnusable(f"{self.directory} cannot be used: {exc.strerror}") from exc

    def _replay(self, base: int, records: "list[Record]") -> None:
        self._table.base = base
        for record in records:
            if isinstance(record, _CHECKPOINTED):
                self._restoring.apply(record)
            else:
                self._table.apply(record)
        self._table.put_away()
        self._table.take_news(0)

    async def check(self) -> StorageCheck:
        await asyncio.to_thread(self._prepare, False)
        try:
            return await asyncio.to_thread(self._read_all)
        finally:
            self._lock.release()

    def _read_all(self) -> StorageCheck:
        reader = Reader(self._journal.directory, mend=False)
        problems: list[str] = []
        try:
            reader.read(self._replay)
            problems += map(str, self._keeper.lost())
            old = [number for number in reader.segments() if number < max(reader.checkpoints(), default=0)]
            problems += filter(None, map(reader.verify, old))
        except StorageUnusable as exc:
            problems.append(str(exc))
        except OSError as exc:
            problems.append(f"the journal in {self.directory} cannot be read: {exc.strerror}")
        return StorageCheck(problems=tuple(problems), jobs=self._counts())

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if hasattr(self, "_committer"):
            await self._keeper.close()
            await self._committer.close()
        await self._journal.close()
        self._lock.release()

    async def migrate(self) -> None:
        """There is one version of the format."""

    async def ping(self) -> None:
        await self._journal.ping()

    async def info(self) -> StorageInfo:
        live = await self._committer.look(lambda: dict(self._table.live))
        return StorageInfo(
            description=f"fs at {self.directory}",
            jobs=self._counts(),
            details=await asyncio.to_thread(self._keeper.describe, live),
        )

    async def _copy(self, copied: "Sequence[Copied]") -> None:
        size = sum(len(one or b"") for _, args, result, _, _ in copied for one in (args, result))
        await self._write(lambda: self._operations.move(copied), size)

    async def _read_payloads(self, places: "Sequence[Payload | None]") -> "list[bytes | None]":
        wanted = [place for place in places if isinstance(place, int)]
        read = iter(await self._journal.read_many(wanted) if wanted else ())
        return [next(read) if isinstance(place, int) else place for place in places]


def _seen_at(worker: Worker) -> datetime:
    assert worker.seen_at is not None
    return worker.seen_at


def _seen_since(worker: Worker, moment: datetime) -> bool:
    return worker.seen_at is not None and worker.seen_at >= moment


def _batch(items: list[T], _payloads: object, news: News) -> Batch[T]:
    return Batch(items, news)


def _args_of(runs: Sequence[Run | None]) -> list[Payload | None]:
    return [None if run is None else run.row.args for run in runs]


def _claimed_batch(runs: Sequence[Run | None], payloads: list[bytes | None], news: News) -> Batch[Claimed | None]:
    # Of the row only what never changes: another write of the same flush may have moved it on.
    return Batch(
        [
            None if run is None else Claimed(run.token, run.row.id, run.row.key, args, run.row.dependencies, run.number)
            for run, args in zip(runs, payloads, strict=True)
        ],
        news,
    )


def _size(payload: Payload) -> int:
    return length_of(payload) if isinstance(payload, int) else len(payload)

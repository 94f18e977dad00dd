"""The driver `fs`: the contract on one table, with a journal in a directory."""

import asyncio
import errno
import gc
from collections.abc import AsyncGenerator, Awaitable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Self, TypeVar
from urllib.parse import quote
from uuid import UUID

from composerd.directory import Directory, make_directory
from composerd.driver import Batch, Capabilities, Damage, DiskSpace, StorageCheck, StorageInfo, StoredJob
from composerd.driver.timekeeper import ClockState
from composerd.driver.url import path_of
from composerd.errors import StorageMissing, StorageUnusable
from composerd.file_errors import is_full, translated
from composerd.ownership import NotTrusted
from composerd_fs.journal.backup import back_up
from composerd_fs.journal.checkpoint import Restoration
from composerd_fs.journal.clock_file import ClockFile, StoredClock
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
from composerd_fs.journal.files import JournalFiles
from composerd_fs.journal.lock import DirectoryLock
from composerd_fs.journal.reader import Reader, Replay, ignore
from composerd_fs.journal.reserve import Purpose
from composerd_fs.journal.secret_file import kept_secret
from composerd_fs.journal.writer import Journal
from composerd_fs.salvage.jobs import Salvage
from composerd_fs.state import queries
from composerd_fs.state.commands import CopiedPayloads
from composerd_fs.table_driver import TableDriver

T = TypeVar("T")

_CHECKPOINT_ENTRIES = (BegunEntry, KeptEntry, ShapesEntry, ArchivedEntry, CompleteEntry)


class FsDriver(TableDriver):
    """The driver `fs`: keeps jobs in a directory, which one process at a time uses.

    All jobs are in memory, without their args and results, and every change is in the journal before it is
    acknowledged.
    """

    name = "fs"
    capabilities = Capabilities(
        durable=True,
        shared=False,
        max_submission=100_000,
        max_payload=1024**3,
        coalesces=True,
        compares_artifacts=True,
        counts_usage=True,
    )

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.artifacts_directory = str(directory / "artifacts")
        self._root = Directory(directory)
        self._lock = DirectoryLock(self._root)
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
        await self._loaded(self._journal.open(self._replay))
        with self._reported():
            await asyncio.to_thread(self._compactor.tidy)
            self._secret = await asyncio.to_thread(kept_secret, self._journal.directory)
        stored = await self._stored_clock()
        self._time.open(stored if stored.seen else ClockState(self._table.latest), stored.timeouts, stored.confirmed)
        self._opened = True

    def _prepare(self, create: bool) -> None:
        if not create and not (self.directory / "journal").is_dir():
            raise self._missing()
        try:
            make_directory(self.directory)
            self._root.open()
            self._lock.acquire()
            self._root.make_directory("journal")
            self._journal.directory.open()
        except NotTrusted as exc:
            raise StorageUnusable(exc.sentence) from exc
        except OSError as exc:
            if exc.errno == errno.EROFS:
                message = f"{self.directory} is on a read-only file system: mount it read-write"
                raise StorageUnusable(message) from exc
            raise StorageUnusable(f"{self.directory} cannot be used: {exc.strerror}") from exc

    async def start_reading(self, *, alone: bool = False) -> Sequence[str]:
        await asyncio.to_thread(self._open_directories, alone=alone)
        reader = await self._loaded(asyncio.to_thread(self._read_journal, self._replay))
        self._time.show(await self._stored_clock())
        return reader.not_checked

    def _open_directories(self, *, alone: bool = False) -> None:
        """Open the directories of a storage that exists, and change nothing."""
        try:
            self._root.open()
            self._journal.directory.open()
            if alone:
                self._lock.keep_writers_out()
        except NotTrusted as exc:
            raise StorageUnusable(exc.sentence) from exc
        except (FileNotFoundError, NotADirectoryError) as exc:
            raise self._missing() from exc
        except OSError as exc:
            raise StorageUnusable(f"{self.directory} cannot be used: {exc.strerror}") from exc

    def _missing(self) -> StorageMissing:
        return StorageMissing(f"there is no storage in {self.directory}")

    def _read_journal(self, replay: Replay) -> Reader:
        """Read the journal as it is at one moment, change nothing, and return the reader."""
        with closing(JournalFiles(self._journal.directory)) as files:
            files.hold()
            self._compactor.checkpoint = files.checkpoint or None
            reader = Reader(files, repair=False)
            reader.read(replay)
            return reader

    async def _loaded(self, reading: Awaitable[T]) -> T:
        """Wait until the journal is read, without looking for garbage meanwhile."""
        gc.disable()  # reading creates millions of small objects, and no garbage
        try:
            with self._reported():
                return await reading
        finally:
            gc.enable()

    async def _stored_clock(self) -> StoredClock:
        with self._reported():
            return await asyncio.to_thread(self._clock_file.read)

    @contextmanager
    def _reported(self, message: str | None = None) -> Iterator[None]:
        """Turn errors of files into those of the contract."""
        try:
            yield
        except NotTrusted as exc:
            raise StorageUnusable(exc.sentence) from exc
        except OSError as exc:
            raise translated(exc, message or f"the journal in {self.directory} cannot be used") from exc

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
        if self._opened:
            self._time.keep_seen()
            await self._clock_file.close(self._clock_to_store(self._time.keeper.state))
        await self._journal.close()
        self._release()

    def _release(self) -> None:
        self._lock.release()
        self._root.close()

    async def migrate(self) -> str | None:
        """Read the journal, which raises if it is of a newer format or damaged: there is no older format."""
        try:
            await asyncio.to_thread(self._open_directories)
            await self._loaded(asyncio.to_thread(self._read_journal, ignore))
        finally:
            await asyncio.to_thread(self._close_directories)
        return None

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
        while True:
            try:
                await self._clock_file.keep(self._clock_to_store(self._time.keeper.state))
            except OSError as exc:
                # The disk may be full because nothing was removed until now.
                if not is_full(exc) or not await self._journal.free_some(1, Purpose.REMOVE):
                    raise translated(exc, f"{self.directory}: the confirmation cannot be stored") from exc
            else:
                return

    def _store_clock(self) -> None:
        """Store the state of the clock now and then, after calls that a server makes regularly."""
        state = self._time.keeper.to_store()
        if state is not None:
            self._clock_file.store(self._clock_to_store(state))

    def _clock_to_store(self, state: ClockState) -> StoredClock:
        return StoredClock(state.seen, state.disputed_since, self._time.timeouts(), self._time.confirmed())

    # For operators.

    async def free_space(self) -> DiskSpace:
        return await asyncio.to_thread(self._free_space)

    def _free_space(self) -> DiskSpace:
        try:
            return self._journal.directory.space()
        except OSError as exc:
            raise translated(exc, f"the file system of {self.directory} does not tell its size") from exc

    async def ping(self) -> None:
        await self._journal.ping()

    async def info(self) -> StorageInfo:
        live = await self._committer.between_flushes(self._table.jobs.live_bytes.copy)
        try:
            files = await asyncio.to_thread(self._compactor.describe, live)
        except OSError as exc:
            raise translated(exc, f"the journal in {self.directory} cannot be listed") from exc
        return StorageInfo(
            description=f"fs at {self.directory}",
            jobs=self._counts(),
            details={**files, **self._time.dispute()},
        )

    async def check(self) -> StorageCheck:
        try:
            await asyncio.to_thread(self._open_directories)
            return await self._loaded(asyncio.to_thread(self._read_all))
        finally:
            await asyncio.to_thread(self._close_directories)

    async def backup(self, directory: Path) -> str:
        try:
            await asyncio.to_thread(self._open_directories)
            with self._reported(f"the journal in {self.directory} cannot be copied to {directory}"):
                await asyncio.to_thread(self._copy_journal, directory)
        finally:
            await asyncio.to_thread(self._close_directories)
        return f"fs:{quote(str(directory))}"

    def _copy_journal(self, directory: Path) -> None:
        make_directory(directory / "journal")
        with closing(Directory(directory / "journal")) as target:
            target.open()
            back_up(self._journal.directory, target)

    async def salvage(self) -> AsyncGenerator[StoredJob | Damage, None]:
        try:
            await asyncio.to_thread(self._open_directories, alone=True)
            salvage = Salvage(self._journal.directory)
            for damage in await self._loaded(asyncio.to_thread(salvage.read)):
                yield damage
            parts = salvage.jobs()
            while (some := await asyncio.to_thread(next, parts, None)) is not None:
                for one in some:
                    yield one
            for damage in salvage.lost():
                yield damage
        finally:
            await asyncio.to_thread(self._close_directories)

    def _close_directories(self) -> None:
        self._journal.directory.close()
        self._release()

    def _read_all(self) -> StorageCheck:
        problems: list[str] = []
        with closing(JournalFiles(self._journal.directory)) as files:
            files.hold()
            reader = Reader(files, repair=False)
            try:
                reader.read(self._replay)
                counted = queries.counted_usage(self._table)
                problems += [
                    f"the jobs of channel {channel!r} use {counted.of(channel)}, and the driver has counted "
                    f"{self._table.jobs.usage.of(channel)}: report it as a bug of composerd"
                    for channel in self._table.jobs.usage.differing(counted)
                ]
                problems += map(str, self._compactor.missing_segments(files.names))
                problems += reader.verify_old_segments()
            except StorageUnusable as exc:
                problems.append(str(exc))
            except OSError as exc:
                problems.append(f"the journal in {self.directory} cannot be read: {exc.strerror}")
        return StorageCheck(problems=tuple(problems), jobs=self._counts(), not_checked=tuple(reader.not_checked))

    # Payloads.

    async def _copy(self, copied: "Sequence[CopiedPayloads]") -> None:
        size = sum(len(one.args or b"") + len(one.result or b"") for one in copied)
        await self._committer.write(self._commands.move, copied, items=len(copied), size=size, purpose=Purpose.END)

    async def _read_payloads(self, payloads: "Sequence[Payload | None]") -> "list[bytes | None]":
        wanted = [payload for payload in payloads if isinstance(payload, int)]
        read = iter(await self._journal.read_many(wanted) if wanted else ())
        return [next(read) if isinstance(payload, int) else payload for payload in payloads]

    async def _read_part(self, payloads: "Sequence[Payload | None]", start: int, stop: int) -> "list[bytes | None]":
        return [
            await self._journal.read_part(payload, start, stop)
            if isinstance(payload, int)
            else None
            if payload is None
            else payload[start:stop]
            for payload in payloads
        ]

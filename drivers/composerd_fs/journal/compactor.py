"""The compactor: keeps the journal small by checkpoints and compactions, in one task beside the flushes.

A checkpoint is due when the journal has grown by as much as the last checkpoint has, deleted payloads included, or when
it has half as many entries as there are jobs, archived ones counted for little. So the bytes written stay in proportion
to the work, and the bytes read at a start to the stored jobs. After a checkpoint the segments from before it hold
payloads only. Those in which no payload is live are removed. Of those that are less than half live, the live payloads
are copied to the end of the journal, as a write like any other, and then they are removed too.

A crash at any moment leaves an unfinished file or one that is not needed any more, which the next start removes, or
both copies of a payload.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, BinaryIO

import msgspec

from composerd.directory import Directory
from composerd.errors import ComposerdError, ResourcesExhausted, StorageFull, StorageUnusable
from composerd.file_errors import is_full
from composerd_fs.journal import frames
from composerd_fs.journal.checkpoint import Snapshot
from composerd_fs.journal.io import write_all
from composerd_fs.journal.layout import (
    ADVICE,
    checkpoint_name,
    checkpoints_among,
    segment_name,
    segments_among,
    segments_in,
)
from composerd_fs.journal.sparse import BetweenFlushes, SparseSegments
from composerd_fs.journal.turn import Turn
from composerd_fs.journal.writer import Journal
from composerd_fs.state.commands import CopiedPayloads
from composerd_fs.state.table import Table

log = logging.getLogger(__name__)

CHECKPOINT_AFTER = 64 * 1024 * 1024
"""Growth of the journal, in bytes, below which no checkpoint is taken because of its size."""

ENTRIES = 250_000
"""Number of entries below which no checkpoint is taken because of them. Reading them takes a second or two."""

JOBS_AT_ONCE = 50
"""Number of jobs that a checkpoint takes, within a fraction of a millisecond, before other tasks get a turn."""

SIZE_OF_A_JOB = 200
"""About the size in bytes of a job in a checkpoint."""

FREED_ON_FULL_DISK = 1024 * 1024
"""Bytes of payloads of deleted jobs from which on a checkpoint is taken while the disk is full."""

RETRY_AFTER = 10.0
"""Seconds after which work that failed is tried again. They double each time, up to `LONGEST_RETRY`."""

LONGEST_RETRY = 600.0

_encode = msgspec.msgpack.Encoder(uuid_format="bytes").encode


class Compactor:
    """Takes checkpoints and compacts segments, in a task that runs beside the flushes.

    `copy` writes payloads again, and returns when they are on the disk. An error is logged, and the work is tried again
    after a while.
    """

    def __init__(
        self,
        table: Table,
        journal: Journal,
        between_flushes: BetweenFlushes,
        copy: Callable[[Sequence[CopiedPayloads]], Awaitable[None]],
    ) -> None:
        self.checkpoint: int | None = None
        """The number of the last checkpoint: the segment before which it was taken."""
        self._table = table
        self._journal = journal
        self._between_flushes = between_flushes
        self._copy_payloads = copy
        self._sparse = SparseSegments(table, journal, between_flushes, copy)
        self._task: asyncio.Task[None] | None = None
        self._retry: asyncio.Task[None] | None = None
        """The task that waits until work that failed is tried again."""
        self._retry_after = RETRY_AFTER
        self._closed = False
        self._growth = CHECKPOINT_AFTER
        """The growth after which the next checkpoint is taken."""
        self._entries_before = 0
        """The number of entries that the journal had when the last checkpoint began."""
        self._freed_before = 0
        """The bytes that deleted jobs had freed when the last checkpoint began."""
        self.due_at_bytes = self._growth
        self.due_at_entries = ENTRIES

    async def maybe_start(self) -> None:
        """Begin a checkpoint if it is due. Call it between two flushes.

        One is due when the journal has reached one of the limits, and on a full disk also when jobs were deleted whose
        payloads it would free. Raises what `Journal.rotate` raises, unless that is worth another try.
        """
        if self._task is not None or self._closed or self._table.unpropagated or self._journal.broken is not None:
            return
        written = self._journal.written_bytes + self._table.freed_bytes
        entries = self._journal.written_entries
        many = entries >= self.due_at_entries and entries - self._entries_before >= self._table.jobs.work // 2
        frees = self._journal.full and self._table.freed_bytes - self._freed_before >= FREED_ON_FULL_DISK
        if written < self.due_at_bytes and not many and not frees:
            return
        self._entries_before = self._journal.written_entries
        self._freed_before = self._table.freed_bytes
        self.due_at_bytes = written + self._growth
        self.due_at_entries = self._entries_before + ENTRIES
        snapshot = None
        try:
            await self._rotate()
            snapshot = Snapshot(self._table, self._journal.frame)
        except StorageFull:
            log.warning("the disk is full: there is no room for a checkpoint of the journal")
        except ResourcesExhausted as exc:
            log.warning("a checkpoint of the journal cannot begin, and will be tried again: %s", exc)
        work = self._work(snapshot, self._journal.segment, written)
        self._task = asyncio.get_running_loop().create_task(work, name="compactor")
        self._task.add_done_callback(self._ended)

    def _ended(self, _task: "asyncio.Task[None]") -> None:
        self._task = None

    async def _rotate(self) -> None:
        try:
            await self._journal.rotate()
        except StorageFull:
            if not await self._journal.free_some(self._size()):
                raise
            await self._journal.rotate()

    def _size(self) -> int:
        """Return about how many bytes a checkpoint takes."""
        return SIZE_OF_A_JOB * sum(self._table.jobs.counts.values())

    def _failed(self) -> None:
        if self._retry is None and not self._closed:
            self._retry = asyncio.create_task(self._try_again(), name="compactor")

    async def _try_again(self) -> None:
        await asyncio.sleep(self._retry_after)
        self._retry_after = min(2 * self._retry_after, LONGEST_RETRY)
        self._retry = None
        self.due_at_bytes = 0
        with contextlib.suppress(ComposerdError):
            await self._copy_payloads([])  # writes nothing, but a checkpoint begins before a write

    async def close(self) -> None:
        """Stop, begin no further checkpoint, and leave no unfinished file. Calling it again does nothing."""
        self._closed = True
        for task in (self._task, self._retry):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])

    # The files at the start, and figures for operators.

    def tidy(self) -> None:
        """Remove files that a crash has left or that are not needed any more, once the journal was read. It blocks.

        Raises `StorageUnusable` if a segment is missing in which jobs have payloads.
        """
        directory = self._journal.directory
        names = directory.names()
        checkpoints = checkpoints_among(names)
        self.checkpoint = checkpoints[-1] if checkpoints else None
        if self.checkpoint is not None:
            self._growth = max(CHECKPOINT_AFTER, directory.size(checkpoint_name(self.checkpoint)))
            self.due_at_bytes = self._growth
        live = self._table.jobs.live_bytes
        for missing in self.missing_segments(names):
            raise missing
        unneeded = [checkpoint_name(number) for number in checkpoints[:-1]]
        unneeded += [
            segment_name(number)
            for number in segments_among(names)
            if number not in live and number < (self.checkpoint or 0)
        ]
        unneeded += [name for name in names if name.endswith(directory.unfinished)]
        for name in unneeded:
            directory.remove(name)

    def missing_segments(self, names: Collection[str]) -> list[StorageUnusable]:
        """Return an error for each segment that is not among some names although jobs have payloads in it."""
        needed = map(segment_name, sorted(self._table.jobs.live_bytes))
        paths = [self._journal.directory.path / name for name in needed if name not in names]
        return [
            StorageUnusable(f"the journal is damaged: {path} is missing; {ADVICE}", file=str(path)) for path in paths
        ]

    def describe(self, live: Mapping[int, int]) -> dict[str, Any]:
        """Return figures about the files for an operator, given the live bytes of each segment. It blocks."""
        directory = self._journal.directory
        sizes = {number: _size(directory, segment_name(number)) for number in segments_in(directory)}
        old = {number: size for number, size in sizes.items() if number < (self.checkpoint or 0)}
        checkpoint = None if self.checkpoint is None else checkpoint_name(self.checkpoint)
        return {
            "segments": len(sizes),
            "bytes in segments": sum(sizes.values()),
            "live payload bytes": sum(live.values()),
            "reclaimable bytes": sum(max(size - live.get(number, 0), 0) for number, size in old.items()),
            "bytes written since the checkpoint": sum(sizes.values()) - sum(old.values()),
            "last checkpoint": checkpoint or "none",
            "bytes in the checkpoint": 0 if checkpoint is None else _size(directory, checkpoint),
        }

    # A checkpoint, and the compaction after it.

    async def _work(self, snapshot: Snapshot | None, segment: int, written: int) -> None:
        """Take a checkpoint, and remove what it makes unnecessary. Without a snapshot, remove only dead segments."""
        began = time.monotonic()
        failed = snapshot is None
        try:
            try:
                if self.checkpoint is not None and self._journal.full:
                    await self._remove_dead(self.checkpoint)  # first, because it needs no room
                size = 0 if snapshot is None else await self._write(snapshot, segment)
            finally:
                if snapshot is not None:
                    snapshot.close()
            while self._table.jobs.archive.drop_unused():  # noqa: ASYNC110  # nothing is waited for
                await asyncio.sleep(0)
            if snapshot is not None:
                before, self.checkpoint = self.checkpoint, segment
                self._growth = max(CHECKPOINT_AFTER, size)
                self.due_at_bytes = written + self._growth
                took = time.monotonic() - began
                log.info("wrote a checkpoint in %.1f s (jobs: %d, bytes: %d)", took, snapshot.jobs, size)
                await self._compact(segment, before)
                self._retry_after = RETRY_AFTER
        except (OSError, ComposerdError) as exc:
            failed = True
            log.warning("compaction of the journal failed, and will be tried again: %s", exc)
        except Exception:
            failed = True
            log.exception("compaction of the journal failed, and will be tried again")
        if failed:
            self._failed()
        await self._journal.fill_reserve()

    async def _write(self, snapshot: Snapshot, segment: int) -> int:
        """Write a checkpoint, and return its size. It is valid from the moment when it is complete and has its name."""
        directory = self._journal.directory
        name = checkpoint_name(segment)
        salt = os.urandom(frames.SALT_SIZE)
        file = await _created(directory, name)
        try:
            size = await self._append(file, 0, frames.pack_segment_header(segment, salt, frames.CHECKPOINT))
            number = 0
            while not snapshot.complete:
                turn = Turn()
                if some := snapshot.some(JOBS_AT_ONCE):
                    number += 1
                    size = await self._append(file, size, frames.pack_frame(number, salt, [], _encode(some)))
                await turn.over()
            await asyncio.to_thread(_finish, directory, file, name)
        except BaseException:
            file.close()
            directory.discard(name)
            raise
        return size

    async def _append(self, file: BinaryIO, offset: int, data: bytes) -> int:
        """Write data to a file at an offset, if necessary with room of the reserve, and return where it ends."""
        while True:
            try:
                await asyncio.to_thread(write_all, file.fileno(), data, offset)
            except OSError as exc:
                if not is_full(exc) or not await self._journal.free_some(self._size() - offset):
                    raise
            else:
                return offset + len(data)

    async def _compact(self, checkpoint: int, before: int | None) -> None:
        if self._journal.broken is not None:
            return  # nothing is removed from a disk that fails
        old, live = await self._remove_dead(checkpoint)
        if before not in (None, checkpoint):
            await self._journal.remove([checkpoint_name(before)])
        sparse = await asyncio.to_thread(self._sparse.find, old, live)
        if sparse and self._journal.full:
            await self._journal.fill_reserve()
            sparse = {min(sparse, key=live.__getitem__)}  # the one that needs least room
        if sparse:
            await self._sparse.empty(sparse)
            await self._journal.remove([segment_name(number) for number in sparse])
            log.info("compacted the journal (sparse segments removed: %d)", len(sparse))

    async def _remove_dead(self, checkpoint: int) -> tuple[list[int], dict[int, int]]:
        """Remove the segments before a checkpoint in which nothing is live.

        Return all segments before it, and the live bytes of each segment.
        """
        old = [
            number for number in await asyncio.to_thread(segments_in, self._journal.directory) if number < checkpoint
        ]
        # Read between two flushes, also by `SparseSegments`: if a flush deletes a job but cannot be written, the job is
        # back.
        live = await self._between_flushes(self._live_bytes)
        await self._journal.remove([segment_name(number) for number in old if number not in live])
        return old, live

    def _live_bytes(self) -> dict[int, int]:
        return dict(self._table.jobs.live_bytes)


def _size(directory: Directory, name: str) -> int:
    """Return the size of a file; 0 if it was removed since it was listed."""
    try:
        return directory.size(name)
    except FileNotFoundError:
        return 0


async def _created(directory: Directory, name: str) -> BinaryIO:
    """Begin a file. The thread that opens it is not canceled, because nobody would close the file then."""
    opening = asyncio.create_task(asyncio.to_thread(directory.create, name))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        (await opening).close()
        await asyncio.to_thread(directory.discard, name)
        raise


def _finish(directory: Directory, file: BinaryIO, name: str) -> None:
    """Bring a complete file to stable storage, and give it its name."""
    with file:
        directory.publish(file, name)

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
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeVar
from uuid import UUID

import msgspec

from composerd.directory import Directory
from composerd.errors import ComposerdError, StorageFull, StorageUnusable
from composerd_fs.journal import frames
from composerd_fs.journal.checkpoint import Snapshot
from composerd_fs.journal.entries import Payload
from composerd_fs.journal.layout import checkpoint_name, checkpoints_in, segment_name, segments_in
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

SHARE = 0.15
"""The largest share of the loop's time that a checkpoint or a compaction takes."""

COPIED_AT_ONCE = 1024 * 1024
"""Bytes of payloads that are copied in one write, unless a single payload is larger."""

T = TypeVar("T")

_encode = msgspec.msgpack.Encoder(uuid_format="bytes").encode


class BetweenFlushes(Protocol):
    """Calls functions on the table between two flushes."""

    def __call__(self, function: Callable[..., T], /, *args: Any) -> Awaitable[T]:
        """Call a function with its arguments, and return its return value."""


class _Found(NamedTuple):
    """A job that has payloads to be copied: their locations, or None for a payload that is not copied."""

    job_id: UUID
    args: int | None
    result: int | None

    @property
    def size(self) -> int:
        """The bytes that the payloads take in the journal."""
        return sum(frames.span_of(one)[2] for one in (self.args, self.result) if one is not None)


class Compactor:
    """Takes checkpoints and compacts segments, in a task that runs beside the flushes.

    `copy` writes payloads again, and returns when they are on the disk. An error is logged, and the work is tried again
    when the journal has grown.
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
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._growth = CHECKPOINT_AFTER
        """The growth after which the next checkpoint is taken."""
        self._entries_before = 0
        """The number of entries that the journal had when the last checkpoint began."""
        self.due_at_bytes = self._growth
        self.due_at_entries = ENTRIES

    async def maybe_start(self) -> None:
        """Begin a checkpoint if it is due. Call it between two flushes, when the journal has reached one of the limits.

        Raises what `Journal.rotate` raises, unless the disk is full.
        """
        if self._task is not None or self._closed or self._table.unpropagated or self._journal.broken is not None:
            return
        written = self._journal.written_bytes + self._table.freed_bytes
        entries = self._journal.written_entries - self._entries_before
        if written < self.due_at_bytes and entries < self._table.jobs.work // 2:
            return
        self._entries_before = self._journal.written_entries
        self.due_at_bytes = written + self._growth
        self.due_at_entries = self._entries_before + ENTRIES
        try:
            await self._journal.rotate()
        except StorageFull:
            log.warning("the disk is full: there is no room for a checkpoint of the journal")
            return
        snapshot = Snapshot(self._table, self._journal.frame)
        work = self._work(snapshot, self._journal.segment, written)
        self._task = asyncio.get_running_loop().create_task(work, name="compactor")
        self._task.add_done_callback(self._ended)

    def _ended(self, _task: "asyncio.Task[None]") -> None:
        self._task = None

    async def close(self) -> None:
        """Stop, begin no further checkpoint, and leave no unfinished file. Calling it again does nothing."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    # The files at the start, and figures for operators.

    def tidy(self) -> None:
        """Remove files that a crash has left or that are not needed any more, once the journal was read. It blocks.

        Raises `StorageUnusable` if a segment is missing in which jobs have payloads.
        """
        directory = self._journal.directory
        checkpoints = checkpoints_in(directory)
        self.checkpoint = checkpoints[-1] if checkpoints else None
        if self.checkpoint is not None:
            self._growth = max(CHECKPOINT_AFTER, directory.size(checkpoint_name(self.checkpoint)))
            self.due_at_bytes = self._growth
        live = self._table.jobs.live_bytes
        for missing in self.missing_segments():
            raise missing
        unneeded = [checkpoint_name(number) for number in checkpoints[:-1]]
        unneeded += [
            segment_name(number)
            for number in segments_in(directory)
            if number not in live and number < (self.checkpoint or 0)
        ]
        unneeded += [name for name in directory.names() if name.endswith(directory.unfinished)]
        if self._journal.broken is None:  # otherwise it is on a read-only file system
            for name in unneeded:
                directory.remove(name)

    def missing_segments(self) -> list[StorageUnusable]:
        """Return an error for each segment that is missing on the disk although jobs have payloads in it."""
        directory = self._journal.directory
        names = map(segment_name, sorted(self._table.jobs.live_bytes))
        paths = [directory.path / name for name in names if not directory.exists(name)]
        return [
            StorageUnusable(f"the journal is damaged: {path} is missing; restore it from a backup", file=str(path))
            for path in paths
        ]

    def describe(self, live: Mapping[int, int]) -> dict[str, Any]:
        """Return figures about the files for an operator, given the live bytes of each segment. It blocks."""
        directory = self._journal.directory
        sizes = {number: directory.size(segment_name(number)) for number in segments_in(directory)}
        old = {number: size for number, size in sizes.items() if number < (self.checkpoint or 0)}
        checkpoint = None if self.checkpoint is None else checkpoint_name(self.checkpoint)
        return {
            "segments": len(sizes),
            "bytes in segments": sum(sizes.values()),
            "live payload bytes": sum(live.values()),
            "reclaimable bytes": sum(size - live.get(number, 0) for number, size in old.items()),
            "bytes written since the checkpoint": sum(sizes.values()) - sum(old.values()),
            "last checkpoint": checkpoint or "none",
            "bytes in the checkpoint": 0 if checkpoint is None else directory.size(checkpoint),
        }

    # A checkpoint, and the compaction after it.

    async def _work(self, snapshot: Snapshot, segment: int, written: int) -> None:
        began = time.monotonic()
        try:
            try:
                size = await self._write(snapshot, segment)
            finally:
                snapshot.close()
            before, self.checkpoint = self.checkpoint, segment
            self._growth = max(CHECKPOINT_AFTER, size)
            self.due_at_bytes = written + self._growth
            took = time.monotonic() - began
            log.info("wrote a checkpoint in %.1f s (jobs: %d, bytes: %d)", took, snapshot.jobs, size)
            await self._compact(segment, before)
        except (OSError, ComposerdError) as exc:
            log.warning("compaction of the journal failed, and will be tried again when the journal has grown: %s", exc)
        except Exception:
            log.exception("compaction of the journal failed, and will be tried again when the journal has grown")

    async def _write(self, snapshot: Snapshot, segment: int) -> int:
        """Write a checkpoint, and return its size. It is valid from the moment when it is complete and has its name."""
        directory = self._journal.directory
        name = checkpoint_name(segment)
        salt = os.urandom(frames.SALT_SIZE)
        file = await _created(directory, name)
        try:
            await asyncio.to_thread(file.write, frames.pack_segment_header(segment, salt, frames.CHECKPOINT))
            number = 0
            while not snapshot.complete:
                turn = Turn()
                if some := snapshot.some(JOBS_AT_ONCE):
                    number += 1
                    await asyncio.to_thread(file.write, frames.pack_frame(number, salt, [], _encode(some)))
                await turn.over()
            return await asyncio.to_thread(_finish, directory, file, name)
        except BaseException:
            file.close()
            directory.discard(name)
            raise

    async def _compact(self, checkpoint: int, before: int | None) -> None:
        directory = self._journal.directory
        if self._journal.broken is not None:
            return  # nothing is removed from a disk that fails
        old = [number for number in await asyncio.to_thread(segments_in, directory) if number < checkpoint]
        # Read between two flushes, here and below: if a flush deletes a job but cannot be written, the job is back.
        live = await self._between_flushes(self._live_bytes)
        dead = [segment_name(number) for number in old if number not in live]
        if before is not None:
            dead.append(checkpoint_name(before))
        await self._journal.remove(dead)
        sparse = await asyncio.to_thread(self._sparse, old, live)
        if sparse:
            await self._empty(sparse)
            await self._journal.remove([segment_name(number) for number in sparse])
            log.info("compacted the journal (sparse segments removed: %d)", len(sparse))

    def _live_bytes(self) -> dict[int, int]:
        return dict(self._table.jobs.live_bytes)

    def _sparse(self, segments: Sequence[int], live: Mapping[int, int]) -> set[int]:
        """Return the segments that are less than half live."""
        directory = self._journal.directory
        return {
            number for number in segments if number in live and 2 * live[number] < directory.size(segment_name(number))
        }

    async def _empty(self, segments: set[int]) -> None:
        """Copy the live payloads of some segments. Raises `Unavailable` if one cannot be read."""
        for chunk in await self._between_flushes(self._table.jobs.by_sequence.chunks):
            turn = Turn()
            found = await self._between_flushes(self._found, chunk, segments)
            while found:
                some = [found.pop()]
                size = some[0].size
                while found and size < COPIED_AT_ONCE:
                    some.append(found.pop())
                    size += some[-1].size
                await self._copy(some)
            await turn.over()

    def _found(self, chunk: int, segments: set[int]) -> list[_Found]:
        """Return the jobs of a chunk that have payloads in some segments."""
        found: list[_Found] = []
        for sequence, args, result in self._table.jobs.payloads_in(chunk):
            args_location, result_location = _in(segments, args), _in(segments, result)
            if args_location is not None or result_location is not None:
                job = self._table.jobs.at(sequence)
                assert job is not None, "the chunk has a job of this sequence"
                found.append(_Found(job.id, args_location, result_location))
        return found

    async def _copy(self, found: Sequence[_Found]) -> None:
        locations = [one for _, args, result in found for one in (args, result) if one is not None]
        read = dict(zip(locations, await self._journal.read_many(locations), strict=True))
        await self._copy_payloads(
            [
                CopiedPayloads(
                    job_id,
                    None if args is None else read[args],
                    None if result is None else read[result],
                    args,
                    result,
                )
                for job_id, args, result in found
            ]
        )


class Turn:
    """A stretch of work, after which other tasks get their turn."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    async def over(self) -> None:
        """Wait until the work has taken no more than its share of the time."""
        await asyncio.sleep((time.monotonic() - self._began) * (1 / SHARE - 1))


async def _created(directory: Directory, name: str) -> BinaryIO:
    """Begin a file. The thread that opens it is not canceled, because nobody would close the file then."""
    opening = asyncio.create_task(asyncio.to_thread(directory.create, name))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        (await opening).close()
        await asyncio.to_thread(directory.discard, name)
        raise


def _in(segments: set[int], payload: Payload | None) -> int | None:
    return payload if isinstance(payload, int) and frames.span_of(payload)[0] in segments else None


def _finish(directory: Directory, file: BinaryIO, name: str) -> int:
    """Bring a complete file to stable storage, give it its name, and return its size."""
    with file:
        directory.publish(file, name)
        return file.tell()

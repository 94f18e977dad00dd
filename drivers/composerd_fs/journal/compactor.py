"""Keeps the journal small: checkpoints, and what lives copied out of segments that are mostly dead. One task, beside the flushes.

A checkpoint begins when the journal has grown by as much as the last checkpoint has, or as much payload was deleted, or
it has half as many records as there are jobs, packed ones counted for little: so what is written stays in proportion to
what is asked for, and what is read at a start to what lives. Then segments
from before it hold payloads only. Those that hold none any more are removed; of those that are less than half alive the
rest is copied to the end of the journal, as a write like any other, and then they are removed too.

A crash at any moment leaves a file that is not finished (removed at the next start), or one that is not needed any more
(the same), or both copies of a payload.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeAlias, TypeVar
from uuid import UUID

import msgspec

from composerd.errors import ComposerdError, StorageFull, StorageUnusable, Unavailable
from composerd_fs.journal import frames
from composerd_fs.journal.checkpoint import Snapshot
from composerd_fs.journal.entries import Payload
from composerd_fs.journal.io import sync_directory
from composerd_fs.journal.reader import checkpoint_name, numbers_of, segment_name
from composerd_fs.journal.writer import Journal
from composerd_fs.state.archive import places
from composerd_fs.state.commands import Copied
from composerd_fs.state.table import Table

log = logging.getLogger(__name__)

CHECKPOINT_AFTER = 64 * 1024 * 1024
"""No checkpoint begins before the journal has grown by that much, in bytes."""

RECORDS = 250_000
"""Nor before so many records were written, unless the journal has grown that much: a second or two of a start."""

ROWS_AT_ONCE = 50
"""Jobs that are taken into a checkpoint before others get a turn: a fraction of a millisecond."""

SHARE = 0.15
"""How much of the loop's time a checkpoint or a compaction takes at the most."""

COPIED_AT_ONCE = 1024 * 1024
"""Bytes of payload that are copied in one write, a single larger one apart."""

UNFINISHED = ".tmp"

T = TypeVar("T")

_encode = msgspec.msgpack.Encoder(uuid_format="bytes").encode


_Found: TypeAlias = tuple[UUID, int | None, int | None]
"""A job, and where its args and its result are if they are to be copied."""


class Look(Protocol):
    """Looks at the table between two flushes."""

    async def __call__(self, look: Callable[[], T], /) -> T:
        """What the look sees."""


class Keeper:
    """What a committer has as its log: the journal, looked after."""

    def __init__(self, table: Table, journal: Journal) -> None:
        self._table = table
        self._journal = journal
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._covered = 0
        """What the journal had written when the last checkpoint began."""
        self._freed = 0
        self._counted = 0
        """How many records it had then."""
        self._after = CHECKPOINT_AFTER
        self.checkpoint: int | None = None
        """The segment before which the last checkpoint was taken."""
        self.copy: Callable[[Sequence[Copied]], Awaitable[None]]
        """Writes payloads anew, to be set by the driver."""
        self.look: Look
        """To be set by the driver."""

    # The log of the committer.

    async def begin(self) -> int:
        """Begin a frame; the moment between two flushes at which a checkpoint may begin."""
        if (
            self._task is None
            and not self._closed
            and self._is_due()
            and not self._table.unsettled
            and self._journal.broken is None
        ):
            self._covered, self._freed = self._journal.written, self._table.freed
            self._counted = self._journal.recorded
            try:
                await self._journal.rotate()
            except StorageFull:
                log.warning("the disk is full: there is no room for a checkpoint of the journal")
            else:
                self._begin()
        return await self._journal.begin()

    async def flush(self, wanted: Sequence[int]) -> list[bytes | Unavailable]:
        """See `Journal.flush`."""
        return await self._journal.flush(wanted)

    def _is_due(self) -> bool:
        if self._journal.written - self._covered + self._table.freed - self._freed >= self._after:
            return True
        records = self._journal.recorded - self._counted
        return records >= RECORDS and records >= self._table.work // 2

    # The start.

    def tidy(self) -> None:
        """After the journal was read: remove what a crash left or nobody needs. Blocking. Raises `StorageUnusable` for what is missing."""
        directory = self._journal.directory
        checkpoints = numbers_of(directory, "checkpoint")
        self.checkpoint = checkpoints[-1] if checkpoints else None
        if self.checkpoint is not None:
            self._after = max(CHECKPOINT_AFTER, (directory / checkpoint_name(self.checkpoint)).stat().st_size)
        live = self._table.live
        there = set(numbers_of(directory, "log"))
        for lost in self.lost():
            raise lost
        unneeded = [directory / checkpoint_name(number) for number in checkpoints[:-1]]
        unneeded += [directory / segment_name(one) for one in there - live.keys() if one < (self.checkpoint or 0)]
        unneeded += directory.glob(f"*{UNFINISHED}")
        for path in unneeded:
            path.unlink(missing_ok=True)

    def lost(self) -> list[StorageUnusable]:
        """What is to be said of segments that are not there, though jobs have payloads in them."""
        paths = [self._journal.path(segment) for segment in sorted(self._table.live)]
        return [
            StorageUnusable(f"the journal is damaged: {path} is missing; restore it from a backup", file=str(path))
            for path in paths
            if not path.exists()
        ]

    def describe(self, live: Mapping[int, int]) -> dict[str, Any]:
        """The files, for people: how many, how large, and how much of them lives, by segment. Blocking."""
        directory = self._journal.directory
        sizes = {number: self._journal.path(number).stat().st_size for number in numbers_of(directory, "log")}
        old = {number: size for number, size in sizes.items() if number < (self.checkpoint or 0)}
        checkpoint = None if self.checkpoint is None else directory / checkpoint_name(self.checkpoint)
        return {
            "segments": len(sizes),
            "bytes in segments": sum(sizes.values()),
            "payload that lives": sum(live.values()),
            "dead bytes from before the checkpoint": sum(size - live.get(number, 0) for number, size in old.items()),
            "bytes behind the checkpoint": sum(sizes.values()) - sum(old.values()),
            "last checkpoint": "none" if checkpoint is None else checkpoint.name,
            "bytes in the checkpoint": 0 if checkpoint is None else checkpoint.stat().st_size,
        }

    # A checkpoint, and what follows from it.

    def _begin(self) -> None:
        snapshot = Snapshot(self._table, self._journal.frame)
        self._task = asyncio.get_running_loop().create_task(self._work(snapshot, self._journal.segment), name="keeper")
        self._task.add_done_callback(self._ended)

    def _ended(self, _task: "asyncio.Task[None]") -> None:
        self._task = None

    async def _work(self, snapshot: Snapshot, segment: int) -> None:
        began = time.monotonic()
        try:
            try:
                size = await self._write(snapshot, segment)
            finally:
                snapshot.close()
            before, self.checkpoint = self.checkpoint, segment
            self._after = max(CHECKPOINT_AFTER, size)
            log.info("a checkpoint of %d jobs, %d bytes, took %.1f s", snapshot.jobs, size, time.monotonic() - began)
            await self._compact(segment, before)
        except (OSError, ComposerdError) as exc:
            log.warning("the journal was not made smaller, and will be tried again when it has grown: %s", exc)
        except Exception:
            log.exception("the journal was not made smaller, and will be tried again when it has grown")

    async def _write(self, snapshot: Snapshot, segment: int) -> int:
        """Write a checkpoint; its size. It counts when it has its name, and then it is whole."""
        path = self._journal.directory / checkpoint_name(segment)
        unfinished = path.with_name(path.name + UNFINISHED)
        salt = os.urandom(frames.SALT_SIZE)
        file = await _opened(unfinished)
        try:
            await asyncio.to_thread(file.write, frames.pack_segment_header(segment, salt, frames.CHECKPOINT))
            number = 0
            while not snapshot.complete:
                turn = _Turn()
                if some := snapshot.some(ROWS_AT_ONCE):
                    number += 1
                    await asyncio.to_thread(file.write, frames.pack_frame(number, salt, [], _encode(some)))
                await turn.over()
            return await asyncio.to_thread(_finish, file, unfinished, path)
        except BaseException:
            file.close()
            unfinished.unlink(missing_ok=True)
            raise

    async def _compact(self, checkpoint: int, before: int | None) -> None:
        directory = self._journal.directory
        if self._journal.broken is not None:
            return  # nothing is removed from a disk that fails
        old = [number for number in await asyncio.to_thread(numbers_of, directory, "log") if number < checkpoint]
        # Between two flushes, here and below: what one has deleted, and then cannot write, is there again.
        live = await self.look(lambda: dict(self._table.live))
        dead = [directory / segment_name(number) for number in old if number not in live]
        if before is not None:
            dead.append(directory / checkpoint_name(before))
        await self._journal.remove(dead)
        sparse = await asyncio.to_thread(self._sparse, old, live)
        if sparse:
            await self._empty(sparse)
            await self._journal.remove([directory / segment_name(number) for number in sparse])
            log.info("%d segments were mostly dead and are gone", len(sparse))

    def _sparse(self, segments: Sequence[int], live: Mapping[int, int]) -> set[int]:
        """Segments of which less than half lives."""
        return {
            number
            for number in segments
            if number in live and 2 * live[number] < self._journal.path(number).stat().st_size
        }

    async def _empty(self, segments: set[int]) -> None:
        """Copy what lives in some segments. Raises `Unavailable` for what cannot be read: they stay then."""
        for chunk in await self.look(self._table.by_seq.chunks):
            turn = _Turn()
            found = await self.look(lambda: self._found(chunk, segments))  # noqa: B023  # called at once
            while found:
                some = [found.pop()]
                size = _size(some[0])
                while found and size < COPIED_AT_ONCE:
                    some.append(found.pop())
                    size += _size(some[-1])
                await self._copy(some)
            await turn.over()

    def _found(self, chunk: int, segments: set[int]) -> list[_Found]:
        """Of a run of jobs those that have payloads in some segments, and where."""
        found: list[_Found] = []
        for seq, row in self._table.by_seq.chunk(chunk):
            args, result = places(row) if isinstance(row, bytes) else (row.args, row.result)
            args, result = _in(segments, args), _in(segments, result)
            if args is not None or result is not None:
                job = self._table.at(seq)
                assert job is not None, "there is one of this number"
                found.append((job.id, args, result))
        return found

    async def _copy(self, found: Sequence[_Found]) -> None:
        places = [one for _, args, result in found for one in (args, result) if isinstance(one, int)]
        read = dict(zip(places, await self._journal.read_many(places), strict=True))
        await self.copy(
            [
                (
                    job_id,
                    read[args] if isinstance(args, int) else None,
                    read[result] if isinstance(result, int) else None,
                    args,
                    result,
                )
                for job_id, args, result in found
            ]
        )

    async def close(self) -> None:
        """Stop, begin no other checkpoint, and leave nothing unfinished. Fine twice."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])


class _Turn:
    """A stretch of work, after which others get theirs."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    async def over(self) -> None:
        """Wait for as long as the share asks for."""
        await asyncio.sleep((time.monotonic() - self._began) * (1 / SHARE - 1))


async def _opened(unfinished: Path) -> BinaryIO:
    """A new file, written to by one thread at a time. The thread that opens it is not to be cancelled: who closes it then?"""
    opening = asyncio.create_task(asyncio.to_thread(unfinished.open, "wb"))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        (await opening).close()
        await asyncio.to_thread(unfinished.unlink)
        raise


def _size(found: _Found) -> int:
    return sum(frames.where(place)[2] for place in found[1:] if place is not None)


def _in(segments: set[int], payload: Payload | None) -> int | None:
    return payload if isinstance(payload, int) and frames.where(payload)[0] in segments else None


def _finish(file: BinaryIO, unfinished: Path, path: Path) -> int:
    """Bring a file to stable storage, whole, then give it its name; its size."""
    with file:
        file.flush()
        os.fsync(file.fileno())
        size = file.tell()
    unfinished.rename(path)
    sync_directory(path.parent)
    return size

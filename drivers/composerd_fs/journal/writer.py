"""The journal while it is open: segments of frames in a directory, one frame for each flush.

It does not know what a job is; `reader` reads a journal again.

A frame is on stable storage before the next one is written. So a crash can only tear the last frame, whose writes were
not acknowledged. A clean stop leaves a marker that says where the journal ends.
"""

import contextlib
import errno
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeAlias, cast

import aiofiles
import msgspec
from aiofiles.threadpool.binary import AsyncFileIO

from composerd.errors import StorageFull, Unavailable
from composerd_fs.journal import frames, layout
from composerd_fs.journal.entries import Entry, JournalEntry, Payload
from composerd_fs.journal.frames import FRAME_HEADER, SEGMENT_HEADER
from composerd_fs.journal.io import DiskThread, read_exactly, sync_directory, write_all
from composerd_fs.journal.reader import Reader
from composerd_fs.journal.reserve import NO_ROOM, Purpose, Reserve

log = logging.getLogger(__name__)

SEGMENT_SIZE = 16 * 1024 * 1024
"""Size in bytes at which a segment gets no more frames."""

INLINE = 48
"""Length in bytes up to which a payload is in its entry, because its location would take more space."""

READ_OVER = 32 * 1024
"""Largest gap in bytes between two payloads that are read in one call, gap included."""

READ_AT_ONCE = 4 * 1024 * 1024
"""The most bytes that are read in one call, unless a single payload is larger."""

_FULL = "the disk of the journal is full"

_encode = msgspec.msgpack.Encoder(uuid_format="bytes").encode

_Located: TypeAlias = tuple[int, int, int, int]
"""A location, and its segment, offset and length."""


class Journal:
    """One directory of segments.

    `begin`, `payload` and `record` put a frame together, and `flush` writes it. After a failed write, except for lack
    of space, it accepts no more frames until it is opened again.
    """

    def __init__(self, directory: Path, segment_size: int | None = None) -> None:
        self.directory = directory
        self.broken: str | None = None
        """The reason why nothing is written any more; None while the journal works."""
        self.written_bytes = 0
        """Bytes of frames that were written, or read at the start."""
        self.written_entries = 0
        """The number of entries in them."""
        self.reserve = Reserve(directory)
        self.segment = 0
        """The number of the segment that is written to."""
        self.frame = 0
        """The number of the last frame."""
        self._segment_size = segment_size or SEGMENT_SIZE
        self._disk = DiskThread()
        self._file: AsyncFileIO | None = None
        self._descriptor = -1
        self._salt = b""
        self._end = 0
        self._ragged = False
        """True if the remains of a refused write, which could not be cut off, are behind the end."""
        self._payloads: list[bytes] = []
        self._payloads_size = 0
        self._entries: list[JournalEntry] = []
        self.record: Callable[[JournalEntry], None] = self._entries.append
        """Adds an entry to the frame."""

    # Writing.

    async def begin(self) -> int:
        """Begin a frame, and return the base of its payloads' locations. Raises like `flush`."""
        self._check_open()
        self._payloads.clear()
        self._payloads_size = 0
        self._entries.clear()
        if self._end >= self._segment_size:
            with contextlib.suppress(StorageFull):  # without room the segment grows on
                await self.rotate()
        return frames.base(self.segment, self._end + FRAME_HEADER)

    def payload(self, data: bytes) -> Payload:
        """Add a payload to the frame, and return its location within it, or the payload itself if it is small."""
        if len(data) <= INLINE:
            return bytes(data)
        location = frames.relative(self._payloads_size, len(data))
        self._payloads += (frames.check_of(data), data)
        self._payloads_size += frames.CHECK + len(data)
        return location

    async def flush(self, wanted: Sequence[int], purpose: Purpose) -> list[bytes | Unavailable]:
        """Bring the frame to stable storage, and return the payloads at the `wanted` locations, which may be in it.

        Both happen in one call of the journal's thread. A frame without entries is not written. A payload that cannot
        be read is an error in its position. The `purpose` says how much of the reserve the frame may use.

        Raises:
            StorageFull: There is no room. Nothing was written, and it may work later.
            Unavailable: Nothing was written, and nothing will be until the server is restarted.
        """
        frame = b""
        if self._entries:
            if self.broken is not None:
                raise Unavailable(self.broken)
            frame = frames.pack_frame(self.frame + 1, self._salt, self._payloads, _encode(self._entries))
            self.written_entries += len(self._entries)
        elif not wanted:
            return []
        return await self._disk.call(self._write_and_read, frame, wanted, purpose)

    def _write_and_read(self, frame: bytes, wanted: Sequence[int], purpose: Purpose) -> list[bytes | Unavailable]:
        if frame:
            self._write(frame, purpose)
        return self.read(wanted) if wanted else []

    def _write(self, frame: bytes, purpose: Purpose) -> None:
        if not self.reserve.whole:
            self.reserve.refill()
            if not self.reserve.admits(purpose):
                raise StorageFull(_FULL)
        written = False
        while not written:
            try:
                write_all(self._descriptor, frame, self._end)
                written = True
            except OSError as exc:
                self._refuse(exc)
                if not self.reserve.give(purpose, len(frame), self._descriptor, self._end):
                    raise StorageFull(_FULL) from exc
        try:
            os.fdatasync(self._descriptor)
        except OSError as exc:
            # The kernel may have dropped what it could not write: a second fsync that succeeds would prove nothing.
            self._break("the journal could not be brought to the disk", exc)
        self._check_name()
        self._end += len(frame)
        if self._ragged:
            self._cut_back()
        self.frame += 1
        self.written_bytes += len(frame)

    def _check_name(self) -> None:
        """Break the journal if its file was removed: writes to such a file succeed, but are lost with the process."""
        if os.fstat(self._descriptor).st_nlink == 0:
            self._break("the journal was removed", FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)))

    async def ping(self) -> None:
        """Return if the journal accepts writes. Raises `Unavailable` otherwise."""
        self._check_open()
        if self.broken is not None:
            raise Unavailable(self.broken)
        await self._disk.call(self._check_name)

    def _check_open(self) -> None:
        """Raise `Unavailable` if the journal is not open: another file may have got the number of its descriptor."""
        if self._file is None:
            raise Unavailable("the storage is not open")

    def _refuse(self, error: OSError) -> None:
        """Cut off the remains of a failed write. Any failure except a lack of space breaks the journal."""
        self._cut_back()
        if error.errno not in NO_ROOM:
            self._break("the journal could not be written", error)

    def _cut_back(self) -> None:
        """Cut off whatever is behind the end. A quota may refuse that; then the next write overwrites it."""
        try:
            os.ftruncate(self._descriptor, self._end)
            self._ragged = False
        except OSError as exc:
            if exc.errno not in NO_ROOM:
                self._break("the journal could not be cut back after a failed write", exc)
            self._ragged = True

    def _break(self, what: str, cause: OSError) -> NoReturn:
        self.broken = f"{what} ({cause.strerror}): no more writes are accepted; repair the disk, then restart composerd"
        log.critical("%s: %s", self.directory, self.broken)
        raise Unavailable(self.broken) from cause

    async def rotate(self) -> None:
        """Let the next frame begin a new segment. Raises like `flush`."""
        if self.broken is not None:
            return  # the flush raises that
        if self._ragged:
            await self._disk.call(self._cut_back)
            if self._ragged:
                raise StorageFull(_FULL)  # only the last segment may have something behind its last frame
        before = self._file
        try:
            await self._create(self.segment + 1, self.frame)
        except OSError as exc:
            self.path(self.segment + 1).unlink(missing_ok=True)
            if exc.errno in NO_ROOM:
                raise StorageFull(_FULL) from exc
            self._break("a new segment of the journal could not be created", exc)
        if before is not None:
            await before.close()

    async def _create(self, number: int, frame: int) -> None:
        salt = os.urandom(frames.SALT_SIZE)
        file = await aiofiles.open(self.path(number), "x+b", buffering=0)
        try:
            await self._disk.call(
                _write_header, file.fileno(), frames.pack_segment_header(number, salt), self.directory
            )
        except OSError:
            await file.close()
            raise
        self._continue(file, number, salt, SEGMENT_HEADER, frame)

    def _continue(self, file: AsyncFileIO, segment: int, salt: bytes, end: int, frame: int) -> None:
        self._file, self._descriptor = file, file.fileno()
        self.segment, self._salt, self._end, self.frame = segment, salt, end, frame

    # Reading payloads.

    async def read_many(self, locations: Sequence[int]) -> list[bytes]:
        """Return the payloads at some locations, in order. Raises `Unavailable` if one cannot be read."""
        read = await self._disk.call(self.read, locations)
        for payload in read:
            if isinstance(payload, Unavailable):
                raise payload
        return cast(list[bytes], read)

    def read(self, locations: Sequence[int]) -> list[bytes | Unavailable]:
        """Return the payloads at some locations, in order; one that cannot be read is an error in its position.

        It blocks, and is called in the journal's thread. Payloads that lie close together are read in one call: jobs
        are claimed in about the order in which they were submitted.
        """
        found: dict[int, bytes | Unavailable] = {}
        run: list[_Located] = []
        end = 0
        for location in sorted(set(locations)):
            segment, offset, length = frames.span_of(location)
            if run:
                _, of_run, begin, _ = run[0]
                near = segment == of_run and offset - end <= READ_OVER and offset + length - begin <= READ_AT_ONCE
                if not near:
                    self._read_run(run, end, found)
                    run = []
            run.append((location, segment, offset, length))
            end = offset + length
        if run:
            self._read_run(run, end, found)
        return [found[location] for location in locations]

    def _read_run(self, run: list[_Located], end: int, found: dict[int, bytes | Unavailable]) -> None:
        _, segment, begin, _ = run[0]
        try:
            if segment == self.segment:
                data = read_exactly(self._descriptor, end - begin, begin)
            else:
                with self.path(segment).open("rb", buffering=0) as file:
                    data = read_exactly(file.fileno(), end - begin, begin)
        except OSError as exc:
            for location, *_ in run:
                found[location] = Unavailable(f"a payload could not be read ({exc.strerror})")
            return
        for location, _, offset, length in run:
            payload = frames.unpack_payload(data[offset - begin : offset - begin + length])
            if payload is None:
                log.error("%s: the payload at byte %d is damaged; restore it from a backup", self.path(segment), offset)
                found[location] = Unavailable("a payload could not be read (it is damaged on the disk)")
            else:
                found[location] = payload

    # The start and the end.

    async def open(self, replay: Callable[[int, list[Entry]], None]) -> None:
        """Read the journal, pass the base and the entries of every frame to `replay`, and get ready to write.

        Raises `StorageUnusable` if it is damaged or of a newer format.
        """
        end = await self._disk.call(lambda: Reader(self.directory, repair=True).read(replay))
        if end.segment == 0:
            await self._create(1, 0)
        else:
            file = await aiofiles.open(self.path(end.segment), "r+b", buffering=0)
            self._continue(file, end.segment, end.salt, end.offset, end.frame)
        self.written_bytes, self.written_entries = end.bytes_read, end.entries
        await self._disk.call(layout.remove_marker, self.directory)
        await self._disk.call(self.reserve.fill)

    async def close(self) -> None:
        """Leave the marker of a clean stop, unless writing has failed. Calling it again does nothing."""
        file, self._file, self._descriptor = self._file, None, -1  # at once: nothing is written after the marker
        if file is not None:
            if self.broken is None:
                marker = layout.Marker(segment=self.segment, end=self._end)
                try:
                    await self._disk.call(layout.leave_marker, self.directory, marker)
                except OSError as exc:
                    log.warning("%s: cannot write the marker of a clean stop: %s", self.directory, exc.strerror)
            await file.close()
        await self._disk.close()

    async def remove(self, paths: Sequence[Path]) -> None:
        """Remove files that are not needed any more. A file that cannot be removed is left to the next start."""
        await self._disk.call(_remove, paths)

    def path(self, number: int) -> Path:
        """Return the path of a segment's file."""
        return self.directory / layout.segment_name(number)


def _write_header(descriptor: int, header: bytes, directory: Path) -> None:
    write_all(descriptor, header, 0)
    os.fsync(descriptor)
    sync_directory(directory)


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as exc:
            log.warning("%s cannot be removed: %s", path, exc.strerror)

"""The journal: segments of frames in a directory, written one frame a flush. Knows no jobs; how it is read again is in `reader`.

The rules: a frame is on stable storage before the next one is written, so only the last can be torn by a crash, and
that one nobody was told of. A clean stop leaves a marker that says where the journal ends.
"""

import errno
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, cast

import aiofiles
import msgspec
from aiofiles.threadpool.binary import AsyncFileIO

from composerd.errors import StorageFull, Unavailable
from composerd_fs.journal import frames
from composerd_fs.journal.entries import Payload, Record
from composerd_fs.journal.frames import FRAME_HEADER, SEGMENT_HEADER
from composerd_fs.journal.io import DiskThread, read_exactly, sync_directory, write_all
from composerd_fs.journal.reader import MARKER, Marker, Reader, segment_name

log = logging.getLogger(__name__)

SEGMENT_SIZE = 16 * 1024 * 1024
"""A segment that has grown past this gets no more frames."""

INLINE = 48
"""A payload of up to so many bytes is in its record: there it takes less room, on disk and in memory, than its place would."""

READ_OVER = 32 * 1024
"""Bytes between two payloads that are read over rather than read around."""

READ_AT_ONCE = 4 * 1024 * 1024
"""The most that is read in one go, a single larger payload apart."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

_encode = msgspec.msgpack.Encoder(uuid_format="bytes").encode


class Journal:
    """One directory of segments. `begin`, `payload` and `record` put a frame together, `flush` writes it."""

    def __init__(self, directory: Path, segment_size: int | None = None) -> None:
        self.directory = directory
        self.broken: str | None = None
        """Why nothing is written any more."""
        self.written = 0
        """Bytes of frames that were written, or read at the start."""
        self.recorded = 0
        """Records in them."""
        self._segment_size = segment_size or SEGMENT_SIZE
        self._disk = DiskThread()
        self._file: AsyncFileIO | None = None
        self._segment = 0
        self._salt = b""
        self._end = 0
        self._frame = 0
        self._payloads: list[bytes] = []
        self._payloads_size = 0
        self._records: list[Record] = []

    # Writing.

    async def begin(self) -> int:
        """Begin a frame; the base of its payloads' places. Raises like `flush`."""
        self._payloads.clear()
        self._payloads_size = 0
        self._records.clear()
        if self._end >= self._segment_size:
            await self.rotate()
        return frames.base(self._segment, self._end + FRAME_HEADER)

    def payload(self, data: bytes) -> Payload:
        """Put a payload into the frame; its place, relative to the frame's base, or itself if it is small."""
        if len(data) <= INLINE:
            return bytes(data)
        place = frames.relative(self._payloads_size, len(data))
        self._payloads += (frames.check_of(data), data)
        self._payloads_size += frames.CHECK + len(data)
        return place

    def record(self, record: Record) -> None:
        """Put a record into the frame."""
        self._records.append(record)

    async def flush(self, wanted: Sequence[int]) -> list[bytes | Unavailable]:
        """Bring the frame to stable storage and read payloads, its own included, in one trip to the disk's thread.

        A frame without records is not written; a payload that cannot be read is an error in its place. Raises
        `StorageFull` (nothing is written; it may work later) or `Unavailable` (nothing is written, and never will be).
        """
        if not self._records and not wanted:
            return []
        if self._records and self.broken is not None:
            raise Unavailable(self.broken)
        frame = b""
        if self._records:
            frame = frames.pack_frame(self._frame + 1, self._salt, self._payloads, _encode(self._records))
            self.recorded += len(self._records)
        return await self._disk.call(self._flush, frame, wanted)

    def _flush(self, frame: bytes, wanted: Sequence[int]) -> list[bytes | Unavailable]:
        if frame:
            self._write_frame(frame)
        return self.read(wanted) if wanted else []

    def _write_frame(self, frame: bytes) -> None:
        descriptor = self._descriptor()
        try:
            write_all(descriptor, frame, self._end)
        except OSError as exc:
            self._refuse(exc, descriptor)
        try:
            os.fdatasync(descriptor)
        except OSError as exc:
            # The kernel may have dropped what it could not write: a second fsync that succeeds would prove nothing.
            self._break("the journal could not be brought to the disk", exc)
        self._is_there(descriptor)
        self._end += len(frame)
        self._frame += 1
        self.written += len(frame)

    def _is_there(self, descriptor: int) -> None:
        """A file that was removed takes writes as if nothing had happened, and is gone with the process."""
        if os.fstat(descriptor).st_nlink == 0:
            self._break("the journal was removed", FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)))

    async def ping(self) -> None:
        """Return if writes are taken. Raises `Unavailable`."""
        if self.broken is not None:
            raise Unavailable(self.broken)
        await self._disk.call(self._is_there, self._descriptor())

    def _refuse(self, error: OSError, descriptor: int) -> None:
        """A write failed: cut off what it left. What is not for lack of room is for good."""
        try:
            os.ftruncate(descriptor, self._end)
        except OSError as exc:
            self._break("the journal could not be cut back after a failed write", exc)
        if error.errno in _NO_ROOM:
            raise StorageFull("the disk of the journal is full") from error
        self._break("the journal could not be written", error)

    def _break(self, what: str, cause: OSError) -> NoReturn:
        self.broken = f"{what} ({cause.strerror}): nothing more is accepted; mend the disk, then restart composerd"
        log.critical("%s: %s", self.directory, self.broken)
        raise Unavailable(self.broken) from cause

    async def rotate(self) -> None:
        """Let the next frame begin a new segment. Raises like `flush`."""
        if self.broken is not None:
            return  # the flush says so
        before = self._file
        try:
            await self._create(self._segment + 1, self._frame)
        except OSError as exc:
            self.path(self._segment + 1).unlink(missing_ok=True)
            if exc.errno in _NO_ROOM:
                raise StorageFull("the disk of the journal is full") from exc
            self._break("no new segment of the journal could be made", exc)
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
        self._file, self._segment, self._salt, self._end, self._frame = file, number, salt, SEGMENT_HEADER, frame

    # Reading payloads.

    async def read_many(self, places: Sequence[int]) -> list[bytes]:
        """Payloads, in order. Raises `Unavailable` if the disk does not give one."""
        read = await self._disk.call(self.read, places)
        for payload in read:
            if isinstance(payload, Unavailable):
                raise payload
        return cast(list[bytes], read)

    def read(self, places: Sequence[int]) -> list[bytes | Unavailable]:
        """Payloads, in order; one that the disk does not give is an error in its place. Blocking: called in the thread.

        What lies close together is read in one go: jobs are claimed in about the order in which they were submitted.
        """
        found: dict[int, bytes | Unavailable] = {}
        run: list[int] = []
        for place in sorted(set(places)):
            if run and not _is_near(run, place):
                self._read_run(run, found)
                run = []
            run.append(place)
        if run:
            self._read_run(run, found)
        return [found[place] for place in places]

    def _read_run(self, run: list[int], found: dict[int, bytes | Unavailable]) -> None:
        segment, begin, _ = frames.where(run[0])
        _, last, length = frames.where(run[-1])
        try:
            if segment == self._segment:
                data = read_exactly(self._descriptor(), last + length - begin, begin)
            else:
                with self.path(segment).open("rb", buffering=0) as file:
                    data = read_exactly(file.fileno(), last + length - begin, begin)
        except OSError as exc:
            found.update(dict.fromkeys(run, Unavailable(f"a payload could not be read ({exc.strerror})")))
            return
        for place in run:
            _, offset, size = frames.where(place)
            payload = frames.unpack_payload(data[offset - begin : offset - begin + size])
            if payload is None:
                log.error("%s: the payload at byte %d is damaged; restore it from a backup", self.path(segment), offset)
                found[place] = Unavailable("a payload could not be read (it is damaged on the disk)")
            else:
                found[place] = payload

    # The start and the end.

    async def open(self, replay: Callable[[int, list[Record]], None]) -> None:
        """Read the journal, giving every frame's base and records to `replay`, and be ready to write.

        Raises `StorageUnusable` if it is damaged or of a newer format.
        """
        end = await self._disk.call(lambda: Reader(self.directory, mend=True).read(replay))
        if end.segment == 0:
            await self._create(1, 0)
        else:
            self._file = await aiofiles.open(self.path(end.segment), "r+b", buffering=0)
            self._segment, self._salt, self._end, self._frame = end.segment, end.salt, end.offset, end.frame
        self.written, self.recorded = end.read, end.records
        await self._disk.call(_remove_marker, self.directory)

    async def close(self) -> None:
        """Leave the marker of a clean stop, unless writing failed. Fine twice."""
        if self._file is not None:
            if self.broken is None:
                marker = Marker(segment=self._segment, end=self._end)
                try:
                    await self._disk.call(_leave_marker, self.directory, marker)
                except OSError as exc:
                    log.warning("%s: the marker of a clean stop could not be left: %s", self.directory, exc.strerror)
            await self._file.close()
            self._file = None
        await self._disk.close()

    @property
    def segment(self) -> int:
        """The number of the segment that is written to."""
        return self._segment

    @property
    def frame(self) -> int:
        """The number of the last frame."""
        return self._frame

    async def remove(self, paths: Sequence[Path]) -> None:
        """Remove files that are not needed any more. What cannot be removed stays, and is tried again at the next start."""
        await self._disk.call(_remove, paths)

    def _descriptor(self) -> int:
        assert self._file is not None
        return self._file.fileno()

    def path(self, number: int) -> Path:
        """The file of a segment."""
        return self.directory / segment_name(number)


def _is_near(run: list[int], place: int) -> bool:
    """Whether a payload is read together with those of a run, which lie before it."""
    segment, begin, _ = frames.where(run[0])
    _, last, length = frames.where(run[-1])
    its_segment, offset, size = frames.where(place)
    return its_segment == segment and offset - (last + length) <= READ_OVER and offset + size - begin <= READ_AT_ONCE


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


def _leave_marker(directory: Path, marker: Marker) -> None:
    path = directory / MARKER
    with path.open("wb") as file:
        file.write(msgspec.json.encode(marker))
        file.flush()
        os.fsync(file.fileno())
    sync_directory(directory)


def _remove_marker(directory: Path) -> None:
    (directory / MARKER).unlink(missing_ok=True)
    sync_directory(directory)

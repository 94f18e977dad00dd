"""Reading a journal: the last checkpoint, then every frame behind it in order; a torn last one is cut off, damage anywhere else is refused.

Segments from before the checkpoint hold payloads only. Nothing here knows what a job is.
"""

import logging
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, NamedTuple, NoReturn

import msgspec

from composerd.errors import StorageUnusable
from composerd_fs.journal import frames
from composerd_fs.journal.entries import Archived, Begun, Complete, Kept, Record
from composerd_fs.journal.frames import FRAME_HEADER, FRAME_MAGIC, SEGMENT_HEADER, FrameHeader, SegmentHeader
from composerd_fs.journal.io import sync_directory

log = logging.getLogger(__name__)

MARKER = "CLEAN"
"""The file that a clean stop leaves."""

_decode = msgspec.msgpack.Decoder(list[Record]).decode


class Marker(msgspec.Struct):
    """Where a journal that was closed cleanly ends."""

    segment: int
    end: int


class End(NamedTuple):
    """Where the journal goes on. Segment 0: there is none yet."""

    segment: int
    salt: bytes
    offset: int
    frame: int
    read: int = 0
    """Bytes of frames behind the checkpoint."""
    records: int = 0
    """Records in them."""


class Damage(Exception):  # caught here, never raised to others
    """Something does not read at this offset."""

    def __init__(self, offset: int, what: str) -> None:
        super().__init__(what)
        self.offset = offset


class Reader:
    """Reads one directory's journal. Blocking: called in a thread. Changes nothing unless it is to `mend` a torn end."""

    def __init__(self, directory: Path, *, mend: bool) -> None:
        self._directory = directory
        self._mend = mend
        self._frame = 0
        self._read = 0
        self._records = 0

    def read(self, replay: Callable[[int, list[Record]], None]) -> End:
        """Give every frame's base and records to `replay`; where the journal goes on. Raises `StorageUnusable`."""
        numbers = self.segments()
        marker = self._marker()
        checkpoint = max(self.checkpoints(), default=0)
        end = End(0, b"", 0, 0)
        if checkpoint:
            self._checkpoint(checkpoint, replay)
            end = End(checkpoint - 1, b"", 0, 0)
        for number in numbers:
            if number < checkpoint:
                continue
            if number != end.segment + 1:
                self._refuse(segment_name(end.segment + 1), 0, "the segment is missing")
            end = self._segment(number, number == numbers[-1], marker, replay) or end
        if checkpoint > end.segment:
            self._refuse(segment_name(checkpoint), 0, "the segment is missing")
        if marker is not None and (marker.segment, marker.end) != (end.segment, end.offset):
            self._refuse(segment_name(marker.segment), marker.end, "the journal does not end where it was closed")
        return end

    def segments(self) -> list[int]:
        """The numbers of the segments that there are."""
        return numbers_of(self._directory, "log")

    def checkpoints(self) -> list[int]:
        """The numbers of the checkpoints that there are; the last one counts."""
        return numbers_of(self._directory, "checkpoint")

    def verify(self, number: int) -> str | None:
        """Read a segment from before the checkpoint, of which only payloads are needed; what is wrong with it."""
        path = self._directory / segment_name(number)
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = frames.unpack_segment_header(file.read(SEGMENT_HEADER))
            if head is None or head.number != number:
                return f"{path} at byte 0: the header does not read"
            offset = SEGMENT_HEADER
            try:
                while offset < size:
                    frame = self._frame_header(file, offset, size, head.salt)
                    self._body(file, frame, offset)
                    offset += frame.size
            except Damage as damage:
                return f"{path} at byte {damage.offset}: {damage}"
        return None

    def _checkpoint(self, number: int, replay: Callable[[int, list[Record]], None]) -> None:
        path = self._directory / checkpoint_name(number)
        jobs = 0
        complete: Complete | None = None
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = self._header(file.read(SEGMENT_HEADER), path, number, frames.CHECKPOINT)
            offset = SEGMENT_HEADER
            while offset < size:
                try:
                    found = self._frame_header(file, offset, size, head.salt)
                    taken = self._body(file, found, offset)
                except Damage as damage:
                    self._refuse(path.name, damage.offset, str(damage))
                if offset == SEGMENT_HEADER and taken and isinstance(taken[0], Begun):
                    self._frame = taken[0].frame
                complete = taken[-1] if taken and isinstance(taken[-1], Complete) else None
                jobs += sum(1 if isinstance(one, Kept) else _packed(one) for one in taken)
                replay(0, taken)
                offset += found.size
        if complete is None or complete.jobs != jobs:
            self._refuse(path.name, offset, "the checkpoint is not whole")

    def _header(self, data: bytes, path: Path, number: int, kind: int) -> SegmentHeader:
        head = frames.unpack_segment_header(data)
        if head is None:
            self._refuse(path.name, 0, "the header does not read")
        if head.version > frames.VERSION:
            raise StorageUnusable(
                f"{path} has format version {head.version}; this composerd reads up to {frames.VERSION}: use a newer one"
            )
        if (head.number, head.kind) != (number, kind):
            self._refuse(
                path.name, 0, f"the header is that of {'a checkpoint' if head.kind else 'segment'} {head.number}"
            )
        return head

    def _marker(self) -> Marker | None:
        path = self._directory / MARKER
        if not path.exists():
            return None
        try:
            return msgspec.json.decode(path.read_bytes(), type=Marker)
        except msgspec.DecodeError:
            self._refuse(MARKER, 0, "the marker of a clean stop does not read")

    def _segment(
        self, number: int, last: bool, marker: Marker | None, replay: Callable[[int, list[Record]], None]
    ) -> End | None:
        path = self._directory / segment_name(number)
        may_be_torn = last and marker is None
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(SEGMENT_HEADER)
            if may_be_torn and size <= SEGMENT_HEADER and frames.unpack_segment_header(start) is None:
                self._cut(path, 0, "its header was not written whole")
                return None
            head = self._header(start, path, number, frames.JOURNAL)
            offset = SEGMENT_HEADER
            try:
                while offset < size:
                    offset += self._read_frame(file, offset, size, number, head.salt, replay)
            except Damage as damage:
                if not may_be_torn or _goes_on(file, damage.offset, head.salt):
                    self._refuse(path.name, damage.offset, str(damage))
                self._cut(path, damage.offset, str(damage))
                offset = damage.offset
        self._read += offset - SEGMENT_HEADER
        return End(number, head.salt, offset, self._frame, self._read, self._records)

    def _read_frame(
        self,
        file: IO[bytes],
        offset: int,
        size: int,
        segment: int,
        salt: bytes,
        replay: Callable[[int, list[Record]], None],
    ) -> int:
        head = self._frame_header(file, offset, size, salt)
        if head.seq != self._frame + 1:
            raise Damage(offset, f"frame {head.seq} stands where {self._frame + 1} should")
        records = self._body(file, head, offset)
        self._frame = head.seq
        self._records += len(records)
        replay(frames.base(segment, offset + FRAME_HEADER), records)
        return head.size

    def _frame_header(self, file: IO[bytes], offset: int, size: int, salt: bytes) -> FrameHeader:
        head = frames.unpack_frame_header(file.read(FRAME_HEADER), salt)
        if head is None:
            raise Damage(offset, "the header of the frame does not read")
        if offset + head.size > size:
            raise Damage(offset, "the frame is not whole")
        return head

    def _body(self, file: IO[bytes], head: FrameHeader, offset: int) -> list[Record]:
        body = file.read(head.payloads + head.records)
        if zlib.crc32(body) != head.crc:
            raise Damage(offset, "the frame's content does not match its checksum")
        try:
            return _decode(memoryview(body)[head.payloads :])
        except msgspec.DecodeError as exc:
            raise Damage(offset, f"the frame's records do not decode: {exc}") from exc

    def _refuse(self, name: str, offset: int, what: str) -> NoReturn:
        path = self._directory / name
        raise StorageUnusable(
            f"the journal is damaged: {path} at byte {offset}: {what}; restore it from a backup",
            file=str(path),
            offset=offset,
        )

    def _cut(self, path: Path, offset: int, why: str) -> None:
        if not self._mend:
            return
        size = path.stat().st_size
        log.warning(
            "%s: %d bytes from byte %d on were cut off: %s; a crash interrupted a write that nobody was told of",
            path,
            size - offset,
            offset,
            why,
        )
        if offset == 0:
            path.unlink()
        else:
            with path.open("r+b") as file:
                file.truncate(offset)
                os.fsync(file.fileno())
        sync_directory(path.parent)


def _packed(record: Record) -> int:
    return len(record.jobs) if isinstance(record, Archived) else 0


def segment_name(number: int) -> str:
    """The file of a segment."""
    return f"{number:08}.log"


def checkpoint_name(number: int) -> str:
    """The file of a checkpoint: the state before this segment."""
    return f"{number:08}.checkpoint"


def numbers_of(directory: Path, suffix: str) -> list[int]:
    """The numbers of the files with a suffix."""
    return sorted(int(path.stem) for path in directory.glob(f"*.{suffix}") if path.stem.isdigit())


def _goes_on(file: IO[bytes], offset: int, salt: bytes) -> bool:
    """Whether there is a frame behind a place that does not read: then it is damage in the middle, not the end of a crash."""
    file.seek(offset + 1)
    rest = file.read()
    at = rest.find(FRAME_MAGIC)
    while at >= 0:
        if frames.unpack_frame_header(rest[at : at + FRAME_HEADER], salt) is not None:
            return True
        at = rest.find(FRAME_MAGIC, at + 1)
    return False

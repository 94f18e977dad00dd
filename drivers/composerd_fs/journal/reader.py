"""Reads a journal: the last checkpoint, then every frame after it, in order.

A start cuts off a last frame that a crash has torn; whoever only looks stops before it, because a server may be writing
it. Damage anywhere else is refused. Segments from before the checkpoint have only payloads and are not read. Nothing
here knows what a job is.
"""

import logging
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, NamedTuple, NoReturn, TypeAlias

import msgspec

from composerd.errors import StorageUnusable
from composerd.file_errors import is_full
from composerd_fs.journal import frames
from composerd_fs.journal.entries import ArchivedEntry, BegunEntry, CompleteEntry, Entry, KeptEntry
from composerd_fs.journal.files import JournalFiles
from composerd_fs.journal.frames import FRAME_HEADER, FRAME_MAGIC, SEGMENT_HEADER, FrameHeader, SegmentHeader
from composerd_fs.journal.layout import ADVICE, checkpoint_name, segment_name
from composerd_fs.journal.renewal import renew

log = logging.getLogger(__name__)

_decode = msgspec.msgpack.Decoder(list[Entry]).decode

Replay: TypeAlias = Callable[[int, list[Entry]], None]
"""Takes the base of a frame's payloads (see `frames`) and the frame's entries."""


class End(NamedTuple):
    """End of a journal, where it is continued. Segment 0 means that there is no segment yet."""

    segment: int
    salt: bytes
    offset: int
    frame: int
    bytes_read: int = 0
    """Bytes of frames after the checkpoint."""
    entries: int = 0
    """The number of entries in them."""


class Damage(Exception):  # caught here, never raised to others
    """The bytes at this offset are damaged."""

    def __init__(self, offset: int, what: str) -> None:
        super().__init__(what)
        self.offset = offset


class Reader:
    """Reads the journal in these files. It blocks, and is called in a thread.

    `repair` is for the process that has locked the directory: it then also makes good what a crash has left, writes the
    last segment again, and cuts off a torn end. Otherwise nothing is changed.
    """

    def __init__(self, files: JournalFiles, *, repair: bool) -> None:
        self.not_checked: list[str] = []
        """Sentences about the end of the journal, if it was not read or cannot be judged."""
        self._files = files
        self._directory = files.directory
        self._repair = repair
        self._frame = 0
        self._bytes_read = 0
        self._entries = 0

    def read(self, replay: Replay) -> End:
        """Pass the base and the entries of every frame to `replay`, and return where the journal ends.

        Raises `StorageUnusable` if it is damaged or of a newer format.
        """
        files = self._files
        checkpoint, marker, numbers = files.checkpoint, files.marker, files.segments
        if self._repair and marker is None and numbers:
            renew(self._directory, segment_name(numbers[-1]))
        if files.damaged_marker is not None:
            self._note_damaged(files.damaged_marker)
        end = End(0, b"", 0, 0)
        if checkpoint:
            self._checkpoint(checkpoint, replay)
            end = End(checkpoint - 1, b"", 0, 0)
        for number in files.read:
            if number != end.segment + 1:
                self._refuse(segment_name(end.segment + 1), 0, "the segment is missing")
            end = self._segment(number, may_be_torn=number == numbers[-1] and marker is None, replay=replay) or end
        if checkpoint > end.segment:
            self._refuse(segment_name(checkpoint), 0, "the segment is missing")
        if marker is not None and (marker.segment, marker.end) != (end.segment, end.offset):
            self._refuse(segment_name(marker.segment), marker.end, "the journal does not end where it was closed")
        return end

    def _note_damaged(self, marker: Path) -> None:
        if self._repair:
            log.warning("%s: the marker of a clean stop is damaged; starting as after a crash", marker)
        else:
            self.not_checked.append(f"the end of the journal: the marker of a clean stop, {marker}, is damaged")

    def verify_old_segments(self) -> list[str]:
        """Read the segments from before the checkpoint, which have only payloads, and return what is damaged.

        One that is not there any more was removed by a server since the files were looked at.
        """
        return [problem for problem in map(self._verify, self._files.old) if problem is not None]

    def _verify(self, number: int) -> str | None:
        path = self._directory.path / segment_name(number)
        try:
            with self._files.opened(path.name) as (file, size):
                head = frames.unpack_segment_header(file.read(SEGMENT_HEADER))
                if head is None or head.number != number:
                    return f"{path} at byte 0: the header is damaged"
                offset = SEGMENT_HEADER
                while offset < size:
                    frame = self._frame_header(file, offset, size, head.seed)
                    self._body(file, frame, offset)
                    offset += frame.size
        except FileNotFoundError:
            return None
        except Damage as damage:
            return f"{path} at byte {damage.offset}: {damage}"
        return None

    def _checkpoint(self, number: int, replay: Replay) -> None:
        name = checkpoint_name(number)
        jobs = 0
        complete: CompleteEntry | None = None
        with self._files.opened(name) as (file, size):
            head = self._header(file.read(SEGMENT_HEADER), name, number, frames.CHECKPOINT)
            offset = SEGMENT_HEADER
            while offset < size:
                try:
                    found = self._frame_header(file, offset, size, head.seed)
                    entries = self._body(file, found, offset)
                except Damage as damage:
                    self._refuse(name, damage.offset, str(damage))
                if offset == SEGMENT_HEADER and entries and isinstance(entries[0], BegunEntry):
                    self._frame = entries[0].frame
                complete = entries[-1] if entries and isinstance(entries[-1], CompleteEntry) else None
                jobs += sum(map(_jobs_in, entries))
                replay(0, entries)
                offset += found.size
        if complete is None or complete.jobs != jobs:
            self._refuse(name, offset, "the checkpoint is not complete")

    def _header(self, data: bytes, name: str, number: int, kind: int) -> SegmentHeader:
        head = frames.unpack_segment_header(data)
        if head is None:
            self._refuse(name, 0, "the header is damaged")
        if head.version > frames.VERSION:
            raise StorageUnusable(newer_format(self._directory.path / name, head.version))
        if (head.number, head.kind) != (number, kind):
            owner = "checkpoint" if head.kind else "segment"
            self._refuse(name, 0, f"the header is that of {owner} {head.number}")
        return head

    def _segment(self, number: int, *, may_be_torn: bool, replay: Replay) -> End | None:
        name = segment_name(number)
        with self._files.opened(name) as (file, size):
            start = file.read(SEGMENT_HEADER)
            if may_be_torn and size <= SEGMENT_HEADER and frames.unpack_segment_header(start) is None:
                self._cut(name, 0, size, "its header is not complete")
                return None
            head = self._header(start, name, number, frames.JOURNAL)
            offset = SEGMENT_HEADER
            try:
                while offset < size:
                    offset += self._read_frame(file, offset, size, head, replay)
            except Damage as damage:
                if not may_be_torn or frame_after(file, damage.offset, size, head.seed) is not None:
                    self._refuse(name, damage.offset, str(damage))
                self._cut(name, damage.offset, size, str(damage))
                offset = damage.offset
        self._bytes_read += offset - SEGMENT_HEADER
        return End(number, head.salt, offset, self._frame, self._bytes_read, self._entries)

    def _read_frame(self, file: IO[bytes], offset: int, size: int, segment: SegmentHeader, replay: Replay) -> int:
        """Replay the frame at an offset, and return its length."""
        head = self._frame_header(file, offset, size, segment.seed)
        if head.number != self._frame + 1:
            raise Damage(offset, f"frame {head.number} stands where frame {self._frame + 1} should")
        entries = self._body(file, head, offset)
        self._frame = head.number
        self._entries += len(entries)
        replay(frames.base(segment.number, offset + FRAME_HEADER), entries)
        return head.size

    def _frame_header(self, file: IO[bytes], offset: int, size: int, seed: int) -> FrameHeader:
        head = frames.unpack_frame_header(file.read(FRAME_HEADER), seed)
        if head is None:
            raise Damage(offset, "the header of the frame is damaged")
        if offset + head.size > size:
            raise Damage(offset, "the frame is not complete")
        return head

    def _body(self, file: IO[bytes], head: FrameHeader, offset: int) -> list[Entry]:
        body = file.read(head.payloads + head.entries)
        if zlib.crc32(body) != head.crc:
            raise Damage(offset, "the frame's content does not match its checksum")
        try:
            return _decode(memoryview(body)[head.payloads :])
        except msgspec.DecodeError as exc:
            raise Damage(offset, f"the frame's entries cannot be decoded: {exc}") from exc

    def _refuse(self, name: str, offset: int, what: str) -> NoReturn:
        path = self._directory.path / name
        raise StorageUnusable(
            f"the journal is damaged: {path} at byte {offset}: {what}; {ADVICE}",
            file=str(path),
            offset=offset,
        )

    def _cut(self, name: str, offset: int, size: int, why: str) -> None:
        if not self._repair:
            self.not_checked.append(
                f"the last {size - offset} bytes of {self._directory.path / name}, from byte {offset} on: they are not "
                "complete, as while a server writes them, and nothing in them was acknowledged"
            )
            return
        log.warning(
            "%s: cut off at byte %d of %d: %s; a crash interrupted a write that was not acknowledged",
            self._directory.path / name,
            offset,
            size,
            why,
        )
        if offset == 0:
            self._directory.remove(name)
        else:
            with self._directory.opened(name, os.O_RDWR) as descriptor:
                try:
                    os.ftruncate(descriptor, offset)
                    os.fsync(descriptor)
                except OSError as exc:
                    if not is_full(exc):  # a quota may refuse it: the next write overwrites what is there
                        raise
        self._directory.sync()


def newer_format(path: Path, version: int) -> str:
    """Return the sentence about a file whose format this composerd does not know."""
    return (
        f"{path} has format version {version}, but this composerd reads versions up to {frames.VERSION}: "
        "use a newer composerd"
    )


def ignore(_base: int, _entries: list[Entry]) -> None:
    """Replay nothing."""


def _jobs_in(entry: Entry) -> int:
    return len(entry.jobs) if isinstance(entry, ArchivedEntry) else isinstance(entry, KeptEntry)


def frame_after(file: IO[bytes], offset: int, size: int, seed: int) -> int | None:
    """Return where the first frame after an offset begins, or None; a crash alone leaves none after damage."""
    file.seek(offset + 1)
    rest = file.read(size - offset - 1)
    at = rest.find(FRAME_MAGIC)
    while at >= 0:
        if frames.unpack_frame_header(rest[at : at + FRAME_HEADER], seed) is not None:
            return offset + 1 + at
        at = rest.find(FRAME_MAGIC, at + 1)
    return None

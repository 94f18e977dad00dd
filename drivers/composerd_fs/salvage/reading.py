"""Reads whatever is whole in a damaged journal, and names what is not.

After damage it goes on with the next frame whose header has a valid checksum. No payload can look like one, because the
checksum depends on the random salt of the file.
"""

import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from composerd.errors import StorageUnusable
from composerd.file_errors import translated
from composerd_fs.journal import frames
from composerd_fs.journal.entries import BegunEntry, CompleteEntry, Entry
from composerd_fs.journal.files import JournalFiles
from composerd_fs.journal.frames import FRAME_HEADER, SEGMENT_HEADER, FrameHeader
from composerd_fs.journal.layout import checkpoint_name, segment_name
from composerd_fs.journal.reader import frame_after, newer_format
from composerd_fs.salvage import proof


class Frame(NamedTuple):
    """A frame whose entries are whole. A payload in it may be damaged."""

    base: int
    entries: list[Entry]


class Gap(NamedTuple):
    """One or several frames are lost."""

    unproven: list[Entry]
    """Their entries, as far as they can be decoded. Any of them may be wrong."""


class DamagedJournal:
    """The journal in these files. It blocks, and is called in a thread."""

    def __init__(self, files: JournalFiles) -> None:
        self.damage: list[str] = []
        """A sentence for each damage that was found so far, with file and offset."""
        self.incomplete: str | None = None
        """A sentence about the end of the journal, if a crash has interrupted the last write."""
        self._files = files
        self._next: int | None = 1
        """The number of the next frame; None if it is not known."""

    def checkpoint(self) -> Iterator[Frame | Gap]:
        """Yield the frames of the checkpoint that counts, if there is one."""
        number = self._files.checkpoint
        if not number:
            return
        self._next = 1
        begun, complete = None, False
        for found in self._frames(checkpoint_name(number), number, frames.CHECKPOINT, may_be_torn=False):
            for entry in found.entries if isinstance(found, Frame) else ():
                begun = entry.frame if isinstance(entry, BegunEntry) else begun
                complete = complete or isinstance(entry, CompleteEntry)
            yield found
        self._next = None if begun is None else begun + 1
        if not complete:
            self._note(checkpoint_name(number), None, "the checkpoint is not complete")
            yield Gap([])

    def segments(self) -> Iterator[Frame | Gap]:
        """Yield the frames after the checkpoint."""
        files, marker = self._files, self._files.marker
        numbers = files.read
        wanted = files.checkpoint or 1
        for number in numbers:
            if number != wanted:
                yield self._missing(wanted, number)
            may_be_torn = number == numbers[-1] and marker is None
            yield from self._frames(segment_name(number), number, frames.JOURNAL, may_be_torn=may_be_torn)
            wanted = number + 1
        last = max(files.checkpoint, 0 if marker is None else marker.segment)
        if wanted <= last:
            yield self._missing(wanted, last + 1)

    def _missing(self, first: int, end: int) -> Gap:
        for number in range(first, end):
            self._note(segment_name(number), None, "the segment is missing")
        self._next = None
        return Gap([])

    def _frames(self, name: str, number: int, kind: int, *, may_be_torn: bool) -> Iterator[Frame | Gap]:
        try:
            with self._files.opened(name) as (file, size):
                yield from self._frames_in(file, size, name, number, kind, may_be_torn=may_be_torn)
        except OSError as exc:
            raise translated(exc, f"{self._files.directory.path / name} cannot be read") from exc

    def _frames_in(
        self, file: BinaryIO, size: int, name: str, number: int, kind: int, *, may_be_torn: bool
    ) -> Iterator[Frame | Gap]:
        marker = self._files.marker
        end = marker.end if marker is not None and (kind, number) == (frames.JOURNAL, marker.segment) else size
        seed = self._seed(file, size, name, number, kind, may_be_torn=may_be_torn)
        offset = SEGMENT_HEADER if seed is not None else size
        while seed is not None and offset < size:
            header, body = _frame_at(file, offset, size, seed)
            readable = header is not None and body is not None and _is_readable(header, body, kind)
            follows = offset + header.size if readable and header else frame_after(file, offset, size, seed)
            if not readable and follows is None and may_be_torn:
                self.incomplete = (
                    f"the last {size - offset} bytes of {self._files.directory.path / name}, from byte {offset} on: a "
                    "crash interrupted a write that was not acknowledged"
                )
                return
            stop = size if follows is None else follows
            if header is None or body is None:
                header, body = self._repaired(file, offset, stop, seed)
                what = "the header of the frame is damaged" if follows is not None else "the frame is not complete"
                self._note(name, offset, what if header is None else f"{what}, and was made good")
            yield from self._content(header, body, frames.base(number, offset + FRAME_HEADER), name, offset, kind)
            offset = stop
        if seed is None or size < end:
            if seed is not None:
                self._note(name, size, f"the segment is cut off: it had {end} bytes")
            self._next = None
            yield Gap([])

    def _content(
        self, header: FrameHeader | None, body: bytes | None, base: int, name: str, offset: int, kind: int
    ) -> Iterator[Frame | Gap]:
        """Yield the frame at an offset, or a gap if it is not whole; before it a gap if frames before it are lost."""
        if header is None or body is None:
            self._next = None if self._next is None else self._next + 1
            yield Gap([])
            return
        if self._next is not None and header.number < self._next:
            self._note(name, offset, f"frame {header.number} is there a second time")
            return
        if self._next is not None and header.number > self._next:
            self._note(name, offset, f"frame {header.number} stands where frame {self._next} should")
            yield Gap([])
        self._next = header.number + 1
        if zlib.crc32(body) == header.crc:
            found = proof.unproven_entries(header, body)  # proven by the checksum
        elif kind == frames.JOURNAL and (found := proof.proven_entries(header, body)) is not None:
            self._note(name, offset, "a payload in the frame is damaged")
        else:
            self._note(name, offset, "the frame's content does not match its checksum")
            yield Gap(proof.unproven_entries(header, body) or [])
            return
        if found is None:
            self._note(name, offset, "the frame's entries cannot be decoded")
            yield Gap([])
        else:
            yield Frame(base if kind == frames.JOURNAL else 0, found)

    def _seed(self, file: BinaryIO, size: int, name: str, number: int, kind: int, *, may_be_torn: bool) -> int | None:
        """Return the CRC of the file's salt; None if it cannot be found out."""
        data = file.read(SEGMENT_HEADER)
        head = frames.unpack_segment_header(data)
        if head is not None:
            if head.version > frames.VERSION:
                raise StorageUnusable(newer_format(self._files.directory.path / name, head.version))
            if (head.number, head.kind) != (number, kind):
                self._note(name, 0, "the header is that of another file")
                return None
            return head.seed
        if may_be_torn and size <= SEGMENT_HEADER:
            return zlib.crc32(data)  # an empty segment that a crash has left
        header = file.read(FRAME_HEADER)
        seed = proof.seed_of(header, file.read()) if len(header) == FRAME_HEADER else None
        self._note(name, 0, "the header is damaged" if seed is None else "the header is damaged, and was made good")
        return seed

    def _repaired(
        self, file: BinaryIO, offset: int, stop: int, seed: int
    ) -> tuple[FrameHeader, bytes] | tuple[None, None]:
        file.seek(offset)
        data = file.read(stop - offset)
        if len(data) < FRAME_HEADER:
            return None, None
        header, body = data[:FRAME_HEADER], data[FRAME_HEADER:]
        found = proof.repaired_header(header, body, seed, self._next)
        return (None, None) if found is None else (found, body)

    def _note(self, name: str, offset: int | None, what: str) -> None:
        at = "" if offset is None else f" at byte {offset}"
        self.damage.append(f"{self._files.directory.path / name}{at}: {what}")


def _is_readable(header: FrameHeader, body: bytes, kind: int) -> bool:
    """Return True if the entries of a frame are whole."""
    return zlib.crc32(body) == header.crc or (kind == frames.JOURNAL and proof.proven_entries(header, body) is not None)


def _frame_at(file: BinaryIO, offset: int, size: int, seed: int) -> tuple[FrameHeader | None, bytes | None]:
    """Return the header and the content of the frame at an offset; None for what is damaged or not complete."""
    file.seek(offset)
    header = frames.unpack_frame_header(file.read(FRAME_HEADER), seed)
    if header is None or offset + header.size > size:
        return header, None
    return header, file.read(header.payloads + header.entries)

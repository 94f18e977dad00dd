"""The journal while it is open: segments of frames in a directory, one frame for each flush.

It does not know what a job is; `reader` reads a journal again.

A frame is on stable storage before the next one is written. So a crash can only tear the last frame, whose writes were
not acknowledged. A clean stop leaves a marker that says where the journal ends.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from typing import NoReturn, cast

import msgspec

from composerd.directory import Directory
from composerd.errors import OutcomeUnknown, ResourcesExhausted, StorageFull, Unavailable, WritesStopped
from composerd.file_errors import is_exhausted, is_full, translated
from composerd_fs.journal import frames, layout
from composerd_fs.journal.entries import Entry, JournalEntry, Payload
from composerd_fs.journal.files import JournalFiles
from composerd_fs.journal.frames import FRAME_HEADER, SEGMENT_HEADER
from composerd_fs.journal.io import DiskThread, write_all
from composerd_fs.journal.lock import DirectoryLock
from composerd_fs.journal.payloads import read_part, read_payloads
from composerd_fs.journal.place import reason, why_lost
from composerd_fs.journal.reader import Reader
from composerd_fs.journal.reserve import FULL, Purpose, Reserve

log = logging.getLogger(__name__)

SEGMENT_SIZE = 16 * 1024 * 1024
"""Size in bytes at which a segment gets no more frames."""

INLINE = 48
"""Length in bytes up to which a payload is in its entry, because its location would take more space."""

_NOT_WRITTEN = "the journal could not be written"
_LOST = "the journal was removed, moved or taken by another process"

_encode = msgspec.msgpack.Encoder(uuid_format="bytes").encode


class Journal:
    """One directory of segments.

    `begin`, `payload` and `record` put a frame together, and `flush` writes it. After a failed write, except for lack
    of space, it accepts no more frames until it is opened again.
    """

    def __init__(self, directory: Directory, lock: DirectoryLock) -> None:
        self.directory = directory
        self.broken: str | None = None
        """The reason why nothing is written any more; None while the journal works."""
        self.written_bytes = 0
        """Bytes of frames that were written, or read at the start."""
        self.written_entries = 0
        """The number of entries in them."""
        self.full = False
        """True from when something has found no room until a frame that may not use the reserve was written."""
        self.reserve = Reserve(directory)
        self.segment = 0
        """The number of the segment that is written to."""
        self.frame = 0
        """The number of the last frame."""
        self._lock = lock
        self._segment_size = SEGMENT_SIZE
        self._disk = DiskThread()
        self._open = False
        """True while frames are accepted."""
        self._descriptor = -1
        """The file of the segment that is written to; negative if there is none."""
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
            with contextlib.suppress(StorageFull, ResourcesExhausted):  # without room the segment grows on
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
            ResourcesExhausted: There are no descriptors or no memory. Nothing was written, and it may work later.
            OutcomeUnknown: The frame may be on the disk. Nothing more is written until the server is restarted.
            Unavailable: Nothing was written, and nothing will be until the server is restarted.
        """
        frame = b""
        if self._entries:
            self._check_open()  # again: a rotation may have taken until after the end
            if self.broken is not None:
                raise self._stopped()
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
                self.full = True
                raise self.reserve.refusal(len(frame))
        written = False
        while not written:
            try:
                write_all(self._descriptor, frame, self._end)
                written = True
            except OSError as exc:
                self._refuse(exc)
                self.full = True
                if not self.reserve.give(purpose, len(frame), self._descriptor, self._end):
                    raise self.reserve.refusal(len(frame)) from exc
        try:
            os.fdatasync(self._descriptor)
            # Only now: a server that took the directory before this moment has not read the frame, one after it has.
            why = self._why_lost()
        except OSError as exc:
            # The kernel may have dropped what it could not write: a second fsync that succeeds would prove nothing.
            with contextlib.suppress(OSError):  # a start does not rely on it
                os.ftruncate(self._descriptor, self._end)
                os.fdatasync(self._descriptor)
                if is_exhausted(exc):  # the frame is gone, and the next one is written anew
                    raise translated(exc, _NOT_WRITTEN) from exc
            self._break("the journal could not be brought to the disk", reason(exc), OutcomeUnknown)
        if why is not None:
            self._break(_LOST, why, OutcomeUnknown, "put it back")
        self._end += len(frame)
        if self._ragged:
            self._cut_back(OutcomeUnknown)
        if purpose is Purpose.STORE:
            self.full = False
        self.frame += 1
        self.written_bytes += len(frame)

    def _check_place(self) -> None:
        """Break the journal if its files were lost. Raises `ResourcesExhausted` if that cannot be found out now."""
        try:
            why = self._why_lost()
        except OSError as exc:
            raise translated(exc, _NOT_WRITTEN) from exc
        if why is not None:
            self._break(_LOST, why, advice="put it back")

    def _check_room(self) -> None:
        try:
            self.reserve.check_room(refused=self.full)
        except OSError as exc:
            raise translated(exc, _NOT_WRITTEN) from exc

    def _why_lost(self) -> str | None:
        return why_lost(self._descriptor, self.directory, self._lock)

    async def ping(self) -> None:
        """Return if the journal accepts writes. Raises `Unavailable`, or `StorageFull` if a small one finds no room."""
        self._check_open()
        if self.broken is not None:
            raise self._stopped()
        await self._disk.call(self._check_place)
        await self._disk.call(self._check_room)

    def _check_open(self) -> None:
        """Raise `Unavailable` if the journal is not open: another file may have got the number of its descriptor."""
        if not self._open:
            raise Unavailable("the storage is not open")

    def _refuse(self, error: OSError) -> None:
        """Cut off the remains of a failed write. Any failure except a lack of something breaks the journal."""
        self._cut_back()
        if is_exhausted(error):
            raise translated(error, _NOT_WRITTEN) from error
        if not is_full(error):
            self._break(_NOT_WRITTEN, reason(error))

    def _cut_back(self, error: type[Unavailable] = WritesStopped) -> None:
        """Cut off whatever is behind the end. If that does not work for now, the next write overwrites it."""
        try:
            os.ftruncate(self._descriptor, self._end)
            self._ragged = False
        except OSError as exc:
            if not (is_full(exc) or is_exhausted(exc)):
                self._break("the journal could not be cut back after a failed write", reason(exc), error)
            self._ragged = True

    def _break(
        self, what: str, why: str, error: type[Unavailable] = WritesStopped, advice: str = "repair the disk"
    ) -> NoReturn:
        self.broken = f"{what} ({why}): no more writes are accepted; {advice}, then restart composerd"
        log.critical("%s: %s", self.directory.path, self.broken)
        raise self._stopped(error)

    def _stopped(self, kind: type[Unavailable] = WritesStopped) -> Unavailable:
        """Return the error of a write to a broken journal."""
        error = kind(self.broken or "")
        error.logged = True
        return error

    async def free_some(self, size: int, purpose: Purpose = Purpose.END) -> bool:
        """Remove a piece of the reserve, and return False if it does not have this many bytes for this purpose."""
        return await self._disk.call(self.reserve.free, purpose, size)

    async def fill_reserve(self) -> None:
        """Fill the reserve if the disk was full and has room again."""
        await self._disk.call(self.reserve.refill)

    async def rotate(self) -> None:
        """Let the next frame begin a new segment. Raises like `flush`."""
        if self.broken is not None:
            return  # the flush raises that
        await self._disk.call(self._rotate)

    def _rotate(self) -> None:
        self._check_place()
        if self._ragged or not self.reserve.whole:
            self._cut_back()  # also what is preallocated there
            if self._ragged:
                raise StorageFull(FULL)  # only the last segment may have something behind its last frame
        if self._end == SEGMENT_HEADER:
            return  # the segment is new
        before = self._descriptor
        try:
            self._create(self.segment + 1)
        except OSError as exc:
            with contextlib.suppress(OSError):
                self.directory.remove(layout.segment_name(self.segment + 1))  # it may have got its name
                self.directory.sync()
                if is_full(exc):
                    self.full = True
                    raise StorageFull(FULL) from exc
                if is_exhausted(exc):
                    raise translated(exc, _NOT_WRITTEN) from exc
            self._break("a new segment of the journal could not be created", reason(exc))
        self.directory.close_descriptor(before)

    def _create(self, number: int) -> None:
        salt = os.urandom(frames.SALT_SIZE)
        name = layout.segment_name(number)
        descriptor = self.directory.create_descriptor(name)
        try:
            write_all(descriptor, frames.pack_segment_header(number, salt), 0)
            self.directory.publish_descriptor(descriptor, name)
        except OSError:
            self.directory.close_descriptor(descriptor)
            self.directory.discard(name)
            raise
        self._descriptor = descriptor
        self.segment, self._salt, self._end = number, salt, SEGMENT_HEADER

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

        It blocks, and is called in the journal's thread.
        """
        return read_payloads(self.directory, self.segment, self._descriptor, locations)

    async def read_part(self, location: int, start: int, stop: int) -> bytes:
        """Return a part of the payload at a location. Raises `Unavailable` if it cannot be read."""
        return await self._disk.call(self._read_part, location, start, stop)

    def _read_part(self, location: int, start: int, stop: int) -> bytes:
        return read_part(self.directory, self.segment, self._descriptor, location, start, stop)

    # The start and the end.

    async def open(self, replay: Callable[[int, list[Entry]], None]) -> None:
        """Read the journal, pass the base and the entries of every frame to `replay`, and get ready to write.

        Raises `StorageUnusable` if the journal is damaged or of a newer format.
        """
        await self._disk.call(self._start, replay)
        self._open = True

    def _start(self, replay: Callable[[int, list[Entry]], None]) -> None:
        files = JournalFiles(self.directory)
        files.look()
        end = Reader(files, repair=True).read(replay)
        if end.segment == 0:
            self._create(1)
        else:
            self._descriptor = self.directory.descriptor_of(layout.segment_name(end.segment), os.O_RDWR)
            self.segment, self._salt, self._end = end.segment, end.salt, end.offset
            self._ragged = os.fstat(self._descriptor).st_size > end.offset
        self.frame = end.frame
        self.written_bytes, self.written_entries = end.bytes_read, end.entries
        layout.remove_marker(self.directory)
        self.directory.keep_spare()
        self.reserve.fill()

    async def close(self) -> None:
        """Leave the marker of a clean stop, unless writing has failed. Calling it again does nothing."""
        self._open = False  # at once: nothing is written after the marker
        if self._descriptor >= 0:
            await self._disk.call(self._close)
        await self._disk.close()
        self.directory.close()

    def _close(self) -> None:
        if self.broken is None:
            try:
                if (why := self._why_lost()) is not None:
                    # Another server may have the directory, and the marker would be wrong as soon as that writes.
                    log.warning("%s: left no marker of a clean stop: %s", self.directory.path, why)
                else:
                    self._leave_marker()
            except OSError as exc:
                log.warning("%s: cannot write the marker of a clean stop: %s", self.directory.path, exc.strerror)
        os.close(self._descriptor)
        self._descriptor = -1

    def _leave_marker(self) -> None:
        if self._ragged:
            os.ftruncate(self._descriptor, self._end)
        layout.leave_marker(self.directory, layout.Marker(segment=self.segment, end=self._end))

    async def remove(self, names: Sequence[str]) -> None:
        """Remove files that are not needed any more. A file that cannot be removed is left to the next start.

        Raises `Unavailable` if the directory is not this server's any more.
        """
        await self._disk.call(self._remove, names)

    def _remove(self, names: Sequence[str]) -> None:
        self._check_place()
        for name in names:
            try:
                self.directory.remove(name)
            except OSError as exc:
                log.warning("%s cannot be removed: %s", self.directory.path / name, exc.strerror)

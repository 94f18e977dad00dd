"""The reserve: room that is kept on the disk for the writes that end or remove jobs when the disk is full.

It consists of a few preallocated files, the pieces. When such a write finds no room, a piece is removed, and most of
its room is preallocated behind the end of the segment, where no other program can take it.
"""

import contextlib
import ctypes
import errno
import logging
import os
import time
from enum import IntEnum

from composerd.directory import Directory
from composerd.errors import StorageFull
from composerd.file_errors import is_exhausted, is_full
from composerd_fs.journal.layout import piece_name

log = logging.getLogger(__name__)

PIECES = 4
"""Number of pieces. The last one is only for writes that remove jobs."""

PIECE = 2 * 1024 * 1024
"""Size of a piece in bytes, on a file system that is large enough."""

SHARE = 256
"""A piece takes at most the file system's size divided by this, but at least `SMALLEST`."""

SMALLEST = 64 * 1024
"""Smallest size of a piece in bytes."""

PREALLOCATED = 0.75
"""The part of a piece that is preallocated behind the segment. The rest is for what the file system needs itself."""

LARGEST_RESULT = 64 * 1024
"""Largest size in bytes of results that may use the reserve, all in a call together."""

FULL = "the disk of the journal is full"
"""The text of the error of a write that finds no room."""

_TRY_AGAIN = 0.25
"""Least number of seconds between two attempts to fill the reserve."""

_REMIND_AFTER = 60.0
"""Least number of seconds between two lines in the log about writes that find no room while the reserve is whole."""

_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE

_libc = ctypes.CDLL(None, use_errno=True)


class Purpose(IntEnum):
    """The effect of a write, which decides how much of the reserve it may use."""

    STORE = 0
    """Stores something new, and uses nothing of the reserve."""
    END = 1
    """Ends attempts or jobs, or makes the journal smaller, and uses all pieces but the last."""
    REMOVE = 2
    """Removes jobs, or ends them at an operator's request, and uses the whole reserve."""


class Reserve:
    """The reserve of one journal. Its methods block, and are called in the journal's thread."""

    def __init__(self, directory: Directory) -> None:
        self.whole = True
        """False while the disk is full: pieces are missing, and there is no room to make them again."""
        self._directory = directory
        self._left: list[str] = []
        """The pieces that exist."""
        self._size = 0
        """The size of a piece in bytes."""
        self._last_given = False
        self._filled_at = 0.0
        self._logged_at = float("-inf")

    def fill(self) -> None:
        """Make the pieces that are missing, as far as there is room."""
        before, self.whole = self.whole, True
        self._left = []
        self._filled_at = time.monotonic()
        try:
            self._size = _size_of_a_piece(self._directory)
            for number in range(1, PIECES + 1):
                name = piece_name(number)
                if _make(self._directory, name, self._size):
                    self._left.append(name)
                else:
                    self.whole = False
        except OSError as exc:
            if is_exhausted(exc) and not before:
                self.whole = False  # it is filled again soon
            else:
                log.warning("%s: cannot keep a reserve for a full disk: %s", self._directory.path, exc.strerror)
            return
        if self.whole:
            self._last_given = False
        if before and not self.whole:
            self._warn()
        elif self.whole and not before:
            log.warning("%s: the disk has room again: all writes are accepted", self._directory.path)

    def refill(self) -> None:
        """Fill the reserve if pieces are missing, unless that was tried just before."""
        if not self.whole and time.monotonic() - self._filled_at >= _TRY_AGAIN:
            self.fill()

    def admits(self, purpose: Purpose) -> bool:
        """Return True if a write may be tried: the rest of the reserve must be for its purpose."""
        return self.whole or purpose is Purpose.REMOVE or (purpose is Purpose.END and not self._last_given)

    def give(self, purpose: Purpose, size: int, descriptor: int, end: int) -> bool:
        """Make room behind the end of a file, and return False if there is not enough for a write of this size."""
        if purpose is Purpose.STORE or not self.free(purpose, size):
            return False
        with contextlib.suppress(OSError):  # then the room is free, for other programs too
            _preallocate(descriptor, end, int(self._size * PREALLOCATED))
        return True

    def free(self, purpose: Purpose, size: int) -> bool:
        """Remove a piece, and return False if what is left for this purpose is not enough for this size."""
        pieces = len(self._left) - (purpose is not Purpose.REMOVE)
        if pieces <= 0 or size > pieces * self._size * PREALLOCATED:
            return False
        try:
            self._directory.remove(self._left.pop())
        except OSError:
            return False
        self._last_given = not self._left
        self._filled_at = 0.0  # there may be room by the time of the next write
        if self.whole:
            self.whole = False
            self._warn()
        return True

    def check_room(self, *, refused: bool) -> None:
        """Raise `StorageFull` if a small write finds no room. `refused` is True if the last large one found none."""
        if self.whole and not refused and self._directory.space().free >= SMALLEST:
            return
        self.refill()
        if not (self.whole and self._directory.has_room(SMALLEST)):
            raise StorageFull(FULL)

    def refusal(self, size: int) -> StorageFull:
        """Return the error of a write of this size that finds no room, and log that the disk is full."""
        now = time.monotonic()
        if self.whole and now - self._logged_at >= _REMIND_AFTER:
            self._logged_at = now
            log.warning("%s: the disk is full: there is no room for a write of %d bytes", self._directory.path, size)
        error = StorageFull(FULL)
        error.logged = True
        return error

    def _warn(self) -> None:
        log.warning(
            "%s: the disk is full: only writes that end or remove jobs are accepted until there is room for the "
            "reserve again",
            self._directory.path,
        )


def _size_of_a_piece(directory: Directory) -> int:
    system = directory.file_system()
    return max(min(PIECE, system.f_blocks * system.f_frsize // SHARE), SMALLEST)


def _make(directory: Directory, name: str, size: int) -> bool:
    """Make a piece, unless it exists and has its room: a copy of it may have none. Return False on a full disk."""
    try:
        with directory.opened(name, os.O_RDWR | os.O_CREAT) as descriptor:
            if os.fstat(descriptor).st_blocks * 512 < size:
                _allocate(descriptor, size)
    except OSError as exc:
        if is_exhausted(exc):
            raise  # a piece that cannot be opened is still there
        directory.remove(name)  # a part of a piece would keep room from others
        if is_full(exc):
            return False
        raise
    return True


def _allocate(descriptor: int, size: int) -> None:
    try:
        _preallocate(descriptor, 0, size)
    except OSError as exc:
        if exc.errno != errno.EOPNOTSUPP:
            raise
        os.posix_fallocate(descriptor, 0, size)  # writes to each block, where the file system cannot preallocate


def _preallocate(descriptor: int, offset: int, size: int) -> None:
    """Get room for a part of a file, without making the file longer: copies and readers of it see no difference."""
    if _libc.fallocate(descriptor, _KEEP_SIZE, ctypes.c_int64(offset), ctypes.c_int64(size)) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))

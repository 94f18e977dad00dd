"""Blocking work on files that is right to the last byte: whole writes, whole reads, directories on stable storage. Called in threads."""

import errno
import fcntl
import os
from pathlib import Path

from composerd.errors import StorageUnusable


def write_all(descriptor: int, data: bytes, offset: int) -> None:
    """Write all of it, however the kernel cuts it."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view = view[written:]
        offset += written


def read_exactly(descriptor: int, length: int, offset: int) -> bytes:
    """Read that much. Raises `OSError` where the file ends too early."""
    data = os.pread(descriptor, length, offset)
    while len(data) < length:
        more = os.pread(descriptor, length - len(data), offset + len(data))
        if not more:
            raise OSError(errno.EIO, "the file ends too early")
        data += more
    return data


def sync_directory(directory: Path) -> None:
    """Bring the names in a directory to stable storage."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Make a directory, and those above it, for its owner only; on stable storage. Fine if it is there."""
    if path.is_dir():
        return
    make_directory(path.parent)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        return
    sync_directory(path.parent)


class DirectoryLock:
    """One process holds a directory. The lock goes with the process, however it ends."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "LOCK"
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take it. Raises `StorageUnusable` if somebody else has it."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise StorageUnusable(
                f"{self._path.parent} is in use by another composerd (process {holder}): stop that one, or use another directory"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Let go of it. Fine twice."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

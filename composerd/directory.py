"""A directory that stays the same one, wherever its path leads, and files that appear in it whole or not at all.

All names are looked up from the directory's descriptor. So a directory that is moved, or that another file system is
mounted over, is still the one that is written to, and `is_at_its_path` says so.
"""

import contextlib
import os
from pathlib import Path
from typing import BinaryIO

from composerd.models import DiskSpace


class Directory:
    """One directory, to be opened before it is used. Its methods block, and raise `OSError`.

    A name is that of a file in it, or a path below it.
    """

    def __init__(self, path: Path, unfinished: str = ".tmp") -> None:
        """Take the path, and the suffix of the name of a file while it is being written."""
        self.path = path
        self.unfinished = unfinished
        self._name = str(path)
        self._descriptor = -1
        self._identity = (0, 0)

    def open(self) -> None:
        """Open the directory, which must exist. Do nothing if it is open."""
        if self._descriptor < 0:
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._identity = _identity(os.fstat(self._descriptor))

    def close(self) -> None:
        """Close the directory. Do nothing if it is not open."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def is_at_its_path(self) -> bool:
        """Return False if the path names nothing or another directory: this one was moved, removed or mounted over."""
        try:
            found = os.stat(self._name)  # noqa: PTH116  # for each flush, and a Path takes twice as long
        except (FileNotFoundError, NotADirectoryError):
            return False
        return _identity(found) == self._identity or os.path.samestat(found, os.fstat(self._descriptor))

    def file_system(self) -> os.statvfs_result:
        """Return the sizes of the file system that the directory is on."""
        return os.statvfs(self._descriptor)

    def space(self) -> DiskSpace:
        """Return the space of the file system that the directory is on."""
        found = self.file_system()
        return DiskSpace(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)

    def is_writable(self) -> bool:
        """Return True if files can be created in the directory."""
        return os.access(".", os.W_OK | os.X_OK, dir_fd=self._descriptor)

    # Files.

    def names(self) -> list[str]:
        """Return the names in the directory."""
        return os.listdir(self._descriptor)  # noqa: PTH208  # pathlib knows no descriptors

    def exists(self, name: str) -> bool:
        """Return True if there is a file of this name."""
        try:
            self.size(name)
        except FileNotFoundError:
            return False
        return True

    def size(self, name: str) -> int:
        """Return the size of a file in bytes."""
        return os.stat(name, dir_fd=self._descriptor).st_size

    def descriptor_of(self, name: str, flags: int) -> int:
        """Open a file with flags of `os.open`, and return its descriptor."""
        return os.open(name, flags | os.O_CLOEXEC, 0o600, dir_fd=self._descriptor)

    def reading(self, name: str) -> BinaryIO:
        """Open a file for reading."""
        return os.fdopen(self.descriptor_of(name, os.O_RDONLY), "rb")

    def remove(self, name: str) -> None:
        """Remove a file. Do nothing if there is none."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._descriptor)

    def sync(self, below: str = "") -> None:
        """Bring the names in the directory, or in one below it, to stable storage."""
        if not below:
            os.fsync(self._descriptor)
            return
        descriptor = self.descriptor_of(below, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    # Directories below it.

    def make_directory(self, name: str) -> None:
        """Create a directory, for its owner only, on stable storage. Do nothing if it exists."""
        try:
            os.mkdir(name, 0o700, dir_fd=self._descriptor)
        except FileExistsError:
            return
        self.sync(_parent(name))

    def remove_directory(self, name: str) -> None:
        """Remove a directory, which must be empty."""
        os.rmdir(name, dir_fd=self._descriptor)

    def files_below(self, name: str) -> list[str]:
        """Return the names of all files in a directory and below it. What cannot be read is left out."""
        found: list[str] = []
        with contextlib.suppress(OSError):
            for path, _, files, _ in os.fwalk(name, dir_fd=self._descriptor):
                found += [f"{path}/{file}" for file in files]
        return found

    # Files that appear whole or not at all.

    def create(self, name: str) -> BinaryIO:
        """Begin a file. It gets its name by `publish`; until then its name has the suffix `unfinished`."""
        return os.fdopen(self.descriptor_of(name + self.unfinished, os.O_RDWR | os.O_CREAT | os.O_TRUNC), "w+b")

    def publish(self, file: BinaryIO, name: str) -> None:
        """Bring a file that `create` began to stable storage, and give it its name, in place of an older file."""
        file.flush()
        os.fsync(file.fileno())
        os.rename(name + self.unfinished, name, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
        self.sync(_parent(name))

    def discard(self, name: str) -> None:
        """Remove what `create` began, if there is anything, as far as that is possible."""
        with contextlib.suppress(OSError):
            self.remove(name + self.unfinished)

    def write(self, name: str, data: bytes) -> None:
        """Write a file, and return when it is on stable storage. If it raises, the file is new or as before."""
        try:
            with self.create(name) as file:
                file.write(data)
                self.publish(file, name)
        except OSError:
            self.discard(name)
            raise


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _parent(name: str) -> str:
    return name.rpartition("/")[0]


def make_directory(path: Path) -> None:
    """Create a directory and its parents, for their owner only, on stable storage. Do nothing if it exists."""
    if path.is_dir():
        return
    make_directory(path.parent)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        return
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Bring the names in a directory to stable storage."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

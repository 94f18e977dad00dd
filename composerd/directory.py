"""A directory that stays the same one, wherever its path leads, and files that appear in it whole or not at all.

All names are looked up from the directory's descriptor. So a directory that is moved, or that another file system is
mounted over, is still the one that is written to, and `is_at_its_path` says so.

The directory and its files belong to this process's user, and nobody else can write to them, which every open checks.
No file is opened through a symbolic link. New ones are for their owner only, whatever the umask.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from composerd.file_errors import is_exhausted, is_full
from composerd.free_space import DiskSpace
from composerd.ownership import NotTrusted, check, open_directory
from composerd.stable_storage import sync_directory

_FILE_MODE = 0o600
_DIRECTORY_MODE = 0o700
_NO_FILES_WITHOUT_NAME = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL})

_NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS)
"""Errors of a link between two file systems, and of one where there are none, or no more of this file."""

_COPIED_AT_ONCE = 1024 * 1024


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
        self._spare = -1
        """A descriptor that is closed to open a file when no other is left; negative if it is not there."""
        self._keeps_spare = False
        self._spare_lock = Lock()

    def open(self) -> None:
        """Open the directory, which must exist. Do nothing if it is open.

        Raises `NotTrusted` if it is another user's, or if other users can write to it.
        """
        if self._descriptor < 0:
            self._descriptor = open_directory(self.path)
            self._identity = _identity(os.fstat(self._descriptor))

    def close(self) -> None:
        """Close the directory. Do nothing if it is not open."""
        with self._spare_lock:
            self._keeps_spare = False
            self._give_spare()
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

    def has_room(self, size: int) -> bool:
        """Return True if a file of this size finds room in the directory, within a quota too; it leaves no file.

        A file system that makes no files without a name is asked for its free space only.
        """
        try:
            descriptor = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, _FILE_MODE, dir_fd=self._descriptor)
            try:
                os.posix_fallocate(descriptor, 0, size)
            finally:
                os.close(descriptor)
        except OSError as exc:
            if exc.errno in _NO_FILES_WITHOUT_NAME:
                return self.space().free >= size
            if is_full(exc):
                return False
            raise
        return True

    def is_writable(self) -> bool:
        """Return True if files can be created in the directory."""
        return os.access(".", os.W_OK | os.X_OK, dir_fd=self._descriptor)

    # Descriptors.

    def keep_spare(self) -> None:
        """Keep a descriptor in reserve, so that one file can be opened when the process has no other left."""
        with self._spare_lock:
            self._keeps_spare = True
            self._take_spare()

    def descriptor_of(self, name: str, flags: int) -> int:
        """Open a file with flags of `os.open`, and return its descriptor. Raises `NotTrusted` if it is not ours."""
        descriptor = self._open(name, flags)
        try:
            if flags & os.O_CREAT:
                _set_mode(descriptor)
            check(os.fstat(descriptor), self.path / name)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    @contextmanager
    def opened(self, name: str, flags: int) -> Iterator[int]:
        """Open a file as `descriptor_of` does, and close it at the end of the block."""
        descriptor = self.descriptor_of(name, flags)
        try:
            yield descriptor
        finally:
            self.close_descriptor(descriptor)

    def close_descriptor(self, descriptor: int) -> None:
        """Close a file, and have a descriptor in reserve again if the reserve was used."""
        os.close(descriptor)
        if self._keeps_spare and self._spare < 0:
            with self._spare_lock:
                self._take_spare()

    def _open(self, name: str, flags: int) -> int:
        flags |= os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            return os.open(name, flags, _FILE_MODE, dir_fd=self._descriptor)
        except OSError as exc:
            if exc.errno == errno.ELOOP:
                path = self.path / name
                raise NotTrusted(path, f"{path} is a symbolic link, which is not followed: remove it") from exc
            if exc.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            with self._spare_lock:
                if not self._give_spare():
                    raise
                return os.open(name, flags, _FILE_MODE, dir_fd=self._descriptor)

    def _take_spare(self) -> None:
        if self._keeps_spare and self._spare < 0:
            with contextlib.suppress(OSError):  # then the next file that is closed may leave one
                self._spare = os.dup(self._descriptor)

    def _give_spare(self) -> bool:
        """Close the spare descriptor, and return False if there was none."""
        if self._spare < 0:
            return False
        os.close(self._spare)
        self._spare = -1
        return True

    # Files.

    def names(self) -> list[str]:
        """Return the names in the directory."""
        # Opened anew: on btrfs an older descriptor does not show files that were made since it was opened or last read.
        descriptor = self._open(".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            return os.listdir(descriptor)  # noqa: PTH208  # pathlib knows no descriptors
        finally:
            self.close_descriptor(descriptor)

    def exists(self, name: str) -> bool:
        """Return True if there is a file of this name."""
        try:
            self.size(name)
        except FileNotFoundError:
            return False
        return True

    def size(self, name: str) -> int:
        """Return the size of a file in bytes."""
        return os.stat(name, dir_fd=self._descriptor, follow_symlinks=False).st_size

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
        descriptor = self._open(below, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            self.close_descriptor(descriptor)

    # Directories below it.

    def make_directory(self, name: str, *, sync: bool = True) -> None:
        """Create a directory, for its owner only, on stable storage if `sync` is true. Do nothing if it exists."""
        try:
            os.mkdir(name, _DIRECTORY_MODE, dir_fd=self._descriptor)
        except FileExistsError:
            return
        _open_to_owner(name, self._descriptor)
        if sync:
            self.sync(_parent(name))

    def remove_directory(self, name: str) -> None:
        """Remove a directory, which must be empty."""
        os.rmdir(name, dir_fd=self._descriptor)

    def files_below(self, name: str) -> list[str]:
        """Return the names of all files in a directory and below it. What cannot be read is left out.

        Raises `OSError` only if the process or the machine has no descriptor or memory left.
        """
        found: list[str] = []
        try:
            for path, _, files, _ in os.fwalk(name, dir_fd=self._descriptor, onerror=_raise_if_exhausted):
                found += [f"{path}/{file}" for file in files]
        except OSError as exc:
            _raise_if_exhausted(exc)
        return found

    # Files that appear whole or not at all.

    def create(self, name: str) -> BinaryIO:
        """Begin a file. It gets its name by `publish`; until then its name has the suffix `unfinished`."""
        return os.fdopen(self.create_descriptor(name), "w+b")

    def create_descriptor(self, name: str) -> int:
        """Begin a file as `create` does, and return its descriptor."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        try:
            return self.descriptor_of(name + self.unfinished, flags)
        except FileExistsError:  # left behind by a crash
            self.remove(name + self.unfinished)
            return self.descriptor_of(name + self.unfinished, flags)

    def publish(self, file: BinaryIO, name: str) -> None:
        """Bring a file that `create` began to stable storage, and give it its name, in place of an older file."""
        file.flush()
        self.publish_descriptor(file.fileno(), name)

    def publish_descriptor(self, descriptor: int, name: str) -> None:
        """Publish a file that `create_descriptor` began."""
        os.fsync(descriptor)
        os.rename(name + self.unfinished, name, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
        self.sync(_parent(name))

    def share(self, source: "Directory", name: str) -> None:
        """Have a file of another directory here too, which nobody may change in place: as a link, or else as a copy.

        Do nothing if there is a file of this name. A link is not on stable storage before `sync`.
        """
        try:
            there = source._descriptor  # noqa: SLF001  # another one of this class
            os.link(name, name, src_dir_fd=there, dst_dir_fd=self._descriptor, follow_symlinks=False)
        except FileExistsError:
            return
        except OSError as exc:
            if exc.errno not in _NO_LINKS:
                raise
            with source.reading(name) as file:
                self.copy(file, name, os.fstat(file.fileno()).st_size)

    def copy(self, file: BinaryIO, name: str, size: int) -> None:
        """Write a file with the first bytes of an open one, in place of an older file, and bring it to stable storage.

        Raises `EOFError` if there are fewer bytes.
        """
        try:
            with self.create(name) as copy:
                while size > 0:
                    part = file.read(min(size, _COPIED_AT_ONCE))
                    if not part:
                        raise EOFError(f"{file.name} is shorter than it was")  # noqa: TRY301  # nothing may be left
                    copy.write(part)
                    size -= len(part)
                self.publish(copy, name)
        except BaseException:
            self.discard(name)
            raise

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


def _raise_if_exhausted(error: OSError) -> None:
    if is_exhausted(error):
        raise error


def _set_mode(descriptor: int) -> None:
    """Give a new file its mode if the umask has taken away the owner's rights."""
    if stat.S_IMODE(os.fstat(descriptor).st_mode) & _FILE_MODE != _FILE_MODE:
        os.fchmod(descriptor, _FILE_MODE)


def _open_to_owner(name: str | Path, parent: int | None = None) -> None:
    """Give a new directory its mode if the umask has taken away the owner's rights."""
    descriptor = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        if os.fstat(descriptor).st_mode & _DIRECTORY_MODE != _DIRECTORY_MODE:
            os.chmod(f"/proc/self/fd/{descriptor}", _DIRECTORY_MODE)  # noqa: PTH101  # it may not be opened yet
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Create a directory and its parents, for their owner only, on stable storage. Do nothing if it exists."""
    if path.is_dir():
        return
    make_directory(path.parent)
    try:
        path.mkdir(mode=_DIRECTORY_MODE)
    except FileExistsError:
        return
    _open_to_owner(path)
    sync_directory(path.parent)


def make_file(path: Path) -> None:
    """Create an empty file for its owner only, for a library that opens files by their paths. Do nothing if it exists.

    Raises `NotTrusted` if the file or its directory is another user's, or if others can write to it. A file that exists
    is not opened: to close it would end the locks that this process has on it.
    """
    directory = Directory(path.parent)
    directory.open()
    try:
        check(path.lstat(), path)
    except FileNotFoundError:
        with directory.opened(path.name, os.O_RDWR | os.O_CREAT | os.O_EXCL):
            pass
    finally:
        directory.close()

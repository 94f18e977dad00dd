"""The file LOCK, which lets one process at a time use a directory.

The kernel's lock on the file decides. The file also names the process that has it, for two cases in which the kernel's
lock is not enough: the file was removed, or the file system does not know such locks.
"""

import contextlib
import fcntl
import os
import re
import time
from pathlib import Path
from typing import NoReturn

from composerd.directory import Directory
from composerd.errors import StorageInUse, StorageUnusable

_BOOT = Path("/proc/sys/kernel/random/boot_id")

_LOCK = "LOCK"
"""The name of the file."""

_MAY_KEEP_NONE = ("fuse", "nfs", "cifs", "smb", "9p", "virtiofs", "ceph")
"""The beginnings of the names of file systems whose locks another way to the files need not respect."""


_OURS = re.compile(rb"\0*|[0-9]+\n[^\0]*")
"""The content of the file: the process that has the lock, or nothing, or what a crash has left of it."""

_MOST_BYTES = 200
"""Largest size of the file. A larger one is not composerd's."""


class DirectoryLock:
    """A lock that lets one process at a time use a directory. The kernel releases it when the process ends."""

    def __init__(self, directory: Directory) -> None:
        """Take the directory, which must be open before the lock is acquired."""
        self._directory = directory
        self._path_name = str(directory.path / _LOCK)
        self._descriptor: int | None = None
        self._name = b""
        """The content that this process gave the file; empty if it could not."""
        self._known = (0, 0, 0)
        """Device, inode and time of the last change of the file when it was last found to be in order."""

    def acquire(self) -> None:
        """Take the lock.

        Raises `StorageUnusable` if another process, or another driver of this one, has it, or if the file is not a
        lock. Raises `OSError` if it cannot be opened, or if it is not trusted.
        """
        descriptor = self._directory.descriptor_of(_LOCK, os.O_RDWR | os.O_CREAT)
        try:
            kind = self._lock(descriptor, fcntl.LOCK_EX)
        except BaseException:
            os.close(descriptor)
            raise
        self._name = f"{os.getpid()}\n{_start_of(os.getpid())}\n{time.monotonic_ns()}\n{kind}\n".encode()
        try:
            os.pwrite(descriptor, self._name, 0)
            os.ftruncate(descriptor, len(self._name))
        except OSError:  # a full disk: the kernel's lock is enough
            self._name = b""
        self._known = _state(os.fstat(descriptor))
        self._descriptor = descriptor

    def keep_writers_out(self) -> None:
        """Take a lock that other readers may take too, and change nothing. Raises as `acquire` does."""
        try:
            descriptor = self._directory.descriptor_of(_LOCK, os.O_RDONLY)
        except FileNotFoundError:
            return  # no process that writes has the directory open
        try:
            self._lock(descriptor, fcntl.LOCK_SH)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def _lock(self, descriptor: int, how: int) -> str:
        """Lock the file, and return the name of its file system. Raises `StorageUnusable` if that is not possible."""
        content = os.pread(descriptor, _MOST_BYTES + 1, 0)
        if len(content) > _MOST_BYTES or not _OURS.fullmatch(content):
            raise StorageUnusable(f"{self._path_name} is not a lock of composerd: move that file elsewhere")
        written = content.decode("ascii", "replace")
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        except BlockingIOError:
            self._refuse(written.partition("\n")[0] or "unknown")
        kind = _file_system(os.fstat(descriptor).st_dev)
        if (holder := _running(written, kind)) is not None:
            self._refuse(holder)
        return kind

    def lost(self) -> str | None:
        """Return why the lock does not keep others out any more; None if it does."""
        if self._descriptor is None:
            return "its file LOCK was released"
        try:
            found = os.lstat(self._path_name)  # for each flush, and a Path takes twice as long
        except FileNotFoundError:
            return "its file LOCK was removed"
        if _state(found) == self._known:
            return None
        if not os.path.samestat(found, os.fstat(self._descriptor)):
            return "its file LOCK was replaced"
        # Opened again, because a network file system then asks its server.
        with self._directory.reading(_LOCK) as file:
            written = file.read(_MOST_BYTES)
        if self._name and written != self._name:
            holder = written.decode("ascii", "replace").partition("\n")[0] or "unknown"
            return f"process {holder} wrote its name into the file LOCK: the file system does not keep locks"
        self._known = _state(found)
        return None

    def release(self) -> None:
        """Release the lock, if it was acquired."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):  # on a disk that fails the file may not even be found
                if self._name and self.lost() is None:
                    os.ftruncate(self._descriptor, 0)  # this process may go on running without the lock
            os.close(self._descriptor)
            self._descriptor = None

    def _refuse(self, holder: str) -> NoReturn:
        raise StorageInUse(
            f"{self._directory.path} is in use by another composerd (process {holder}): "
            "stop that process, or use another directory"
        )


def _state(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _running(written: str, kind: str) -> str | None:
    """Return the process that has written its name into the file, if it runs on this machine and is not this one.

    It has no lock of the kernel. So the file system, whose name is `kind` here, keeps none, or not between two ways to
    the file. If both ways are of file systems that do, the file is in a copy or a snapshot of the directory.
    """
    pid, start, _, kind_there, *_ = [*written.split("\n"), "", "", "", ""]
    if not any(one.startswith(_MAY_KEEP_NONE) for one in (kind, kind_there)):
        return None
    if not pid.isdigit() or int(pid) == os.getpid() or not start:
        return None
    return pid if _start_of(int(pid)) == start or _is_hidden(int(pid), start) else None


def _is_hidden(pid: int, start: str) -> bool:
    """Return True if a process may be the one that began then, but says nothing of itself.

    Where `/proc` is mounted with `hidepid`, processes with private memory are hidden from others of their user too.
    """
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/stat").read_text()
        return False
    try:
        if start.partition(" ")[0] != _BOOT.read_text().strip():
            return False
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _file_system(device: int) -> str:
    """Return the name of the file system with a device number; empty for a part of one, such as a btrfs subvolume."""
    number = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            mount, _, file_system = line.partition(" - ")
            if mount.split()[2] == number:
                return file_system.split()[0]
    return ""


def _start_of(pid: int) -> str:
    """Return a text that no other process has had, of any start of the machine; empty if the process has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = _BOOT.read_text().strip()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else f"{boot} {fields[19]}"

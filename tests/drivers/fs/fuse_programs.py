"""The programs that show files through FUSE: `failing FILE MOUNT_POINT TRIGGER` or `passthrough DIRECTORY MOUNT_POINT`.

`failing` shows FILE as MOUNT_POINT/disk. If the file TRIGGER exists, which has a process id and bytes in two lines, the
next write that contains the bytes fails with EIO, and TRIGGER is removed. The process, if the id is not 0, is killed
before it learns of the failure. `passthrough` shows a directory without the locks of its files.
"""

import errno
import os
import signal
import sys
from pathlib import Path
from typing import Any

from mfusepy import FUSE, FuseOSError, Operations


class _FailingFile(Operations):  # type: ignore[misc]  # it has no types
    """A file system that has one file."""

    use_ns = True

    def __init__(self, file: Path, trigger: Path) -> None:
        self._file = os.open(file, os.O_RDWR)
        self._trigger = trigger

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        if path == "/":
            return {"st_mode": 0o040755, "st_nlink": 2}
        if path != "/disk":
            raise FuseOSError(errno.ENOENT)
        return {"st_mode": 0o100600, "st_nlink": 1, "st_size": os.fstat(self._file).st_size}

    def open(self, path: str, flags: int) -> int:
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(self._file, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        if self._trigger.exists():
            pid, _, failing = self._trigger.read_bytes().partition(b"\n")
            if failing in data:
                self._trigger.unlink()
                if int(pid):
                    os.kill(int(pid), signal.SIGKILL)
                raise FuseOSError(errno.EIO)
        return os.pwrite(self._file, data, offset)


class _Passthrough(Operations):  # type: ignore[misc]  # it has no types
    """The file system. Names begin with a slash."""

    use_ns = True

    def __init__(self, root: Path) -> None:
        self._root = root

    def _at(self, path: str) -> Path:
        return self._root / path[1:]

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        found = self._at(path).lstat()
        times = {f"st_{name}": getattr(found, f"st_{name}_ns") for name in ("atime", "mtime", "ctime")}
        return times | {f"st_{name}": getattr(found, f"st_{name}") for name in ("mode", "nlink", "size", "uid", "gid")}

    def statfs(self, path: str) -> dict[str, int]:
        found = os.statvfs(self._root)
        return {name: getattr(found, name) for name in ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail")}

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *(one.name for one in self._at(path).iterdir())]

    def mkdir(self, path: str, mode: int) -> None:
        self._at(path).mkdir(mode)

    def rmdir(self, path: str) -> None:
        self._at(path).rmdir()

    def unlink(self, path: str) -> None:
        self._at(path).unlink()

    def rename(self, old: str, new: str) -> None:
        self._at(old).rename(self._at(new))

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        return os.open(self._at(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    def open(self, path: str, flags: int) -> int:
        return os.open(self._at(path), flags & ~os.O_APPEND)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        return os.pwrite(fh, data, offset)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        os.truncate(self._at(path), length)

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        os.fsync(fh)
        return 0

    def release(self, path: str, fh: int) -> int:
        os.close(fh)
        return 0


if __name__ == "__main__":
    program, shown, mount_point, *trigger = sys.argv[1:]
    system = _Passthrough(Path(shown)) if program == "passthrough" else _FailingFile(Path(shown), Path(trigger[0]))
    FUSE(system, mount_point, foreground=True, nothreads=True)

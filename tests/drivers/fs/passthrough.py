"""A directory that is shown through FUSE at another path, without the locks that its files have.

As a program: `passthrough.py DIRECTORY MOUNT_POINT`.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mfusepy import FUSE, Operations


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


@contextlib.contextmanager
def passthrough(directory: Path, at: Path) -> Iterator[Path]:
    """Show a directory at a new path for the length of a block, and return that path."""
    at.mkdir()
    process = subprocess.Popen([sys.executable, __file__, directory, at])
    try:
        while not at.is_mount():
            assert process.poll() is None, "the directory cannot be shown: is FUSE there?"
            time.sleep(0.01)
        yield at
    finally:
        subprocess.run(["umount", "--lazy", at], check=True)
        process.kill()
        process.wait()


if __name__ == "__main__":
    FUSE(_Passthrough(Path(sys.argv[1])), sys.argv[2], foreground=True, nothreads=True)

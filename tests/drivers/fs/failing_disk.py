"""A disk that fails once: a file, shown through FUSE, to be mounted as an image through a loop device.

As a program, `failing_disk.py FILE MOUNT_POINT TRIGGER`, it shows FILE as MOUNT_POINT/disk. If the file TRIGGER exists,
which has a process id and bytes in two lines, the next write that contains the bytes fails with EIO, and TRIGGER is
removed. The process, if the id is not 0, is killed before it learns of the failure.
"""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
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


class FailingDisk:
    """The disk while it is shown."""

    def __init__(self, image: Path, process: "subprocess.Popen[bytes]", trigger: Path) -> None:
        self.image = image
        """The bytes that are on the disk."""
        self.path = image.parent / "failing" / "disk"
        """The file to be mounted."""
        self._process = process
        self._trigger = trigger

    def fail_at(self, data: bytes, kill: int = 0) -> None:
        """Let the next write fail that contains these bytes, and let a process be killed at that moment.

        The bytes have to be in the first 32 KiB of the write: a loop device takes a write of a part for one of all.
        """
        unfinished = self._trigger.with_suffix(".tmp")
        unfinished.write_bytes(b"%d\n%b" % (kill, data))
        unfinished.rename(self._trigger)

    @property
    def has_failed(self) -> bool:
        """True if a write has failed since `fail_at`."""
        return not self._trigger.exists()

    def copy(self, to: Path) -> Path:
        """Copy what is on the disk at this moment, as if the power were cut, and return the path of the copy."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            subprocess.run(["cp", "--sparse=always", self.image, to], check=True)  # a full copy takes seconds
        finally:
            self._process.send_signal(signal.SIGCONT)
        return to


@contextlib.contextmanager
def failing_disk(image: Path) -> Iterator[FailingDisk]:
    """Show an image as a disk that can fail, for the length of a block."""
    at, trigger = image.parent / "failing", image.parent / "trigger"
    at.mkdir()
    process = subprocess.Popen([sys.executable, __file__, image, at, trigger])
    try:
        while not at.is_mount():
            assert process.poll() is None, "the disk cannot be shown: is FUSE there?"
            time.sleep(0.01)
        yield FailingDisk(image, process, trigger)
    finally:
        subprocess.run(["umount", "--lazy", at], check=True)
        process.kill()
        process.wait()


if __name__ == "__main__":
    shown, mount_point, trigger_file = map(Path, sys.argv[1:])
    FUSE(_FailingFile(shown, trigger_file), str(mount_point), foreground=True, nothreads=True)

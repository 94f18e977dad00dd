"""Files that are shown through FUSE: a disk that fails once, and a directory whose files cannot be locked."""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from ...conftest import _missing
from .mounts import unmount

_PROGRAMS = Path(__file__).with_name("fuse_programs.py")


@contextlib.contextmanager
def _shown(program: str, source: Path, at: Path, *more: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a program that shows something at a new directory, for the length of a block.

    A machine without FUSE skips the test, or fails it in CI.
    """
    at.mkdir()
    process = subprocess.Popen([sys.executable, _PROGRAMS, program, source, at, *more], stderr=subprocess.PIPE)
    assert process.stderr is not None
    try:
        while not at.is_mount():
            if process.poll() is not None:
                _missing(f"FUSE cannot be used here: {process.stderr.read().decode().strip()[-200:]}")
            time.sleep(0.01)
        yield process
    finally:
        unmount(at)
        process.kill()
        process.wait()
        process.stderr.close()


@contextlib.contextmanager
def passthrough(directory: Path, at: Path) -> Iterator[Path]:
    """Show a directory at a new path for the length of a block, without locks of files, and return that path."""
    with _shown("passthrough", directory, at):
        yield at


@contextlib.contextmanager
def failing_disk(image: Path) -> Iterator["FailingDisk"]:
    """Show an image as a disk that can fail, for the length of a block."""
    at, trigger = image.parent / "failing", image.parent / "trigger"
    with _shown("failing", image, at, trigger) as process:
        yield FailingDisk(image, process, trigger)


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

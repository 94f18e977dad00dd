"""The disk with the scratch directory: its file system and its speed."""

import os
import tempfile
import time
from pathlib import Path
from statistics import median

import msgspec


class Disk(msgspec.Struct, frozen=True):
    """The properties of a disk that limit the number of writes a second."""

    filesystem: str
    sync_seconds: float
    """Median time of a write of 1 KiB with its fdatasync."""

    def text(self) -> str:
        """Return the properties as a line of text."""
        sync = f"{self.sync_seconds * 1000:.2f} ms (median)"
        return f"scratch directory on {self.filesystem}: 1 KiB and fdatasync take {sync}"


def inspect(directory: Path) -> Disk:
    """Measure the disk with a directory: write 1 KiB with fdatasync a hundred times, and take the median."""
    took = []
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        for _ in range(100):
            began = time.perf_counter()
            file.write(b"x" * 1024)
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - began)
    return Disk(_filesystem(directory), median(took))


def speed(directory: Path) -> float:
    """Return the bytes a second of writes of 16 MiB with fdatasync, the median of ten."""
    block = os.urandom(16 * 1024 * 1024)
    took = []
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        for _ in range(10):
            began = time.perf_counter()
            file.write(block)
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - began)
    return len(block) / median(took)


def _filesystem(directory: Path) -> str:
    device = directory.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[2] == number:
            return fields[fields.index("-") + 1]
    return "unknown"

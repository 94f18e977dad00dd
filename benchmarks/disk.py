"""The disk under the scratch directory: of what kind it is, and how long it takes to keep a record."""

import os
import tempfile
import time
from pathlib import Path
from statistics import median

import msgspec


class Disk(msgspec.Struct, frozen=True):
    """What a number of writes a second depends on besides the server."""

    filesystem: str
    sync_seconds: float

    def text(self) -> str:
        """Return both in a line."""
        return f"scratch directory on {self.filesystem}: 1 KiB and fdatasync take {self.sync_seconds * 1000:.2f} ms (median)"


def inspect(directory: Path) -> Disk:
    """Look at the disk under a directory: append 1 KiB and fdatasync, a hundred times, median."""
    took = []
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        for _ in range(100):
            began = time.perf_counter()
            file.write(b"x" * 1024)
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - began)
    return Disk(_filesystem(directory), median(took))


def speed(directory: Path) -> float:
    """Bytes a second that are brought to the disk, 16 MiB at a time, median of ten."""
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

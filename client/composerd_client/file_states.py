"""Noticing that a file was written or replaced."""

from pathlib import Path


def file_state(path: Path | str) -> tuple[int, ...] | None:
    """Return what changes when a file is written or replaced; None if it is missing."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size

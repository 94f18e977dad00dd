"""The names of the journal's files, and the marker that a clean stop leaves.

docs/reference/fs-format.md describes the files and their contents.
"""

import logging
import os
from pathlib import Path

import msgspec

from composerd_fs.journal.io import sync_directory

log = logging.getLogger(__name__)

MARKER = "CLEAN"
"""The name of the marker."""

UNFINISHED = ".tmp"
"""Suffix of the name of a checkpoint, or of the marker, while it is being written."""


class Marker(msgspec.Struct):
    """The end of a journal that was closed cleanly."""

    segment: int
    end: int


def segment_name(number: int) -> str:
    """Return the name of a segment's file."""
    return f"{number:08}.log"


def checkpoint_name(number: int) -> str:
    """Return the name of the checkpoint that holds the state before the segment of this number."""
    return f"{number:08}.checkpoint"


def piece_name(number: int) -> str:
    """Return the name of a piece of the reserve."""
    return f"{number}.reserve"


def segments_in(directory: Path) -> list[int]:
    """Return the numbers of the segments in a directory, in order."""
    return _numbers_in(directory, "log")


def checkpoints_in(directory: Path) -> list[int]:
    """Return the numbers of the checkpoints in a directory, in order; only the last one counts."""
    return _numbers_in(directory, "checkpoint")


def _numbers_in(directory: Path, suffix: str) -> list[int]:
    return sorted(int(path.stem) for path in directory.glob(f"*.{suffix}") if path.stem.isdigit())


def read_marker(directory: Path) -> Marker | None:
    """Return the marker of a clean stop, or None if there is none or if it cannot be read: then a crash is assumed."""
    path = directory / MARKER
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Marker)
    except msgspec.DecodeError:
        log.warning("%s: the marker of a clean stop is damaged; starting as after a crash", path)
        return None


def leave_marker(directory: Path, marker: Marker) -> None:
    """Write the marker of a clean stop, whole or not at all, and bring it to stable storage. Raises `OSError`."""
    unfinished = directory / (MARKER + UNFINISHED)
    try:
        with unfinished.open("wb") as file:
            file.write(msgspec.json.encode(marker))
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(directory / MARKER)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
    sync_directory(directory)


def remove_marker(directory: Path) -> None:
    """Remove the marker, on stable storage too, before anything is written."""
    (directory / MARKER).unlink(missing_ok=True)
    sync_directory(directory)

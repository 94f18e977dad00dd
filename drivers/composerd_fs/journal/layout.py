"""The names of the journal's files, and the marker that a clean stop leaves.

docs/reference/fs-format.md describes the files and their contents.
"""

import os
from pathlib import Path

import msgspec

from composerd_fs.journal.io import sync_directory

MARKER = "CLEAN"
"""The name of the marker."""

UNFINISHED = ".tmp"
"""Suffix of the name of a checkpoint while it is being written."""


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


def segments_in(directory: Path) -> list[int]:
    """Return the numbers of the segments in a directory, in order."""
    return _numbers_in(directory, "log")


def checkpoints_in(directory: Path) -> list[int]:
    """Return the numbers of the checkpoints in a directory, in order; only the last one counts."""
    return _numbers_in(directory, "checkpoint")


def _numbers_in(directory: Path, suffix: str) -> list[int]:
    return sorted(int(path.stem) for path in directory.glob(f"*.{suffix}") if path.stem.isdigit())


def read_marker(directory: Path) -> Marker | None:
    """Return the marker of a clean stop, or None without one. Raises `msgspec.DecodeError` if it is damaged."""
    path = directory / MARKER
    return msgspec.json.decode(path.read_bytes(), type=Marker) if path.exists() else None


def leave_marker(directory: Path, marker: Marker) -> None:
    """Write the marker of a clean stop and bring it to stable storage."""
    with (directory / MARKER).open("wb") as file:
        file.write(msgspec.json.encode(marker))
        file.flush()
        os.fsync(file.fileno())
    sync_directory(directory)


def remove_marker(directory: Path) -> None:
    """Remove the marker, on stable storage too, before anything is written."""
    (directory / MARKER).unlink(missing_ok=True)
    sync_directory(directory)

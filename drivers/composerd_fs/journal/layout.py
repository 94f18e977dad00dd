"""The names of the journal's files, and the marker that a clean stop leaves.

docs/reference/fs-format.md describes the files and their contents.
"""

from collections.abc import Iterable

import msgspec

from composerd.directory import Directory
from composerd.ownership import NotTrusted

ADVICE = "restore it from a backup, or take out what is whole with `composerd storage salvage`"
"""The end of a message about damage."""

MARKER = "CLEAN"
"""The name of the marker."""


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


def segments_in(directory: Directory) -> list[int]:
    """Return the numbers of the segments in a directory, in order."""
    return segments_among(directory.names())


def segments_among(names: Iterable[str]) -> list[int]:
    """Return the numbers of the segments among some names, in order."""
    return _numbers_among(names, "log")


def checkpoints_among(names: Iterable[str]) -> list[int]:
    """Return the numbers of the checkpoints among some names, in order; only the last one counts."""
    return _numbers_among(names, "checkpoint")


def _numbers_among(names: Iterable[str], suffix: str) -> list[int]:
    split = [name.partition(".") for name in names]
    return sorted(int(stem) for stem, _, rest in split if rest == suffix and stem.isdigit())


class DamagedMarker(Exception):
    """The marker of a clean stop cannot be read."""


def read_marker(directory: Directory) -> Marker | None:
    """Return the marker of a clean stop, or None if there is none: then a crash is assumed.

    Raises `DamagedMarker` if it cannot be read, and `NotTrusted` if another user could have written it.
    """
    try:
        with directory.reading(MARKER) as file:
            return msgspec.json.decode(file.read(), type=Marker)
    except FileNotFoundError:
        return None
    except NotTrusted:
        raise
    except (OSError, msgspec.DecodeError) as exc:
        raise DamagedMarker from exc


def leave_marker(directory: Directory, marker: Marker) -> None:
    """Write the marker of a clean stop, whole or not at all, and bring it to stable storage. Raises `OSError`."""
    directory.write(MARKER, msgspec.json.encode(marker))


def remove_marker(directory: Directory) -> None:
    """Remove the marker, on stable storage too, before anything is written."""
    directory.remove(MARKER)
    directory.sync()

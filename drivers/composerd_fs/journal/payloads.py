"""Reads payloads and parts of them from the segments of a journal. Those that lie close together are read at once."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

from composerd.directory import Directory
from composerd.errors import ResourcesExhausted, Unavailable
from composerd.file_errors import is_exhausted
from composerd_fs.journal import frames, layout
from composerd_fs.journal.io import read_exactly

log = logging.getLogger(__name__)

READ_OVER = 32 * 1024
"""Largest gap in bytes between two payloads that are read in one call, gap included."""

READ_AT_ONCE = 4 * 1024 * 1024
"""The most bytes that are read in one call, unless a single payload is larger."""

PIECE = 1024 * 1024
"""The most bytes that are in memory when a payload is compared with its checksum before a part of it is read."""

_Located: TypeAlias = tuple[int, int, int, int]
"""A location, and its segment, offset and length."""

_Found: TypeAlias = dict[int, bytes | Unavailable]
"""Payloads, or errors in place of them, by their locations."""


def read_payloads(
    directory: Directory, opened: int, descriptor: int, locations: Sequence[int]
) -> list[bytes | Unavailable]:
    """Return the payloads at some locations, in order; one that cannot be read is an error in its position.

    The segment `opened` is read from its descriptor, and the others are opened. Jobs are claimed in about the order in
    which they were submitted, so their payloads often lie close together.
    """
    found: _Found = {}
    run: list[_Located] = []
    end = 0
    for location in sorted(set(locations)):
        segment, offset, length = frames.span_of(location)
        if run:
            _, of_run, begin, _ = run[0]
            near = segment == of_run and offset - end <= READ_OVER and offset + length - begin <= READ_AT_ONCE
            if not near:
                _read_run(directory, opened, descriptor, run, end, found)
                run = []
        run.append((location, segment, offset, length))
        end = offset + length
    if run:
        _read_run(directory, opened, descriptor, run, end, found)
    return [found[location] for location in locations]


def _read_run(directory: Directory, opened: int, descriptor: int, run: list[_Located], end: int, found: _Found) -> None:
    _, segment, begin, _ = run[0]
    try:
        with _opened(directory, opened, descriptor, segment) as source:
            data = read_exactly(source, end - begin, begin)
    except OSError as exc:
        for location, *_ in run:
            found[location] = _unreadable(exc)
        return
    for location, _, offset, length in run:
        payload = frames.unpack_payload(data[offset - begin : offset - begin + length])
        found[location] = _damaged(directory, segment, offset) if payload is None else payload


def read_part(directory: Directory, opened: int, descriptor: int, location: int, start: int, stop: int) -> bytes:
    """Return a part of the payload at a location. Raises `Unavailable` if it cannot be read.

    With a part from the beginning, the whole payload is compared with its checksum, a piece at a time. It is assumed
    that the other parts are read after that one.
    """
    segment, offset, length = frames.span_of(location)
    begin, end = offset + frames.CHECK, offset + length
    try:
        with _opened(directory, opened, descriptor, segment) as source:
            if start == 0 and not _is_intact(source, offset, end):
                raise _damaged(directory, segment, offset)
            return read_exactly(source, max(min(begin + stop, end) - begin - start, 0), begin + start)
    except OSError as exc:
        raise _unreadable(exc) from exc


def _is_intact(descriptor: int, offset: int, end: int) -> bool:
    check = read_exactly(descriptor, frames.CHECK, offset)
    begin = offset + frames.CHECK
    pieces = (read_exactly(descriptor, min(PIECE, end - at), at) for at in range(begin, end, PIECE))
    return check == frames.check_of_pieces(pieces)


@contextmanager
def _opened(directory: Directory, opened: int, descriptor: int, segment: int) -> Iterator[int]:
    """Provide a descriptor of a segment: the one of the segment `opened`, or else a new one for the block."""
    if segment == opened:
        yield descriptor
        return
    with directory.opened(layout.segment_name(segment), os.O_RDONLY) as other:
        yield other


def _unreadable(error: OSError) -> Unavailable:
    kind = ResourcesExhausted if is_exhausted(error) else Unavailable
    return kind(f"a payload could not be read ({error.strerror})")


def _damaged(directory: Directory, segment: int, offset: int) -> Unavailable:
    name = layout.segment_name(segment)
    log.error("%s: the payload at byte %d is damaged; %s", directory.path / name, offset, layout.ADVICE)
    return Unavailable("a payload could not be read (it is damaged on the disk)")

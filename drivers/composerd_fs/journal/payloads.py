"""Reads payloads from the segments of a journal. Those that lie close together are read in one call."""

import logging
import os
from collections.abc import Sequence
from typing import TypeAlias

from composerd.directory import Directory
from composerd.errors import Unavailable
from composerd_fs.journal import frames, layout
from composerd_fs.journal.io import read_exactly

log = logging.getLogger(__name__)

READ_OVER = 32 * 1024
"""Largest gap in bytes between two payloads that are read in one call, gap included."""

READ_AT_ONCE = 4 * 1024 * 1024
"""The most bytes that are read in one call, unless a single payload is larger."""

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
    name = layout.segment_name(segment)
    try:
        if segment == opened:
            data = read_exactly(descriptor, end - begin, begin)
        else:
            other = directory.descriptor_of(name, os.O_RDONLY)
            try:
                data = read_exactly(other, end - begin, begin)
            finally:
                os.close(other)
    except OSError as exc:
        for location, *_ in run:
            found[location] = Unavailable(f"a payload could not be read ({exc.strerror})")
        return
    for location, _, offset, length in run:
        payload = frames.unpack_payload(data[offset - begin : offset - begin + length])
        if payload is None:
            log.error("%s: the payload at byte %d is damaged; restore it from a backup", directory.path / name, offset)
            found[location] = Unavailable("a payload could not be read (it is damaged on the disk)")
        else:
            found[location] = payload

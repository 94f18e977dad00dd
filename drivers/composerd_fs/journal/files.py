"""The files of a journal as they are at one moment, of which a server that goes on writing can take none away."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from composerd.directory import Directory
from composerd.errors import Unavailable
from composerd_fs.journal.layout import (
    MARKER,
    DamagedMarker,
    Marker,
    checkpoint_name,
    checkpoints_among,
    read_marker,
    segment_name,
    segments_among,
)

_TRIES = 20
"""Maximum number of attempts to open the files while a server begins segments and removes those of a checkpoint."""


class JournalFiles:
    """The checkpoint that counts and the segments from it on. It blocks, and is called in a thread.

    `look` is for the process that has locked the directory. `hold` is for any other: it opens the files, and nothing
    that is written to them from then on is read.
    """

    def __init__(self, directory: Directory) -> None:
        self.directory = directory
        self.names: frozenset[str] = frozenset()
        """The names of all segments and checkpoints."""
        self.segments: list[int] = []
        """The numbers of all segments, in order."""
        self.checkpoint = 0
        """The number of the checkpoint that counts; 0 if there is none."""
        self.marker: Marker | None = None
        self.damaged_marker: Path | None = None
        """The path of the marker if there is one that cannot be read: then there may have been a crash or not."""
        self._held: dict[str, tuple[BinaryIO, int]] = {}

    @property
    def old(self) -> list[int]:
        """The segments from before the checkpoint, which have only payloads."""
        return [number for number in self.segments if number < self.checkpoint]

    @property
    def read(self) -> list[int]:
        """The segments from the checkpoint on."""
        return [number for number in self.segments if number >= self.checkpoint]

    def look(self) -> None:
        """Find out which files there are."""
        names = self.directory.names()
        self.segments, checkpoints = segments_among(names), checkpoints_among(names)
        self.checkpoint = max(checkpoints, default=0)
        self.names = frozenset([*map(segment_name, self.segments), *map(checkpoint_name, checkpoints)])
        self.marker, self.damaged_marker = None, None
        if MARKER in names:
            try:
                self.marker = read_marker(self.directory)
            except DamagedMarker:
                self.damaged_marker = self.directory.path / MARKER

    def hold(self) -> None:
        """Open the files as they are at one moment: when they were open, the directory had the same names as before.

        Raises `Unavailable` if a server changes them each time, which takes it many megabytes a second.
        """
        for _ in range(_TRIES):
            self.close()
            self.look()
            before = self.names, self.marker
            names = [checkpoint_name(self.checkpoint)] if self.checkpoint else []
            try:
                for name in (*names, *map(segment_name, self.read)):
                    file = self.directory.reading(name)
                    self._held[name] = file, os.fstat(file.fileno()).st_size
            except FileNotFoundError:
                continue
            self.look()
            if (self.names, self.marker) == before:
                return
        raise Unavailable(f"the files in {self.directory.path} change too fast to be read: try again later")

    @contextmanager
    def opened(self, name: str) -> Iterator[tuple[BinaryIO, int]]:
        """Open a file for the block; yield it with its size, up to which it may be read."""
        if name in self._held:
            file, size = self._held[name]
            file.seek(0)
            yield file, size
            return
        with self.directory.reading(name) as file:
            yield file, os.fstat(file.fileno()).st_size

    def close(self) -> None:
        """Close the files that are held."""
        for file, _ in self._held.values():
            file.close()
        self._held.clear()

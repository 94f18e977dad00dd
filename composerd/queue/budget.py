"""A bound on the payload bytes that the server holds at once."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from composerd.errors import Unavailable

MAX_IN_FLIGHT = 512 * 1024 * 1024
"""The most bytes of bodies, in and out, that are held at once."""


class Budget:
    """Counts the bytes in flight."""

    def __init__(self, limit: int = MAX_IN_FLIGHT) -> None:
        self.limit = limit
        self.used = 0
        self._room: asyncio.Future[None] | None = None

    def take(self, size: int) -> None:
        """Account for bytes about to be held; `give` gives them back. Raises `Unavailable` when there is no room."""
        if self.used and self.used + size > self.limit:
            raise Unavailable("the server holds as much payload as it may", limit=self.limit)
        self.used += size

    def force(self, size: int) -> None:
        """Account for bytes that are held already."""
        self.used += size

    def give(self, size: int) -> None:
        """Give back what was taken."""
        self.used -= size
        if self._room is not None and self.used < self.limit:
            self._room.set_result(None)
            self._room = None

    @contextmanager
    def held(self, size: int) -> Iterator[None]:
        """Hold bytes that are there already, for the length of a block."""
        self.force(size)
        try:
            yield
        finally:
            self.give(size)

    async def room(self) -> None:
        """Wait until there is room for more."""
        while self.used >= self.limit:
            if self._room is None:
                self._room = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._room)

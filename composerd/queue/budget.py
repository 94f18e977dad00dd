"""A bound on the payload bytes that the server holds at once."""

import asyncio

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

    def held(self, size: int) -> "_Held":
        """Hold bytes that are there already, for the length of a block."""
        return _Held(self, size)

    async def room(self) -> None:
        """Wait until there is room for more."""
        while self.used >= self.limit:
            if self._room is None:
                self._room = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._room)


class _Held:
    """Bytes that a block holds."""

    def __init__(self, budget: Budget, size: int) -> None:
        self._budget = budget
        self._size = size

    def __enter__(self) -> None:
        self._budget.force(self._size)

    def __exit__(self, *_: object) -> None:
        self._budget.give(self._size)

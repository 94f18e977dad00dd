"""A limit on the bytes of request and response bodies that the server has in memory at one time."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from composerd.errors import Unavailable

MAX_IN_FLIGHT = 512 * 1024 * 1024
"""The most bytes of bodies, of requests and responses together."""


class Budget:
    """Counts the bytes of bodies that are in memory, so that many large ones at one time cannot exhaust it."""

    def __init__(self, limit: int = MAX_IN_FLIGHT) -> None:
        self.limit = limit
        self.used = 0
        self._freed: asyncio.Future[None] | None = None

    def take(self, size: int) -> None:
        """Count bytes that are about to be read; `free` ends that. Raises `Unavailable` if they would exceed the limit.

        A single body larger than the limit is accepted while nothing else is counted.
        """
        if self.used and self.used + size > self.limit:
            raise Unavailable("too many bytes of bodies in memory", limit=self.limit)
        self.used += size

    def free(self, size: int) -> None:
        """Stop counting bytes that `take` counted."""
        self.used -= size
        if self._freed is not None and self.used < self.limit:
            self._freed.set_result(None)
            self._freed = None

    @contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """Count bytes that are in memory already, for the length of a block, even if they exceed the limit."""
        self.used += size
        try:
            yield
        finally:
            self.free(size)

    async def wait_for_room(self) -> None:
        """Wait until fewer bytes than the limit are counted."""
        while self.used >= self.limit:
            if self._freed is None:
                self._freed = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._freed)

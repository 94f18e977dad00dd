"""Long work on the event loop, cut into slices so that other tasks have a turn in between."""

import asyncio
import time

SLICE = 0.001
"""Time in seconds after which other tasks have a turn."""

BUSY = 0.00003
"""Time in seconds that a turn of the event loop takes from which on others count as busy."""


class Slices:
    """Work in slices. It calls `pause` often, which usually does nothing."""

    def __init__(self) -> None:
        self._until = time.monotonic() + SLICE

    async def pause(self) -> None:
        """Let other tasks have a turn if the slice has taken long enough.

        If there are any, they have as much time as a slice: what they begin needs several turns of the event loop.
        """
        now = time.monotonic()
        if now >= self._until:
            await asyncio.sleep(0)
            if time.monotonic() - now > BUSY:
                await asyncio.sleep(SLICE)
            self._until = time.monotonic() + SLICE

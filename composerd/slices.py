"""Long work on the event loop, cut into slices so that other tasks have a turn in between."""

import asyncio
import time

SLICE = 0.002
"""Time in seconds after which other tasks have a turn."""


class Slices:
    """Work in slices. It calls `pause` often, which usually does nothing."""

    def __init__(self) -> None:
        self._until = time.monotonic() + SLICE

    async def pause(self) -> None:
        """Let other tasks have a turn if the slice has taken long enough."""
        if time.monotonic() >= self._until:
            await asyncio.sleep(0)
            self._until = time.monotonic() + SLICE

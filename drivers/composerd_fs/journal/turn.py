"""Turns: work that goes on for long beside the flushes leaves most of the event loop's time to them."""

import asyncio
import time

SHARE = 0.15
"""The largest share of the loop's time that a checkpoint or a compaction takes."""


class Turn:
    """A stretch of work, after which other tasks get their turn."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    async def over(self) -> None:
        """Wait until the work has taken no more than its share of the time."""
        await asyncio.sleep((time.monotonic() - self._began) * (1 / SHARE - 1))

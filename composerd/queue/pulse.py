"""The pulse of a queue: it counts the seconds that the event loop has run, to find calls that the storage has left."""

import asyncio
from collections.abc import Callable
from typing import NoReturn

BEAT = 1.0
"""Time in seconds between two beats. While the process is stopped, there are none."""


class Pulse:
    """Counts beats. The age of a call in beats is not changed by a pause of the process."""

    def __init__(self, on_beat: Callable[[], None]) -> None:
        self.beats = 0
        self._on_beat = on_beat

    async def run(self) -> NoReturn:
        """Count until canceled."""
        while True:
            await asyncio.sleep(BEAT)
            self.beats += 1
            self._on_beat()

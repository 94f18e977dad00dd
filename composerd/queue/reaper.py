"""The reaper: asks the driver to advance time, so that leases end, delayed jobs become ready and ended jobs are forgotten."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from uuid import UUID

from composerd.driver import Driver
from composerd.errors import ComposerdError
from composerd.models import News

log = logging.getLogger(__name__)

STEP = 1000
"""How much is done in one call of the driver."""


PAUSE = 0.02
"""The least time between two calls, in seconds: what becomes due meanwhile is done together."""


class Reaper:
    """Runs until canceled. What happens at a known moment (a delay, a hand-over) is done then; the rest every `interval` seconds."""

    def __init__(
        self,
        driver: Driver,
        interval: float,
        on_news: Callable[[News], None],
        on_purged: Callable[[Sequence[UUID]], None],
        recheck: Callable[[], None],
    ) -> None:
        self._driver = driver
        self._interval = interval
        self._on_news = on_news
        self._on_purged = on_purged
        self._recheck = recheck
        self._due_at: float | None = None
        self._said = ""
        """What the storage was last reported to say."""
        self._poke = asyncio.Event()

    def due_in(self, seconds: float) -> None:
        """Learn that there will be something to do."""
        at = asyncio.get_running_loop().time() + seconds
        if self._due_at is None or at < self._due_at:
            self._due_at = at
            self._poke.set()

    async def run(self) -> None:
        """Sweep, for ever."""
        clock = asyncio.get_running_loop().time
        next_sweep = clock() + self._interval
        rested = clock()
        while True:
            self._poke.clear()
            wake_at = next_sweep if self._due_at is None else min(next_sweep, max(self._due_at, rested))
            if wake_at > clock():
                try:
                    async with asyncio.timeout_at(wake_at):
                        await self._poke.wait()
                    continue
                except TimeoutError:
                    pass
            sweep = clock() >= next_sweep
            try:
                await self.advance()
                if sweep:
                    await self._purge()
                    self._recheck()
                self._said = ""
            except ComposerdError as exc:
                if str(exc) != self._said:
                    self._said = str(exc)
                    log.warning("the storage does not advance: %s", exc)
                self._due_at = None
            rested = clock() + PAUSE
            if sweep:
                next_sweep = clock() + self._interval

    async def advance(self) -> None:
        """Do all that is due."""
        self._due_at = None
        while True:
            done = await self._driver.advance(STEP)
            self._on_news(done.news)
            if done.news.due_in is None or done.news.due_in > 0:
                break
            await asyncio.sleep(0)

    async def _purge(self) -> None:
        while True:
            purged = await self._driver.purge(STEP)
            self._on_news(purged.news)
            self._on_purged(purged.items)
            if len(purged.items) < STEP:
                break

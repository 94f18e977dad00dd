"""The reaper: lets the driver do what has become due, such as expired leases, delayed jobs and ended retentions."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

from composerd.driver import Driver
from composerd.errors import ComposerdError, DriverError, DriverTimeout
from composerd.models import News

log = logging.getLogger(__name__)

STEP = 1000
"""The most jobs that one call of the driver processes."""

PAUSE = 0.02
"""The shortest time between two calls of `advance`, in seconds. What becomes due meanwhile is processed together."""


ATTEND_EVERY = 60.0
"""Longest time in seconds between two calls of `advance`, which tell the driver that a server has the storage open."""

READ_FOR = 0.1
"""Time in seconds for heartbeats that wait in the sockets after a pause to be read."""


class Reaper:
    """Calls `Driver.advance` when something is due, and every `interval` seconds also `Driver.purge`.

    The driver decides what is due. Every `interval` seconds waiters are woken too, in case news was lost. If leases
    could not be renewed for a while, `Driver.grace` is called before `advance`.
    """

    def __init__(
        self,
        driver: Driver,
        interval: float,
        on_news: Callable[[News], None],
        on_purged: Callable[[Sequence[UUID]], None],
        recheck: Callable[[], None],
        unrenewed: Callable[[], bool],
    ) -> None:
        """Make a reaper; `unrenewed` returns True if leases could not be renewed since it was last called."""
        self._driver = driver
        self._interval = interval
        self._on_news = on_news
        self._on_purged = on_purged
        self._recheck = recheck
        self._unrenewed = unrenewed
        self._owes_grace = False
        self._due_at: float | None = None
        self._logged: dict[str, str] = {}
        """For each part of the work that failed last, the error, so that an outage is logged once."""
        self._wake = asyncio.Event()

    def due_in(self, seconds: float) -> None:
        """Call `advance` after this number of seconds, or earlier if something else is due earlier."""
        at = asyncio.get_running_loop().time() + seconds
        if self._due_at is None or at < self._due_at:
            self._due_at = at
            self._wake.set()

    async def run(self) -> None:
        """Process what is due until canceled. An error of the storage is logged, and the call is repeated."""
        clock = asyncio.get_running_loop().time
        next_sweep = clock() + self._interval
        rested = clock()
        while True:
            self._wake.clear()
            wake_at = min(next_sweep, rested + ATTEND_EVERY)
            if self._due_at is not None:
                wake_at = min(wake_at, max(self._due_at, rested))
            if wake_at > clock():
                try:
                    async with asyncio.timeout_at(wake_at):
                        await self._wake.wait()
                    continue
                except TimeoutError:
                    pass
            sweep = clock() >= next_sweep
            goes_on = await self._attempt(self._advance)
            if sweep:
                if goes_on and await self._attempt(self._purge):
                    self._recheck()
                next_sweep = clock() + self._interval
            rested = clock() + PAUSE

    async def _attempt(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Do a part of the work; log an error of the storage. Return False if the storage cannot be used now.

        An error that is the fault of one part (a `DriverError`, unless it is a timeout) leaves the other parts to do.
        """
        try:
            await work()
        except ComposerdError as exc:
            if str(exc) != self._logged.get(work.__name__) and not exc.logged:
                self._logged[work.__name__] = str(exc)
                log.warning("processing of expired leases and retention failed: %s", exc)
            self._due_at = None
            return isinstance(exc, DriverError) and not isinstance(exc, DriverTimeout)
        self._logged.pop(work.__name__, None)
        return True

    async def _advance(self) -> None:
        self._due_at = None
        while True:
            await self._grace()
            done = await self._driver.advance(STEP)
            self._on_news(done.news)
            if done.news.due_in is None or done.news.due_in > 0:
                break
            await asyncio.sleep(0)

    async def _grace(self) -> None:
        """Extend leases that nobody could renew, after requests have come in that renew some."""
        self._owes_grace = self._unrenewed() or self._owes_grace
        if self._owes_grace:
            await asyncio.sleep(READ_FOR)
            self._unrenewed()  # what has happened since is made up for by the same call
            await self._driver.grace()
            self._owes_grace = False

    async def _purge(self) -> None:
        """Purge until nothing is left to purge, and advance in between when something else is due."""
        clock = asyncio.get_running_loop().time
        count = 0
        try:
            while True:
                purged = await self._driver.purge(STEP)
                self._on_news(purged.news)
                if not purged.items:
                    break
                count += len(purged.items)
                self._on_purged(purged.items)
                await asyncio.sleep(0)
                if self._due_at is not None and self._due_at <= clock():
                    await self._advance()
        finally:
            if count:
                log.info("removed %s whose retention is over", "1 job" if count == 1 else f"{count} jobs")

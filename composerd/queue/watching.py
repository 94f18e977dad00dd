"""Requests that wait for a change of a job: they read it again whenever it may have changed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar
from uuid import UUID

from composerd.errors import DriverTimeout
from composerd.queue.events import Events
from composerd.queue.waits import Waits

RECHECK = 5.0
"""Interval in seconds at which a waiting request reads its job again if news of other servers may be lost."""

LATE_READ = 1.0
"""Time in seconds that a request that waits gives the storage to answer after the end of the wait."""

T = TypeVar("T")


class Watching:
    """Lets requests wait for changes of jobs, on a storage that is shared or not."""

    def __init__(self, events: Events, waits: Waits, *, shared: bool) -> None:
        self._events = events
        self._waits = waits
        self._shared = shared
        self.draining = False
        """True once no request may wait any more. Wake all watches after setting it."""

    async def until(
        self, over: Callable[[T], bool], read: Callable[[], Awaitable[T]], job_id: UUID, wait: float, client: str
    ) -> T:
        """Read something of a job until it is over, at most for `wait` seconds, and return what was read last.

        Returns as soon as it has read if requests may not wait any more, or if another client needs the place. Raises
        `Unavailable` if too many requests wait, and `DriverTimeout` if the storage does not answer at the end.
        """
        with self._events.watch(job_id, client) as watch:
            waiting = self._waits.begin(client, watch.end_early)
            try:
                deadline = _now() + wait
                found = await read()
                while True:
                    left = deadline - _now()
                    if over(found) or left <= 0 or self.draining or watch.over:
                        return found
                    del found  # it may be large
                    await watch.changed(min(left, RECHECK) if self._shared else left)
                    async with _until(deadline):
                        found = await read()
            finally:
                self._waits.end(waiting)


@asynccontextmanager
async def _until(deadline: float) -> AsyncIterator[None]:
    """Raise `DriverTimeout` if the block has not ended a moment after the end of a wait."""
    try:
        async with asyncio.timeout_at(max(deadline, _now()) + LATE_READ):  # it may begin late, see `Gate`
            yield
    except TimeoutError as exc:
        raise DriverTimeout("the storage did not answer before the end of the wait") from exc


def _now() -> float:
    return asyncio.get_running_loop().time()

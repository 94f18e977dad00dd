"""The pace of a transfer: ends a body, an upload, an answer or a download that stands still or is too slow."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from composerd.errors import Unavailable

_LOOKS = 4
"""The number of looks at a transfer in each period. One that stands still ends up to a quarter of a period late."""


class TooSlow(Unavailable):
    """A transfer stood still, or was slower than the server accepts; repeat the request over a faster connection."""

    code = "too_slow"


class Pace:
    """Watches one transfer, as an async context manager around it.

    In any `timeout` seconds at least one byte has to move, and on average `rate` bytes a second. If fewer do, what the
    block awaits is canceled, and the block raises `TooSlow`. Whatever the number of parts, it costs one timer.
    """

    def __init__(self, timeout: float, rate: int, unsent: Callable[[], int] | None = None) -> None:
        """Set the bounds; the transfer is watched from the beginning of the block.

        `unsent` returns how many of the bytes that `moved` was told of are still in the server's memory. They do not
        count as moved. It is for what is sent, because a write returns before the client has received everything.
        """
        self._timeout = timeout
        self._rate = rate
        self._unsent = unsent
        self._bytes = 0
        self._totals: deque[int] = deque([0], maxlen=_LOOKS + 1)
        """The bytes that had moved at each look in the latest period."""
        self._paused = False
        self._skipped = False
        """True if a look came during a pause."""
        self._block = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        await self._block.__aenter__()
        self._totals[0] = self._total()
        self._look_later()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        try:
            await self._block.__aexit__(kind, error, traceback)
        except TimeoutError:
            problem = f"fewer than {self._needed} bytes were transferred in {self._timeout:g} s"
            raise TooSlow(problem, problem=problem, limit=self._needed) from None

    @property
    def _needed(self) -> int:
        """The fewest bytes that have to move in a period."""
        return max(round(self._rate * self._timeout), 1)

    def moved(self, size: int) -> None:
        """Count bytes that were received or written."""
        self._bytes += size

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time of a block, in which the client waits for the server and not the other way round.

        A long pause is followed by a new period. Short ones are no reason for that, however many there are.
        """
        self._paused = True
        try:
            yield
        finally:
            self._paused = False
            if self._skipped:
                self._skipped = False
                self._totals.clear()
                self._totals.append(self._total())

    def _total(self) -> int:
        return self._bytes if self._unsent is None else self._bytes - self._unsent()

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._timeout / _LOOKS, self._look)

    def _look(self) -> None:
        """End the transfer if too few bytes have moved in the period that ends now."""
        totals = self._totals
        if self._paused:
            self._skipped = True
        else:
            totals.append(self._total())
            if len(totals) > _LOOKS and totals[-1] - totals[0] < self._needed:
                self._block.reschedule(asyncio.get_running_loop().time())
                return
        self._look_later()

"""A reserve of free space on a file system: when less is free, the server takes nothing more that needs room there."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from composerd.errors import ComposerdError, StorageFull
from composerd_protocol.free_space import default_reserve
from composerd_protocol.units import format_size

log = logging.getLogger(__name__)

LOOK_EVERY = 1.0
"""Interval in seconds at which the free space is measured."""

_LOG_EVERY = 60.0
"""Time in seconds for which another shortage is not logged."""


class DiskSpace(NamedTuple):
    """The space of a file system, in bytes."""

    free: int
    """Free for programs without special rights."""
    size: int


class FreeSpace:
    """The free space of one file system, as it was when it was last measured.

    Until it is measured for the first time, and if nobody can know it, there is enough.
    """

    def __init__(
        self, place: str, refused: str, measure: Callable[[], Awaitable[DiskSpace | None]], reserve: int | None
    ) -> None:
        """Watch the file system of a place.

        Args:
            place: The place, and `refused` what it does not take when its space is low; both for the log.
            refused: A noun in the plural.
            measure: Returns the space, and raises nothing but `ComposerdError`.
            reserve: The bytes that have to stay free: 0 to let the file system become full, None for a part of it.
        """
        self._place = place
        self._refused = refused
        self._measure = measure
        self._reserve = reserve
        self._left: float = math.inf
        """The bytes that may be used until only the reserve is free."""
        self._logged_at = -math.inf
        self._is_logged = False

    @property
    def is_low(self) -> bool:
        """True if less than the reserve is free."""
        return self._left < 0

    @property
    def shortage(self) -> str:
        """The sentence for anybody that says what is refused while less than the reserve is free."""
        return f"less than min_free_space is free on the file system of {self._place}: {self._refused} are refused"

    def check(self, size: int = 0) -> None:
        """Raise `StorageFull` if less than the reserve is free, or would be with so many more bytes."""
        if self._left < size:
            error = StorageFull(f"too little space is free for {self._refused}")
            error.logged = True
            raise error

    def take(self, size: int) -> None:
        """Count bytes that are about to be written, until the next measurement. Raises what `check` raises."""
        self.check(size)
        self._left -= size

    async def run(self) -> None:
        """Measure again and again, until canceled; return if there is no reserve."""
        while self._reserve != 0:
            await asyncio.sleep(LOOK_EVERY)
            await self.look()

    async def look(self) -> None:
        """Measure the free space now. Keep the last measurement if that fails."""
        if self._reserve == 0:
            return
        try:
            space = await self._measure()
        except ComposerdError:
            return
        if space is None:
            self._left = math.inf
            return
        reserve = default_reserve(space.size) if self._reserve is None else self._reserve
        self._left = space.free - reserve
        now = time.monotonic()
        if self.is_low and not self._is_logged and now - self._logged_at >= _LOG_EVERY:
            self._is_logged = True
            self._logged_at = now
            log.warning(
                "only %s are free on the file system of %s, less than min_free_space (%s): %s are refused until there "
                "is more",
                format_size(space.free),
                self._place,
                format_size(reserve),
                self._refused,
            )
        elif self._is_logged and not self.is_low:
            self._is_logged = False
            log.warning(
                "enough space is free on the file system of %s again: %s are accepted", self._place, self._refused
            )

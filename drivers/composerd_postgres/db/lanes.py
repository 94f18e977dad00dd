"""Lanes of the pool: how many of its connections each kind of call may have, so that none keeps the others waiting.

Claims, heartbeats and results may have all connections, and some that no other call gets. Listings and other reads may
have half of them.
"""

import asyncio
import enum
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from contextvars import ContextVar


class Lane(enum.Enum):
    """The kinds of calls."""

    WORK = enum.auto()
    """Calls that keep workers working and jobs moving: claims, heartbeats, results, leases and delays."""
    CHANGE = enum.auto()
    """Other changes: submissions, cancels, deletions."""
    READ = enum.auto()
    """Listings, payloads, counts."""


lane: ContextVar[Lane] = ContextVar("lane", default=Lane.WORK)
"""The lane of the present call. Each call of the driver runs in a task of its own, and sets it there."""


class Lanes:
    """The numbers of connections that the lanes of one pool may have."""

    def __init__(self, connections: int) -> None:
        self.others = max(1, connections - max(1, connections * 3 // 10))
        """Number of connections that all calls but those of `Lane.WORK` may have together."""
        self.reads = max(1, connections // 2)
        """Number of connections that reads may have."""
        self._others = asyncio.Semaphore(self.others)
        self._reads = asyncio.Semaphore(self.reads)

    @asynccontextmanager
    async def entered(self) -> AsyncIterator[None]:
        """Let the present call have one of the connections of its lane; wait until there is one."""
        this = lane.get()
        async with self._reads if this is Lane.READ else nullcontext(), self._others:
            yield

"""Values that are computed at most once a second, however many clients ask for them."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

EVERY = 1.0
"""Time in seconds after a computation began before the next one may begin."""

T = TypeVar("T")


class Latest(Generic[T]):
    """The latest value of a computation, which those who ask at the same time share."""

    def __init__(self, compute: Callable[[], Awaitable[T]]) -> None:
        self._compute = compute
        self._task: asyncio.Task[T] | None = None
        self._next_at = 0.0

    async def get(self) -> T:
        """Return a value that is at most a second old, or one that is being computed. Raises what that raises."""
        task = self._task
        if task is None or (task.done() and time.monotonic() >= self._next_at):
            self._next_at = time.monotonic() + EVERY
            task = self._task = asyncio.create_task(self._run())
            task.add_done_callback(_look)
        return await asyncio.shield(task)

    async def _run(self) -> T:
        return await self._compute()

    async def close(self) -> None:
        """Cancel a computation that is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])


def _look(task: "asyncio.Task[T]") -> None:
    """Look at an error, so that asyncio does not log it if everybody who asked has gone."""
    if not task.cancelled():
        task.exception()

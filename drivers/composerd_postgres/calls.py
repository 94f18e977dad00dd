"""`Calls`: runs each call of the driver in a task of its own, with a time limit and a lane of the pool."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from contextvars import copy_context
from typing import Any, TypeVar

from composerd.errors import DriverTimeout, OutcomeUnknown, StorageFull, Unavailable
from composerd_postgres.db.deadline import ends_at
from composerd_postgres.db.lanes import Lane, lane

T = TypeVar("T")

CLOSE_LIMIT = 1.0
"""Time in seconds that `wait` waits for calls in progress."""


class Calls:
    """The calls of one driver that are in progress."""

    def __init__(self, time_limit: float) -> None:
        self._time_limit = time_limit
        self._tasks: set[asyncio.Task[Any]] = set()
        self.suspicious = False
        """True after a call was not answered, which may have waited for its commit, until a commit is answered."""
        self.full = False
        """True after the database had no room for something, until it has stored something again."""

    async def complete(self, call: Coroutine[Any, Any, T], on: Lane = Lane.WORK, *, changes_jobs: bool = False) -> T:
        """Complete a call even if the caller is canceled: a statement that is interrupted is executed nevertheless.

        The call has `time_limit` as a whole. With `changes_jobs`, it changes jobs in one transaction: it raises
        `OutcomeUnknown` if a COMMIT was sent and not answered, and any other `Unavailable` if nothing was changed.
        """
        loop = asyncio.get_running_loop()
        context = copy_context()
        context.run(ends_at.set, loop.time() + self._time_limit)
        context.run(lane.set, on)
        task = loop.create_task(call, context=context)
        self.add(task)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if not task.cancelled() or caller is None or caller.cancelling():
                task.add_done_callback(_retrieve)
                raise
            raise (OutcomeUnknown if changes_jobs else Unavailable)("the driver was closed") from None
        except OutcomeUnknown:
            self.suspicious = True
            raise
        except StorageFull:
            self.full = True
            raise
        except DriverTimeout as exc:
            self.suspicious = True
            if not changes_jobs:
                raise
            raise Unavailable(f"{exc}; nothing was changed") from exc

    def start(self, call: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Start a call without a limit, whose exception may be forgotten."""
        task = asyncio.create_task(call)
        task.add_done_callback(_retrieve)
        self.add(task)
        return task

    def add(self, task: "asyncio.Task[Any]") -> None:
        """Count a task as a call in progress."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def wait(self) -> None:
        """Wait for calls in progress, for a moment."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_LIMIT):
                while self._tasks:
                    await asyncio.wait(self._tasks)

    def cancel(self) -> None:
        """Cancel the calls in progress, each of which closes its connection."""
        for task in self._tasks:
            task.cancel()


def _retrieve(task: "asyncio.Task[Any]") -> None:
    """Retrieve the exception of a task whose caller is gone, so that asyncio does not report it as forgotten."""
    if not task.cancelled():
        task.exception()

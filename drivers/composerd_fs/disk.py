"""The disk's own thread: blocking calls of one journal, one after the other, off the event loop.

An executor does the same with three times the machinery, which shows where every flush of the server goes through it.
"""

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

_Call = tuple[asyncio.AbstractEventLoop, asyncio.Future[Any], Callable[..., Any], tuple[Any, ...]]


class DiskThread:
    """A thread that makes calls in the order in which they were asked for."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def call(self, work: Callable[..., T], *args: Any) -> "asyncio.Future[T]":
        """Make a call; the future has what it returns or raises. Canceled, the call is made all the same."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._calls.put((loop, future, work, args))
        return future

    async def close(self) -> None:
        """Wait for the calls, and end the thread. Fine twice."""
        if self._thread is not None:
            await self.call(self._calls.put, None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            loop, future, work, args = call
            try:
                answer = work(*args)
            except BaseException as exc:  # noqa: BLE001  # whoever asked gets it, whatever it is
                loop.call_soon_threadsafe(_fail, future, exc)
            else:
                loop.call_soon_threadsafe(_answer, future, answer)


def _answer(future: "asyncio.Future[Any]", answer: Any) -> None:
    if not future.done():
        future.set_result(answer)


def _fail(future: "asyncio.Future[Any]", error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)

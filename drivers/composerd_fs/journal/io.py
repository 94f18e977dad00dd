"""Blocking work on files, to be called in threads, and the thread that makes the calls of one journal.

Writes and reads are complete to the last byte.
"""

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

_Call = tuple[asyncio.AbstractEventLoop, asyncio.Future[Any], Callable[..., Any], tuple[Any, ...]]


def write_all(descriptor: int, data: bytes, offset: int) -> None:
    """Write all of `data`, in several calls if the kernel takes only a part."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view = view[written:]
        offset += written


def read_exactly(descriptor: int, length: int, offset: int) -> bytes:
    """Return exactly `length` bytes of a file. Raises `OSError` if it ends before."""
    data = os.pread(descriptor, length, offset)
    while len(data) < length:
        more = os.pread(descriptor, length - len(data), offset + len(data))
        if not more:
            raise OSError(errno.EIO, "the file ends too early")
        data += more
    return data


class DiskThread:
    """A thread that makes the blocking calls of one journal, one after the other, away from the event loop.

    An executor does this too, but with three times the code on the way of every flush.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def call(self, work: Callable[..., T], *args: Any) -> "asyncio.Future[T]":
        """Let the thread call `work`, and return a future of its return value or exception.

        Canceling the future does not prevent the call.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._calls.put((loop, future, work, args))
        return future

    async def close(self) -> None:
        """Wait until all calls have been made, and end the thread. Do nothing if it does not run."""
        if self._thread is not None:
            await self.call(self._calls.put, None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            loop, future, work, args = call
            try:
                answer = work(*args)
            except BaseException as exc:  # noqa: BLE001  # the caller gets it, whatever it is
                loop.call_soon_threadsafe(_fail, future, exc)
            else:
                loop.call_soon_threadsafe(_answer, future, answer)


def _answer(future: "asyncio.Future[Any]", answer: Any) -> None:
    if not future.done():
        future.set_result(answer)


def _fail(future: "asyncio.Future[Any]", error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)

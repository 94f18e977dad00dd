"""Blocking work on files, to be called in threads, and the thread that makes the calls of one journal.

Writes and reads are complete to the last byte, and new names in a directory are brought to stable storage.
"""

import asyncio
import errno
import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from composerd.errors import StorageUnusable

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


def sync_directory(directory: Path) -> None:
    """Bring the names in a directory to stable storage."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Create a directory and its parents, for their owner only, on stable storage. Do nothing if it exists."""
    if path.is_dir():
        return
    make_directory(path.parent)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        return
    sync_directory(path.parent)


class DirectoryLock:
    """A lock that lets one process at a time use a directory. The kernel releases it when the process ends."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "LOCK"
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock. Raises `StorageUnusable` if another process, or another driver of this one, has it."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise StorageUnusable(
                f"{self._path.parent} is in use by another composerd (process {holder}): "
                "stop that process, or use another directory"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Release the lock, if it was acquired."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


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

"""Blocking work on files, to be called in threads, and the thread that makes the calls of one journal.

Writes and reads are complete to the last byte, and directories are brought to stable storage.
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
    """Write all of it, however the kernel cuts it."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view = view[written:]
        offset += written


def read_exactly(descriptor: int, length: int, offset: int) -> bytes:
    """Read that much. Raises `OSError` where the file ends too early."""
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
    """Make a directory, and those above it, for its owner only; on stable storage. Fine if it is there."""
    if path.is_dir():
        return
    make_directory(path.parent)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        return
    sync_directory(path.parent)


class DirectoryLock:
    """One process holds a directory. The lock goes with the process, however it ends."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "LOCK"
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take it. Raises `StorageUnusable` if somebody else has it."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise StorageUnusable(
                f"{self._path.parent} is in use by another composerd (process {holder}): stop that one, or use another directory"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Let go of it. Fine twice."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class DiskThread:
    """A thread that makes the blocking calls of one journal off the event loop, in the order in which they were asked for.

    An executor does the same with three times the machinery, and every flush of the server goes through it.
    """

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

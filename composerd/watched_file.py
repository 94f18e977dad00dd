"""A file of the operator's that is read at the start, and again whenever it changes."""

import asyncio
import errno
import logging
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

from composerd.errors import ComposerdError
from composerd.ownership import check_trusted

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

LOOK_EVERY = 0.5
"""Seconds between two looks at the file. A change is read at the third look at the latest, so within 2 s."""

MOST_UNSETTLED = 2
"""The most looks in a row that find the file changing and leave it for the next one: somebody is writing it."""

LOOK_NOW_EVERY = 0.25
"""The least time in seconds between two looks that somebody asks for."""

LARGEST = 32 * 1024**2
"""The most bytes of a file."""

_UNUSABLE = (OSError, ValueError, RecursionError)
"""Raised for a file that cannot be read, or whose content is wrong."""

Signature = tuple[int, ...] | str
"""A value that differs between versions of a file, or the reason why the file cannot be opened."""


class UnusableFile(ComposerdError):
    """A file that a setting names cannot be used; the message says why and what to do."""

    code = "unusable_file"


class WatchedFile(Generic[T]):
    """The value of a file, which is that of its latest version that could be used.

    A version that cannot be used changes nothing: it is logged, and `problem` says why until there is a better one.
    """

    def __init__(self, path: str | Path, parse: Callable[[bytes], T], setting: str, *, secret: bool = False) -> None:
        """Read the file. Raises `UnusableFile`.

        `parse` turns its content into the value, in a thread; its `ValueError` says what is wrong, and quotes nothing
        that may be secret. `setting` names the file in messages. If it is `secret`, a warning is logged if everybody on
        the machine can read it.
        """
        self.path = Path(path)
        self.on_change: Callable[[], None] = lambda: None
        """Called in the loop when there is another value."""
        self.problem: str | None = None
        """The reason why the file's present version is not used; it does not name the path."""
        self._parse = parse
        self._setting = setting
        self._secret = secret
        # A thread of its own: a revoked token must not work on because a disk keeps the other threads waiting.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"file of {setting}")
        self._reading = asyncio.Lock()
        """Held while the file is looked at and read."""
        self._looked_at = float("-inf")
        """The time of the latest look that somebody has asked for, by the loop's clock."""
        self._pending: Signature = ""
        self._unsettled = 0
        """The number of looks in a row that found the file changing."""
        self._read: Signature = self._signature()
        """The signature of the version that was read last."""
        try:
            self.value: T = self._load()
        except _UNUSABLE as exc:
            raise UnusableFile(f"{setting}: {self.path} cannot be used: {_reason(exc)}") from exc

    async def run(self) -> None:
        """Look at the file again and again, until canceled."""
        try:
            while True:
                await asyncio.sleep(LOOK_EVERY)
                async with self._reading:
                    if await self._in_thread(self._has_changed):
                        await self._read_again()
        finally:
            self._thread.shutdown(wait=False)

    async def look_now(self) -> None:
        """Read the file now if it has changed and can be used, for what may have been added a moment ago.

        However often this is called, the file is looked at a few times a second, so this may take a moment.
        """
        loop = asyncio.get_running_loop()
        called_at = loop.time()
        async with self._reading:
            if self._looked_at >= called_at:
                return
            await asyncio.sleep(self._looked_at + LOOK_NOW_EVERY - called_at)
            self._looked_at = loop.time()
            found = await self._in_thread(self._signature)
            if found == self._read:
                return
            with suppress(*_UNUSABLE):  # `run` says so, unless somebody is still writing
                self._take(await self._in_thread(self._load))
                self._read = found

    async def _in_thread(self, work: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _take(self, value: T) -> None:
        """Have another value from now on."""
        self.value = value
        self.problem = None
        log.info("read the new version of %s; it is in force", self.path)
        self.on_change()

    async def _read_again(self) -> None:
        try:
            self._take(await self._in_thread(self._load))
        except _UNUSABLE as exc:
            if isinstance(exc, OSError):
                self._read = ""  # it may be readable at the next look without a change
            reason = _reason(exc)
            problem = f"{self._setting}: the file cannot be used, so its previous version stays in force: {reason}"
            if problem != self.problem:
                self.problem = problem
                log.warning("cannot use %s, so its previous version stays in force: %s", self.path, reason)

    def _has_changed(self) -> bool:
        """Return True if there is a version to read: another than before, which nobody seems to be writing still."""
        found = self._signature()
        if found == self._read:
            self._unsettled = 0
            return False
        if found != self._pending and self._unsettled < MOST_UNSETTLED:
            self._pending = found
            self._unsettled += 1
            return False
        self._read = found
        self._unsettled = 0
        return True

    def _signature(self) -> Signature:
        try:
            descriptor = _open(self.path)  # on NFS, a file that is opened is looked up again, and one in a cache is not
        except OSError as exc:
            return _reason(exc)
        try:
            found = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def _load(self) -> T:
        content = read_trusted(self.path, secret=self._secret)
        try:
            return self._parse(content)
        except _UNUSABLE:
            raise
        except Exception as exc:  # of a library, for example; whatever it is, later versions have to be read
            raise ValueError(f"reading it has failed ({type(exc).__name__})") from exc


def read_trusted(path: Path, *, secret: bool = False, any_owner: bool = False) -> bytes:
    """Return the content of a file that nobody but its owner can write to, who is root or this user.

    With `any_owner` it may be another user's. Raises `OSError` if it cannot be read, and `ValueError` if somebody else
    could change it, or if it is too large.
    """
    with os.fdopen(_open(path), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is not a regular file")
        check_trusted(found, any_owner=any_owner)
        if secret and found.st_mode & stat.S_IROTH:
            log.warning("every user of this machine can read %s: forbid that with `chmod o-r %s`", path, path)
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"it is larger than {LARGEST} bytes")
    return content


def _open(path: Path) -> int:
    """Return a descriptor of a file that is not a directory. A FIFO keeps nobody waiting."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    return descriptor


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)

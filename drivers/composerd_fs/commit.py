"""Group commit: one flush at a time takes all writes that are waiting, of every kind.

Nothing of a flush is visible or acknowledged before it is on stable storage: queries wait until no flush is under way,
and if the journal refuses a flush, the table takes its changes back.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from composerd.driver.clock import Clock
from composerd.errors import ComposerdError, DriverError, StorageFull, Unavailable
from composerd.models import News
from composerd_fs.journal.entries import JournalEntry, Payload
from composerd_fs.journal.reserve import Purpose
from composerd_fs.state.changes import Slices
from composerd_fs.state.table import Table

MAX_BYTES = 64 * 1024 * 1024
"""The most bytes of payloads in a flush, unless a single write has more."""

MAX_ITEMS = 1000
"""The most items in a flush, unless a single write has more. Other writes and queries wait for its end."""

ARCHIVED_AT_ONCE = 8000
"""The work of `Jobs.archive_resting` that is done before other tasks get a turn: about 3 ms."""

GATHER = 3
"""Turns of the event loop before a flush begins, so that requests that are still in their handlers can join it.

This is not a timer: an idle loop makes the turns in microseconds.
"""

A = TypeVar("A")
T = TypeVar("T")


class FlushLog(Protocol):
    """Log that flushes are written to: the journal, or nothing."""

    written_bytes: int
    written_entries: int
    full: bool
    """True while there is no room."""
    record: Callable[[JournalEntry], None]
    """Adds an entry to the flush."""

    def payload(self, data: bytes) -> Payload:
        """Add a payload to the flush, and return the value that an entry has in its place."""

    async def begin(self) -> int:
        """Begin a flush, and return the number that makes the locations in its entries absolute."""

    async def flush(self, wanted: Sequence[int], purpose: Purpose) -> list[bytes | Unavailable]:
        """Bring the flush to stable storage, and return the payloads at some locations, or an error for one.

        The purpose says how much of the reserve of a full disk it may use.
        """


class Compaction(Protocol):
    """Interface of the compactor, which makes the log smaller from time to time."""

    due_at_bytes: int
    """Number of bytes, written and freed, at which a compaction has to be started."""
    due_at_entries: int
    """Number of written entries at which a compaction may have to be started."""

    async def maybe_start(self) -> None:
        """Start a compaction if one is due. Called between two flushes."""


class NullLog:
    """The log of a storage that is kept in memory only."""

    full = False

    def __init__(self) -> None:
        self.written_bytes = 0
        self.written_entries = 0
        self.record: Callable[[JournalEntry], None] = _drop

    def payload(self, data: bytes) -> Payload:
        """Return the payload itself."""
        return bytes(data)

    async def begin(self) -> int:
        """Return 0: there are no locations."""
        return 0

    async def flush(
        self,
        wanted: Sequence[int],  # noqa: ARG002  # there are no locations
        purpose: Purpose,  # noqa: ARG002  # there is always room
    ) -> list[bytes | Unavailable]:
        """Return nothing: every payload is in memory."""
        return []


def _drop(_entry: JournalEntry) -> None:
    """Ignore an entry."""


class Write(msgspec.Struct, Generic[A], eq=False):
    """A write that waits for its flush."""

    decide: Callable[..., Slices[A]]
    args: tuple[Any, ...]
    items: int
    """The number of its items."""
    size: int
    """The bytes of its payloads."""
    reads: bool
    """True if the answer has `payloads` that are to be read in the same flush."""
    purpose: Purpose
    future: "asyncio.Future[Done[A]]"


class Done(msgspec.Struct, Generic[A], eq=False):
    """A write that is on stable storage."""

    answer: A
    """The value that `decide` has returned."""
    news: News
    payloads: list[Any]
    """The payloads of the answer, read: each is bytes or None."""


class Committer:
    """The one task that changes the table, and that reads it between two flushes.

    Writes that arrive while a flush is under way go into the next one, and queries wait for its end. So a query never
    shows a change that may still be lost.
    """

    def __init__(self, table: Table, clock: Clock, log: FlushLog) -> None:
        self.compaction: Compaction | None = None
        self._table = table
        self._clock = clock
        self._log = log
        self._calls: list[tuple[Callable[..., Any], tuple[Any, ...], asyncio.Future[Any]]] = []
        self._writes: deque[Write[Any]] = deque()
        self._task: asyncio.Task[None] | None = None

    def between_flushes(self, function: Callable[..., T], *args: Any) -> "asyncio.Future[T]":
        """Call a function while the table is as it is on stable storage, and return a future of its return value.

        It must not take long: other tasks wait.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._calls.append((function, args, future))
        if self._task is None:
            self._task = loop.create_task(self._run())
        return future

    def write(
        self,
        decide: Callable[..., Slices[A]],
        *args: Any,
        items: int = 1,
        size: int = 0,
        reads: bool = False,
        purpose: Purpose = Purpose.STORE,
    ) -> "asyncio.Future[Done[A]]":
        """Let `decide` change the table, and return a future that is done when that is on stable storage.

        The future raises a `ComposerdError` if the log refuses the flush; the table is then as it was. It also raises
        one if a payload cannot be read; then the write stands.

        Args:
            decide: Changes the table in slices, and returns the answer.
            args: Its arguments.
            items: The number of items that it is about.
            size: The bytes of the payloads that it stores.
            reads: True if the answer has `payloads` that are to be read in the same flush.
            purpose: How much of the reserve it may use when the disk is full.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Done[A]] = loop.create_future()
        self._writes.append(Write(decide, args, items, size, reads, purpose, future))
        if self._task is None:
            self._task = loop.create_task(self._run())
        return future

    async def close(self) -> None:
        """Wait until every write and query that has begun is answered."""
        while self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            while self._calls or self._writes:
                calls, self._calls = self._calls, []
                for function, args, future in calls:
                    if not future.done():
                        try:
                            future.set_result(function(*args))
                        except Exception as exc:  # noqa: BLE001  # the caller gets it
                            future.set_exception(exc)
                if self._writes:
                    for _ in range(GATHER):
                        await asyncio.sleep(0)
                    await self._flush(self._take())
        finally:
            self._task = None

    def _take(self) -> list[Write[Any]]:
        """Take as many writes as fit into a flush."""
        taken: list[Write[Any]] = []
        items = size = 0
        while self._writes:
            items += self._writes[0].items
            size += self._writes[0].size
            if taken and (items > MAX_ITEMS or size > MAX_BYTES):
                break
            taken.append(self._writes.popleft())
        return taken

    async def _flush(self, writes: list[Write[Any]]) -> Exception | None:
        """Flush writes, and return the error if they were refused."""
        table, log, compaction = self._table, self._log, self.compaction
        locations: list[int] = []
        done: list[Done[Any]] = []
        try:
            if compaction is not None and (
                log.written_bytes + table.freed_bytes >= compaction.due_at_bytes
                or log.written_entries >= compaction.due_at_entries
                or log.full
            ):
                await compaction.maybe_start()
            table.base = await log.begin()
            for write in writes:
                answer = await _in_slices(write.decide(*write.args))
                payloads = []
                if write.reads:
                    payloads = list(answer.payloads)
                    locations += [payload for payload in payloads if isinstance(payload, int)]
                done.append(Done(answer, table.take_news(self._clock.now()), payloads))
            read = await log.flush(locations, min(write.purpose for write in writes))
        except Exception as exc:  # noqa: BLE001  # the callers get it
            table.roll_back()  # whatever it was, the table must not keep what is not stored
            await self._refused(writes, exc)
            return exc
        table.commit()
        found = iter(read)
        for write, one in zip(writes, done, strict=True):
            error = None
            payloads = one.payloads
            for index, payload in enumerate(payloads):
                if isinstance(payload, int):
                    payloads[index] = payload = next(found)
                    if isinstance(payload, Unavailable):
                        # The write stands, and may be repeated. Its kind says that other claims need not fail with it.
                        error = DriverError(str(payload))
            if write.future.done():
                continue
            if error is None:
                write.future.set_result(one)
            else:
                write.future.set_exception(_for_one_caller(error))
        while table.jobs.archive_resting(ARCHIVED_AT_ONCE):  # noqa: ASYNC110  # nothing is waited for
            await asyncio.sleep(0)
        return None

    async def _refused(self, writes: list[Write[Any]], error: Exception) -> None:
        if len(writes) > 1 and isinstance(error, StorageFull):
            await self._flush_what_fits(writes)
        elif len(writes) > 1 and not isinstance(error, ComposerdError):
            for write in writes:  # one may fail by itself: then the others are not affected
                await self._flush([write])
        else:
            _refuse(writes, error)

    async def _flush_what_fits(self, writes: list[Write[Any]]) -> None:
        """Flush writes that found no room together: first those that may use most of the reserve, then small ones."""
        most = max(write.purpose for write in writes)
        others = [write for write in writes if write.purpose is not most]
        if others:
            await self._flush([write for write in writes if write.purpose is most])
            await self._flush(others)
            return
        writes.sort(key=_size)
        for nth, write in enumerate(writes, 1):
            error = await self._flush([write])
            if isinstance(error, StorageFull):
                _refuse(writes[nth:], error)  # larger ones find no room either
                return


async def _in_slices(work: Slices[A]) -> A:
    """Do work, let other tasks have a turn between its slices, and return its answer."""
    while True:
        try:
            next(work)
        except StopIteration as stop:
            answer: A = stop.value
            return answer
        await asyncio.sleep(0)


def _size(write: Write[Any]) -> tuple[int, int]:
    return write.size, write.items


def _refuse(writes: Sequence[Write[Any]], error: Exception) -> None:
    for write in writes:
        if not write.future.done():
            write.future.set_exception(_for_one_caller(error))


def _for_one_caller(error: Exception) -> Exception:
    """Return a copy of an error, because one that is raised in several tasks would gather all their tracebacks."""
    if not isinstance(error, ComposerdError):
        return error
    own = type(error)(str(error), **error.details)
    own.logged = error.logged
    own.__cause__ = error.__cause__
    return own

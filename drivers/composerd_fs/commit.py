"""Group commit: one flush at a time takes all that has queued, of every kind of operation.

Nothing of a flush is seen before it is on stable storage: looks wait their turn between flushes, and when the journal
refuses a flush the table takes it back.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar, cast

from composerd.driver.clock import Clock
from composerd.errors import ComposerdError, StorageFull, Unavailable
from composerd.models import News
from composerd_fs.journal.entries import Payload
from composerd_fs.state.table import Table

MAX_BYTES = 64 * 1024 * 1024
"""The most payload in a flush, a single larger write apart."""

GATHER = 3
"""Turns of the loop before a flush begins: requests that have arrived, but are not through their handlers yet, share it.

That is no timer: an idle loop makes them in microseconds.
"""

A = TypeVar("A")
T = TypeVar("T")


class Log(Protocol):
    """Where a flush goes: the journal, or nowhere."""

    async def begin(self) -> int:
        """Begin a flush; the base of its payloads' places."""

    async def flush(self, wanted: Sequence[int]) -> list[bytes | Unavailable]:
        """Bring the flush to stable storage, and read payloads; one that cannot be read is an error in its place."""


class Write(Generic[A, T]):
    """A write that waits for its flush."""

    __slots__ = ("answer", "complete", "decide", "future", "size", "wants")

    def __init__(
        self,
        decide: Callable[[], A],
        complete: Callable[[A, list[bytes | None], News], T],
        wants: Callable[[A], Sequence[Payload | None]],
        size: int,
        future: "asyncio.Future[T]",
    ) -> None:
        self.decide = decide
        self.complete = complete
        self.wants = wants
        self.size = size
        self.future = future
        self.answer: A


class Committer:
    """The one task that touches the table."""

    def __init__(self, table: Table, clock: Clock, log: Log) -> None:
        self._table = table
        self._clock = clock
        self._log = log
        self._looks: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []
        self._writes: deque[Write[Any, Any]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def look(self, look: Callable[[], T]) -> T:
        """Call something on the table as it is on stable storage."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._looks.append((look, future))
        self._start()
        return await future

    async def write(
        self,
        decide: Callable[[], A],
        complete: Callable[[A, list[bytes | None], News], T],
        *,
        wants: Callable[[A], Sequence[Payload | None]] = lambda _answer: (),
        size: int = 0,
    ) -> T:
        """Let `decide` change the table; once that is on stable storage, `complete` makes the answer of it.

        `wants` names payloads to be read on the same trip to the disk. Raises what the log raises; the table is then as
        before.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._writes.append(Write(decide, complete, wants, size, future))
        self._start()
        return await future

    async def close(self) -> None:
        """Wait for what has queued."""
        while self._task is not None:
            await asyncio.wait([self._task])

    def _start(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            while self._looks or self._writes:
                looks, self._looks = self._looks, []
                for look, future in looks:
                    _settle(future, look)
                for _ in range(GATHER):
                    await asyncio.sleep(0)
                writes = self._take()
                if writes:
                    await self._flush(writes)
        finally:
            self._task = None

    def _take(self) -> list[Write[Any, Any]]:
        taken: list[Write[Any, Any]] = []
        size = 0
        while self._writes:
            size += self._writes[0].size
            if taken and size > MAX_BYTES:
                break
            taken.append(self._writes.popleft())
        return taken

    async def _flush(self, writes: list[Write[Any, Any]]) -> None:
        table = self._table
        places: list[int] = []
        answers: list[tuple[Write[Any, Any], Sequence[Payload | None], News]] = []
        try:
            table.base = await self._log.begin()
            for write in writes:
                write.answer = write.decide()
                wanted = write.wants(write.answer)
                places.extend([place for place in wanted if isinstance(place, int)])
                answers.append((write, wanted, table.take_news(self._clock.now())))
            read = iter(await self._log.flush(places))
        except Exception as exc:  # noqa: BLE001  # whatever it was, the table must not keep what is not stored; the callers get it
            table.roll_back()
            if isinstance(exc, StorageFull) and len(writes) > 1:
                for write in writes:  # one of them may be too large for what room there is, another need none at all
                    await self._flush([write])
                return
            for write in writes:
                if not write.future.done():
                    write.future.set_exception(_for_one_caller(exc))
            return
        table.undo.clear()
        for write, wanted, news in answers:
            payloads = [next(read) if isinstance(one, int) else one for one in wanted]
            if not write.future.done():
                _answer(write, payloads, news)
        table.put_away()


def _answer(write: Write[Any, Any], payloads: list[bytes | Unavailable | None], news: News) -> None:
    for payload in payloads:
        if isinstance(payload, Unavailable):  # the write stands, and may be repeated
            write.future.set_exception(_for_one_caller(payload))
            return
    write.future.set_result(write.complete(write.answer, cast(list[bytes | None], payloads), news))


def _settle(future: "asyncio.Future[Any]", look: Callable[[], Any]) -> None:
    if future.done():
        return
    try:
        future.set_result(look())
    except Exception as exc:  # noqa: BLE001  # the caller gets it
        future.set_exception(exc)


def _for_one_caller(error: Exception) -> Exception:
    """An exception that is raised in several tasks would gather all their tracebacks: each gets its own."""
    if not isinstance(error, ComposerdError):
        return error
    own = type(error)(str(error), **error.details)
    own.__cause__ = error.__cause__
    return own

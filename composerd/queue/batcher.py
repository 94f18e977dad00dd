"""Gathers writes of one kind, and calls the driver once for all of them."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import ClassVar, Generic, TypeVar

from composerd.errors import ComposerdError
from composerd.models import News
from composerd.queue.repeating import Call, call_until_answered

MAX_ITEMS = 1000
"""The most items in a call."""

MAX_BYTES = 64 * 1024 * 1024
"""The most bytes of payload in a call; a single larger item goes alone."""

MAX_BYTES_COALESCED = 64 * 1024
"""The most bytes of payload in a call of a driver that gathers calls into one flush by itself.

If there is no room for a call, all its items are refused, so small ones do not share a call with large ones.
"""

I = TypeVar("I")  # noqa: E741  # item
R = TypeVar("R")


def weightless(_item: object) -> int:
    """Return 0, the weight of an item without payload."""
    return 0


class Batcher(Generic[I, R]):
    """Makes one call at a time: what arrives during a call goes into the next one.

    There is no timer: an item that comes alone is written at once. The call runs in a task of the batcher, so a client
    that goes away cancels its handler, never a write.
    """

    max_bytes: ClassVar[int] = MAX_BYTES

    def __init__(
        self, call: Call[I, R], on_news: Callable[[News], None], weigh: Callable[[I], int] = weightless
    ) -> None:
        self._loop = asyncio.get_running_loop()  # once: Python 3.11 makes a system call at each look
        self._call = call
        self._on_news = on_news
        self._weigh = weigh
        self._pending: deque[tuple[I, asyncio.Future[R]]] = deque()
        self._task: asyncio.Task[None] | None = None
        """The task that takes what is pending."""

    def write(self, item: I) -> "asyncio.Future[R]":
        """Begin to write an item, and return a future with the driver's answer to it.

        The future raises an answer that is an error. Canceling the future does not cancel the write.
        """
        answer: asyncio.Future[R] = self._loop.create_future()
        self._pending.append((item, answer))
        if self._task is None:
            self._task = self._loop.create_task(self._run())
        return answer

    async def close(self) -> None:
        """Wait until every write that has begun is answered."""
        while self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            while self._pending:
                await self._write(self._take())
        finally:
            self._task = None

    def _take(self) -> list[tuple[I, "asyncio.Future[R]"]]:
        pending = self._pending
        if len(pending) == 1:
            return [pending.popleft()]
        taken: list[tuple[I, asyncio.Future[R]]] = []
        weight = 0
        while pending and len(taken) < MAX_ITEMS:
            weight += self._weigh(pending[0][0])
            if taken and weight > self.max_bytes:
                break
            taken.append(pending.popleft())
        return taken

    async def _write(self, taken: list[tuple[I, "asyncio.Future[R]"]]) -> None:
        outcomes, news = await call_until_answered(self._call, [item for item, _ in taken])
        for (_, answer), outcome in zip(taken, outcomes, strict=True):
            if answer.done():
                continue  # its caller has gone; the write stands
            if isinstance(outcome, ComposerdError):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)
        for one in news:
            self._on_news(one)


class ConcurrentBatcher(Batcher[I, R]):
    """Makes a call for what arrives in one turn of the event loop, without waiting for earlier calls to end.

    This is for drivers that gather concurrent calls into one flush by themselves (`Capabilities.coalesces`).
    """

    max_bytes: ClassVar[int] = MAX_BYTES_COALESCED

    def __init__(
        self, call: Call[I, R], on_news: Callable[[News], None], weigh: Callable[[I], int] = weightless
    ) -> None:
        super().__init__(call, on_news, weigh)
        self._calling: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Wait until every write that has begun is answered."""
        while running := self._calling | ({self._task} if self._task is not None else set()):
            await asyncio.wait(running)

    async def _run(self) -> None:
        task = self._task
        assert task is not None, "this is that task"
        self._calling.add(task)
        try:
            taken = self._take()
            self._task = self._loop.create_task(self._run()) if self._pending else None
            await self._write(taken)
        finally:
            self._calling.discard(task)

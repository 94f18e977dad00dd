"""Batches of writes, one flush at a time: what arrives while a flush runs goes into the next. Waiting for jobs is not here (dispatcher)."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from composerd.driver import Batch
from composerd.errors import ComposerdError, DriverError, StorageFull, Unavailable
from composerd.models import News

log = logging.getLogger(__name__)

MAX_ITEMS = 1000
"""The most items in a flush."""

MAX_BYTES = 64 * 1024 * 1024
"""The most payload in a flush, a single larger item apart."""

I = TypeVar("I")  # noqa: E741  # item
R = TypeVar("R")

Flush = Callable[[Sequence[I]], Awaitable[Batch[R | ComposerdError]]]


def _weightless(_item: object) -> int:
    return 0


class Batcher(Generic[I, R]):
    """Collects items and hands them to a driver's batch method.

    There is no timer: an item that comes alone is flushed at once. The flush runs in a task of the batcher's own, so a
    caller that is canceled takes nothing with it. An answer that is an error is raised for the caller whose item it
    was.
    """

    def __init__(
        self,
        flush: Flush[I, R],
        on_news: Callable[[News], None],
        weigh: Callable[[I], int] = _weightless,
    ) -> None:
        self._flush = flush
        self._on_news = on_news
        self._weigh = weigh
        self._pending: deque[tuple[I, asyncio.Future[R]]] = deque()
        self._task: asyncio.Task[None] | None = None

    def put(self, item: I) -> "asyncio.Future[R]":
        """Queue an item; the future has its answer once the driver has given it."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        self._pending.append((item, future))
        if self._task is None:
            self._task = loop.create_task(self._run())
        return future

    async def close(self) -> None:
        """Wait until everything that was put has been answered."""
        while self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            while self._pending:
                await self._flush_once(self._take())
        finally:
            self._task = None

    def _take(self) -> list[tuple[I, "asyncio.Future[R]"]]:
        taken: list[tuple[I, asyncio.Future[R]]] = []
        weight = 0
        while self._pending and len(taken) < MAX_ITEMS:
            weight += self._weigh(self._pending[0][0])
            if taken and weight > MAX_BYTES:
                break
            taken.append(self._pending.popleft())
        return taken

    async def _flush_once(self, taken: list[tuple[I, "asyncio.Future[R]"]]) -> None:
        answers, news = await ask(self._flush, [item for item, _ in taken])
        for (_, future), answer in zip(taken, answers, strict=True):
            if future.done():
                continue  # its caller has gone; the write stands
            if isinstance(answer, ComposerdError):
                future.set_exception(answer)
            else:
                future.set_result(answer)
        for one in news:
            self._on_news(one)


async def ask(flush: Flush[I, R], items: Sequence[I]) -> tuple[Sequence[R | ComposerdError], list[News]]:
    """Flush items and answer each, whatever happens.

    An exception says nothing about the items, and every write may be repeated: so they are repeated together, then one
    by one, and only what fails alone is answered with its error. A store that refuses outright (full, unavailable) is
    not pestered item by item.
    """
    for last in (False, True):
        try:
            batch = await flush(items)
        except StorageFull as exc:
            return [exc] * len(items), []
        except ComposerdError as exc:
            if last and (len(items) == 1 or not isinstance(exc, DriverError)):
                return [exc] * len(items), []
        else:
            return batch.items, [batch.news]
    return await _one_by_one(flush, items)


async def _one_by_one(flush: Flush[I, R], items: Sequence[I]) -> tuple[Sequence[R | ComposerdError], list[News]]:
    log.warning("a batch of %d failed twice: its items are tried one by one", len(items))
    answers: list[R | ComposerdError] = []
    news: list[News] = []
    for item in items:
        try:
            batch = await flush([item])
        except ComposerdError as exc:
            answers.append(exc)
            if isinstance(exc, (StorageFull, Unavailable)) and not isinstance(exc, DriverError):
                answers.extend([exc] * (len(items) - len(answers)))
                break
        else:
            answers.append(batch.items[0])
            news.append(batch.news)
    return answers, news

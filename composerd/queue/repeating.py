"""The one rule for repeating a failed call of the driver. Which items are in a call is decided by the callers."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from composerd.driver import Batch
from composerd.errors import ComposerdError, DriverError, StorageFull, Unavailable
from composerd.models import News

log = logging.getLogger(__name__)

I = TypeVar("I")  # noqa: E741  # item
R = TypeVar("R")

Call = Callable[[Sequence[I]], Awaitable[Batch[R | ComposerdError]]]
"""A writing method of a driver."""


async def call_until_answered(
    call: Call[I, R], items: Sequence[I]
) -> tuple[Sequence[R | ComposerdError], Sequence[News]]:
    """Call a writing method of a driver, and repeat it after a failure until each item has an answer.

    An exception of the call says nothing about its items, and every write may be repeated. So the items are repeated
    together, then one by one, and only an item that fails alone is answered with its error. A storage that is full or
    unavailable is not called again for each item.

    Returns:
        The answers, a `ComposerdError` for each item that failed, and the news of all calls that succeeded. There are
        fewer answers than items if the method answers a prefix, as `Driver.claim` does.
    """
    try:
        batch = await call(items)
    except StorageFull as exc:
        return [exc] * len(items), ()
    except ComposerdError:
        return await _repeat(call, items)
    return batch.items, (batch.news,)


async def _repeat(call: Call[I, R], items: Sequence[I]) -> tuple[Sequence[R | ComposerdError], Sequence[News]]:
    try:
        batch = await call(items)
    except ComposerdError as exc:
        if len(items) == 1 or not isinstance(exc, DriverError):
            return [exc] * len(items), ()
        return await _repeat_one_by_one(call, items)
    return batch.items, (batch.news,)


async def _repeat_one_by_one(
    call: Call[I, R], items: Sequence[I]
) -> tuple[Sequence[R | ComposerdError], Sequence[News]]:
    log.warning("a batch of %d writes failed twice; trying them one by one", len(items))
    answers: list[R | ComposerdError] = []
    news: list[News] = []
    for item in items:
        try:
            batch = await call([item])
        except ComposerdError as exc:
            answers.append(exc)
            if isinstance(exc, (StorageFull, Unavailable)) and not isinstance(exc, DriverError):
                answers.extend([exc] * (len(items) - len(answers)))
                break
        else:
            answers.append(batch.items[0])
            news.append(batch.news)
    return answers, news

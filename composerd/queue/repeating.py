"""The one rule for repeating a failed call of the driver. Which items are in a call is decided by the callers."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Generic, NamedTuple, TypeVar

from composerd.driver import Batch
from composerd.driver.outage import is_outage
from composerd.errors import ComposerdError, DriverError, DriverTimeout, OutcomeUnknown, StorageFull, Unavailable
from composerd.models import News

log = logging.getLogger(__name__)

SLOW = 0.5
"""A call that failed after more seconds than this is not repeated if the storage does not answer: it hangs."""

ONE_BY_ONE_FOR = 5.0
"""Time in seconds, since the first call, in which the items of a batch that fails are tried one by one."""

I = TypeVar("I")  # noqa: E741  # item
R = TypeVar("R")

Call = Callable[[Sequence[I]], Awaitable[Batch[R | ComposerdError]]]
"""A writing method of a driver."""


class Answers(NamedTuple, Generic[R]):
    """The answers to the items of a call, and its repetitions."""

    items: Sequence[R | ComposerdError]
    """A `ComposerdError` for each item that failed. There may be fewer than items, as `Driver.claim` answers."""
    news: Sequence[News] = ()
    """The news of all calls that succeeded."""
    hangs: bool = False
    """True if the storage did not answer, after a while: what waits for another call should not wait for another."""


async def call_until_answered(call: Call[I, R], items: Sequence[I], *, changes: bool = True) -> Answers[R]:
    """Call a writing method of a driver, and repeat it after a failure if that may help.

    An exception of the call says nothing about its items, and every write may be repeated. If the storage does not
    answer, the call is repeated once, unless it took long: a timeout is an outage, and no item's fault. After any other
    failure the items are repeated together, then one by one, and only an item that fails alone is answered with its
    error. A storage that is full is not called again.

    With `changes`, an item that may have been changed by a call that failed is answered with `OutcomeUnknown`. Without,
    it is enough to know that the call failed.
    """
    began = monotonic()
    try:
        batch = await call(items)
    except ComposerdError as exc:
        first = exc
    else:
        return Answers(batch.items, (batch.news,))
    doubt = _in_doubt(first)
    if isinstance(first, StorageFull) or (is_outage(first) and (_hangs(first) or monotonic() - began > SLOW)):
        return _failed(first, len(items), doubt=doubt, changes=changes, hangs=not isinstance(first, StorageFull))
    began_again = monotonic()
    try:
        batch = await call(items)
    except ComposerdError as exc:
        second = exc
    else:
        return Answers(batch.items, (batch.news,))
    doubt = doubt or _in_doubt(second)
    hangs = is_outage(second) and (_hangs(second) or monotonic() - began_again > SLOW)
    if len(items) == 1 or hangs or not isinstance(second, DriverError):
        return _failed(second, len(items), doubt=doubt, changes=changes, hangs=hangs)
    log.warning("a batch of %d writes failed twice; trying them one by one", len(items))
    return await _call_one_by_one(call, items, began + ONE_BY_ONE_FOR, doubt=doubt, changes=changes)


async def _call_one_by_one(
    call: Call[I, R], items: Sequence[I], until: float, *, doubt: bool, changes: bool
) -> Answers[R]:
    answers: list[R | ComposerdError] = []
    news: list[News] = []
    for nth, item in enumerate(items):
        try:
            batch = await call([item])
        except ComposerdError as exc:
            left = len(items) - nth
            if isinstance(exc, StorageFull) or is_outage(exc):
                failed: Answers[R] = _failed(exc, left, doubt=doubt, changes=changes, hangs=is_outage(exc))
                return Answers([*answers, *failed.items], news, failed.hangs)
            if monotonic() > until:
                log.warning("trying writes one by one took too long; %d were not tried", left - 1)
                failed = _failed(exc, left, doubt=doubt, changes=changes, hangs=True)
                return Answers([*answers, *failed.items], news, failed.hangs)
            answers += _failed(exc, 1, doubt=doubt, changes=changes).items
        else:
            answers.append(batch.items[0])
            news.append(batch.news)
    return Answers(answers, news)


def _in_doubt(error: ComposerdError) -> bool:
    """Return True if a call that failed with this error may have changed something."""
    return isinstance(error, (OutcomeUnknown, DriverError))


def _hangs(error: ComposerdError) -> bool:
    return isinstance(error, DriverTimeout)


def _failed(error: ComposerdError, count: int, *, doubt: bool, changes: bool, hangs: bool = False) -> Answers[R]:
    """Return the error of a call as the answers to its items."""
    kind = OutcomeUnknown if doubt else type(error)
    if not changes:
        kind = Unavailable if isinstance(error, OutcomeUnknown) else type(error)
    if kind is not type(error):
        told = kind(str(error))
        told.logged = error.logged
        told.__cause__ = error
        error = told
    return Answers([error] * count, (), hangs)

"""Batches of writes: what goes into one call, which calls run at the same time, and what a canceled caller changes."""

import asyncio
from collections.abc import Sequence

import pytest

from composerd.driver import Batch
from composerd.errors import ComposerdError, DriverTimeout, JobNotFound, OutcomeUnknown, Unavailable
from composerd.models import News
from composerd.queue.batcher import HEAVY, MAX_BYTES, MAX_BYTES_COALESCED, MAX_ITEMS, Batcher, ConcurrentBatcher
from composerd.queue.pulse import Pulse

KINDS = [Batcher, ConcurrentBatcher]


class Calls:
    """A writing method that records its calls, and answers each item with itself when it is let go on."""

    def __init__(self) -> None:
        self.items: list[Sequence[int]] = []
        self.news: list[News] = []
        self.let_go = asyncio.Event()
        self.let_go.set()
        self.called = asyncio.Event()
        self.pulse = Pulse(lambda: None)

    async def __call__(self, items: Sequence[int]) -> Batch[int | ComposerdError]:
        self.items.append(items)
        self.called.set()
        await self.let_go.wait()
        return Batch([JobNotFound() if item < 0 else item for item in items], News(due_in=float(len(items))))

    def batcher(self, kind: type[Batcher[int, int]], weight: int = 0) -> Batcher[int, int]:
        """Return a batcher that calls this, for items of a weight."""
        return kind(self, self.news.append, self.pulse, lambda _item: weight)


@pytest.mark.parametrize("kind", KINDS)
async def test_writes_of_one_turn_share_a_call(kind: type[Batcher[int, int]]) -> None:
    """Writes that arrive in one turn of the event loop share one call; each caller gets its own answer."""
    calls = Calls()
    batcher = calls.batcher(kind)
    answers = await asyncio.gather(*[batcher.write(n) for n in (1, -2, 3)], return_exceptions=True)
    assert (answers[0], answers[2]) == (1, 3)
    assert isinstance(answers[1], JobNotFound)
    assert calls.items == [[1, -2, 3]]
    assert calls.news == [News(due_in=3.0)]


async def test_one_call_at_a_time() -> None:
    """Writes that arrive during a call wait for its end, and go into the next call together."""
    calls = Calls()
    calls.let_go.clear()
    batcher = calls.batcher(Batcher)
    first = batcher.write(1)
    await calls.called.wait()
    later = [batcher.write(2), batcher.write(3)]
    for _ in range(10):
        await asyncio.sleep(0)
    assert calls.items == [[1]]
    calls.let_go.set()
    assert await asyncio.gather(first, *later) == [1, 2, 3]
    assert calls.items == [[1], [2, 3]]


async def test_small_writes_do_not_wait_for_a_heavy_one() -> None:
    """While a heavy item is written, and the next heavy one waits, small ones are; the end waits for all of them."""
    let_go = asyncio.Event()
    calls: list[Sequence[int]] = []

    async def call(items: Sequence[int]) -> Batch[int | ComposerdError]:
        calls.append(items)
        if max(items) > HEAVY:
            await let_go.wait()
        return Batch(list(items))

    batcher = Batcher(call, lambda _news: None, Pulse(lambda: None), lambda item: item)
    small, heavy, *others = [batcher.write(n) for n in (1, HEAVY + 1, 2, 3)]
    assert [await one for one in (small, *others)] == [1, 2, 3]
    second, behind = batcher.write(HEAVY + 2), batcher.write(4)
    assert await behind == 4
    assert sorted(map(list, calls)) == [[1], [2, 3], [4], [HEAVY + 1]]
    closing = asyncio.create_task(batcher.close())
    let_go.set()
    await closing
    assert [one.result() for one in (heavy, second)] == [HEAVY + 1, HEAVY + 2]


async def test_heavy_writes_to_a_storage_that_hangs() -> None:
    """A heavy item that waits for another one, which gets no answer, is not tried either."""

    async def call(_items: Sequence[int]) -> Batch[int | ComposerdError]:
        raise DriverTimeout("no answer")

    batcher = Batcher(call, lambda _news: None, Pulse(lambda: None), lambda item: item)
    first, *waiting = [batcher.write(HEAVY + n) for n in (1, 2, 3)]
    await batcher.close()
    assert [type(one.exception()) for one in (first, *waiting)] == [OutcomeUnknown, Unavailable, Unavailable]


async def test_calls_at_the_same_time() -> None:
    """For a driver that coalesces, writes that arrive during a call do not wait for its end."""
    calls = Calls()
    calls.let_go.clear()
    batcher = calls.batcher(ConcurrentBatcher)
    answers = []
    for number in range(3):
        calls.called.clear()
        answers.append(batcher.write(number))
        await calls.called.wait()
    assert calls.items == [[0], [1], [2]]
    assert not any(answer.done() for answer in answers)
    calls.let_go.set()
    assert await asyncio.gather(*answers) == [0, 1, 2]


@pytest.mark.parametrize("kind", KINDS)
async def test_items_in_a_call_are_bounded(kind: type[Batcher[int, int]]) -> None:
    """A call has at most MAX_ITEMS items, in the order in which they came; the rest goes into further calls."""
    calls = Calls()
    batcher = calls.batcher(kind)
    count = 2 * MAX_ITEMS + 1
    assert await asyncio.gather(*[batcher.write(n) for n in range(count)]) == list(range(count))
    assert [len(items) for items in calls.items] == [MAX_ITEMS, MAX_ITEMS, 1]
    assert [n for items in calls.items for n in items] == list(range(count))


@pytest.mark.parametrize(
    ("kind", "weight", "lengths"),
    [
        (Batcher, HEAVY, [MAX_BYTES // HEAVY, MAX_BYTES // HEAVY, 1]),
        (ConcurrentBatcher, MAX_BYTES_COALESCED // 2, [2, 2, 1]),
        (ConcurrentBatcher, MAX_BYTES_COALESCED // 2 + 1, [1] * 5),
    ],
)
async def test_bytes_in_a_call_are_bounded(kind: type[Batcher[int, int]], weight: int, lengths: list[int]) -> None:
    """A call has at most so many bytes of payload, fewer if the driver coalesces calls."""
    calls = Calls()
    batcher = calls.batcher(kind, weight)
    count = sum(lengths)
    assert await asyncio.gather(*[batcher.write(n) for n in range(count)]) == list(range(count))
    assert [len(items) for items in calls.items] == lengths


@pytest.mark.parametrize("kind", KINDS)
async def test_an_item_that_is_too_large_goes_alone(kind: type[Batcher[int, int]]) -> None:
    """A single item that is larger than a call may be is written, by itself."""
    calls = Calls()
    batcher = calls.batcher(kind, kind.max_bytes + 1)
    assert await asyncio.gather(*[batcher.write(n) for n in (1, 2)]) == [1, 2]
    assert calls.items == [[1], [2]]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_canceled_caller_cancels_no_write(kind: type[Batcher[int, int]]) -> None:
    """A write goes on without its caller, its news is published, and others of its call get their answers."""
    calls = Calls()
    calls.let_go.clear()
    batcher = calls.batcher(kind)

    async def write(item: int) -> int:
        return await batcher.write(item)

    callers = [asyncio.create_task(write(n)) for n in (1, -2, 3)]
    await calls.called.wait()
    for caller in callers[:2]:
        caller.cancel()
    await asyncio.wait(callers[:2])
    calls.let_go.set()
    assert await callers[2] == 3
    assert calls.items == [[1, -2, 3]]
    assert calls.news == [News(due_in=3.0)]


@pytest.mark.parametrize("kind", KINDS)
async def test_close_waits_for_every_write(kind: type[Batcher[int, int]]) -> None:
    """`close` returns when every write that has begun is answered, those that have not reached the driver too."""
    calls = Calls()
    calls.let_go.clear()
    batcher = calls.batcher(kind)
    under_way = batcher.write(1)
    await calls.called.wait()
    pending = batcher.write(2)
    closing = asyncio.create_task(batcher.close())
    for _ in range(10):
        await asyncio.sleep(0)
    assert not closing.done()
    calls.let_go.set()
    await closing
    assert (under_way.result(), pending.result()) == (1, 2)
    await batcher.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_close_waits_for_a_write_that_has_just_begun(kind: type[Batcher[int, int]]) -> None:
    """`close` waits for a write that was begun in the same turn of the loop, with no call under way."""
    batcher = Calls().batcher(kind)
    answer = batcher.write(1)
    await batcher.close()
    assert answer.result() == 1

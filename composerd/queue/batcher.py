"""Gathers writes of one kind, and calls the driver once for all of them."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import ClassVar, Generic, TypeVar

from composerd.errors import ComposerdError, OutcomeUnknown, Unavailable
from composerd.models import News
from composerd.queue.pulse import Pulse
from composerd.queue.repeating import Call, call_until_answered

MAX_ITEMS = 1000
"""The most items in a call."""

MAX_BYTES = 64 * 1024 * 1024
"""The most bytes of payload in a call for small items."""

HEAVY = 1024 * 1024
"""The size in bytes of a payload whose item is written in a call of its own, beside the calls for small ones."""

MAX_BYTES_COALESCED = 64 * 1024
"""The most bytes of payload in a call of a driver that gathers calls into one flush by itself.

If there is no room for a call, all its items are refused, so small ones do not share a call with large ones.
"""

I = TypeVar("I")  # noqa: E741  # item
R = TypeVar("R")


def weightless(_item: object) -> int:
    """Return 0, the weight of an item without payload."""
    return 0


Taken = list[tuple[I, asyncio.Future[R]]]
"""The items of one call, with the futures for their answers."""


class Batcher(Generic[I, R]):
    """Makes one call at a time: what arrives during a call goes into the next one.

    A call for a heavy item takes long, so it is made beside those for small ones, which do not wait for it. There is no
    timer: an item that comes alone is written at once. Calls run in tasks of the batcher, so a client that goes away
    cancels its handler, never a write. What has waited for a call that got no answer is not tried: so nobody waits for
    more than two calls.
    """

    max_bytes: ClassVar[int] = MAX_BYTES

    def __init__(
        self,
        call: Call[I, R],
        on_news: Callable[[News], None],
        pulse: Pulse,
        weigh: Callable[[I], int] = weightless,
        *,
        changes: bool = True,
    ) -> None:
        """Make a batcher for a method; for `changes` see `call_until_answered`."""
        self._loop = asyncio.get_running_loop()  # once: Python 3.11 makes a system call at each look
        self._call = call
        self._on_news = on_news
        self._pulse = pulse
        self._weigh = weigh
        self._changes = changes
        self._pending: deque[tuple[I, asyncio.Future[R]]] = deque()
        self._task: asyncio.Task[None] | None = None
        """The task that takes what is pending."""
        self._pending_heavy: deque[tuple[I, asyncio.Future[R]]] = deque()
        self._heavy: asyncio.Task[None] | None = None
        """The task that writes heavy items, one at a time, so that small ones find a connection."""
        self._under_way: dict[int, tuple[int, Taken[I, R]]] = {}
        """Calls that have not ended, oldest first: the beat at which each began, and its items."""

    @property
    def oldest(self) -> int:
        """The age in beats of the oldest call that has not ended; 0 if there is none."""
        for began, _ in self._under_way.values():
            return self._pulse.beats - began
        return 0

    def write(self, item: I) -> "asyncio.Future[R]":
        """Begin to write an item, and return a future with the driver's answer to it.

        The future raises an answer that is an error. Canceling the future does not cancel the write.
        """
        answer: asyncio.Future[R] = self._loop.create_future()
        self._pending.append((item, answer))
        if self._task is None:
            self._task = self._loop.create_task(self._run())
        return answer

    def give_up(self, beats: int) -> None:
        """Answer the items of calls that have taken so many beats, and what waits for them. The calls go on."""
        kind = OutcomeUnknown if self._changes else Unavailable
        for began, taken in self._under_way.values():
            if self._pulse.beats - began < beats:
                break
            _refuse(taken, kind("the storage has not answered"))
            for pending in (self._pending, self._pending_heavy):
                _refuse_pending(pending, len(pending))

    async def close(self) -> None:
        """Wait until every write that has begun is answered."""
        while running := [task for task in (self._task, self._heavy) if task is not None]:
            await asyncio.wait(running)

    async def _run(self) -> None:
        try:
            while self._pending:
                if self._weigh(self._pending[0][0]) > HEAVY:
                    self._pending_heavy.append(self._pending.popleft())
                    if self._heavy is None:
                        self._heavy = self._loop.create_task(self._run_heavy())
                    continue
                await self._write_some(self._take(), self._pending)
        finally:
            self._task = None

    async def _run_heavy(self) -> None:
        try:
            while self._pending_heavy:
                await self._write_some([self._pending_heavy.popleft()], self._pending_heavy)
        finally:
            self._heavy = None

    async def _write_some(self, taken: Taken[I, R], pending: "deque[tuple[I, asyncio.Future[R]]]") -> None:
        """Write items; if the storage hangs, refuse what was pending already when that began."""
        waited = len(pending)
        if await self._write(taken):
            _refuse_pending(pending, min(waited, len(pending)))

    def _take(self) -> Taken[I, R]:
        pending = self._pending
        if len(pending) == 1:
            return [pending.popleft()]
        taken: Taken[I, R] = []
        weight = 0
        while pending and len(taken) < MAX_ITEMS:
            item = self._weigh(pending[0][0])
            weight += item
            if taken and (weight > self.max_bytes or item > HEAVY):
                break
            taken.append(pending.popleft())
        return taken

    async def _write(self, taken: Taken[I, R]) -> bool:
        """Make a call for items, and answer them. Return True if the storage hangs."""
        self._under_way[id(taken)] = (self._pulse.beats, taken)
        try:
            outcomes = await call_until_answered(self._call, [item for item, _ in taken], changes=self._changes)
        finally:
            del self._under_way[id(taken)]
        for (_, answer), outcome in zip(taken, outcomes.items, strict=True):
            if answer.done():
                continue  # its caller has gone, or has been answered; the write stands
            if isinstance(outcome, ComposerdError):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)
        for one in outcomes.news:
            self._on_news(one)
        return outcomes.hangs


def _refuse_pending(pending: "deque[tuple[I, asyncio.Future[R]]]", count: int) -> None:
    """Answer the items that have been pending for longest, without trying them."""
    if count:
        refused = [pending.popleft() for _ in range(count)]
        _refuse(refused, Unavailable("the storage does not answer; this was not tried"))


def _refuse(items: Taken[I, R], error: Unavailable) -> None:
    """Answer items with an error."""
    error.logged = True
    for _, answer in items:
        if not answer.done():
            answer.set_exception(error)


class ConcurrentBatcher(Batcher[I, R]):
    """Makes a call for what arrives in one turn of the event loop, without waiting for earlier calls to end.

    This is for drivers that gather concurrent calls into one flush by themselves (`Capabilities.coalesces`).
    """

    max_bytes: ClassVar[int] = MAX_BYTES_COALESCED

    def __init__(
        self,
        call: Call[I, R],
        on_news: Callable[[News], None],
        pulse: Pulse,
        weigh: Callable[[I], int] = weightless,
        *,
        changes: bool = True,
    ) -> None:
        super().__init__(call, on_news, pulse, weigh, changes=changes)
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

"""The dispatcher: asks the driver for jobs on behalf of those who wait, one round of claims at a time. Its decisions are in waitlist."""

import asyncio
from collections.abc import Callable, Sequence
from uuid import UUID

from composerd.driver import Batch, Driver
from composerd.errors import ComposerdError, DriverTimeout
from composerd.models import Claim, Claimed, Key, News
from composerd.queue.batcher import MAX_BYTES, MAX_ITEMS, ask
from composerd.queue.budget import Budget
from composerd.queue.waitlist import Waiter, WaitList

RETRY_AFTER = 1.0
"""How long to leave a storage alone that did not answer, in seconds."""


class Dispatcher:
    """Hands ready jobs to waiters: one ready job, one waiter, the oldest first."""

    def __init__(
        self,
        driver: Driver,
        budget: Budget,
        give_back: Callable[[UUID], None],
        on_news: Callable[[News], None],
    ) -> None:
        self._driver = driver
        self._budget = budget
        self._give_back = give_back
        self._on_news = on_news
        self._list = WaitList()
        self._task: asyncio.Task[None] | None = None
        self._claiming = False
        self._closed = False

    def __len__(self) -> int:
        """How many wait."""
        return len(self._list)

    async def ask(self, claim: Claim, wait: float | None) -> Claimed | None:
        """Wait for a job of the claim's keys; None when the time, in seconds, is up, or when the dispatcher closes.

        Canceled, the caller gets no job, and a job that was on its way to it goes back. Raises `Unavailable` if the
        storage does not answer.
        """
        if self._closed:
            return None
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Claimed | None] = loop.create_future()
        waiter = self._list.add(claim, answer)
        self._start()
        alarm = None if wait is None else loop.call_later(wait, self._expire, waiter)
        try:
            return await answer
        except asyncio.CancelledError:
            self._leave(waiter)
            raise
        finally:
            if alarm is not None:
                alarm.cancel()

    def heat(self, news: News) -> None:
        """Learn what became ready."""
        if news.recheck:
            self._list.heat_all()
        if news.ready:
            self._list.heat(news.ready)
        self._start()

    def recheck(self) -> None:
        """Let the store be the truth: a waiter of each key looks again, should news have been lost."""
        self._list.heat_all()
        self._start()

    def drain(self) -> None:
        """Answer everybody with None; those whose claim is on its way get its outcome."""
        self._closed = True
        for waiter in self._list.everyone():
            if waiter.claiming:
                waiter.expired = True
            else:
                self._dismiss(waiter)

    async def close(self) -> None:
        """Drain, and wait for the claim that is on its way."""
        self.drain()
        while self._task is not None:
            if not self._claiming:
                self._task.cancel()  # it is waiting for better times
            await asyncio.wait([self._task])

    def _start(self) -> None:
        if self._task is None and len(self._list):
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            while not self._closed:
                await self._budget.room()
                waiters = self._list.pick(MAX_ITEMS)
                if not waiters:
                    break
                self._claiming = True
                try:
                    answered = await self._round(waiters)
                finally:
                    self._claiming = False
                if not answered:
                    await asyncio.sleep(RETRY_AFTER)
        finally:
            self._task = None

    async def _round(self, waiters: Sequence[Waiter]) -> bool:
        """Make one claim for all; whether the store answered."""
        outcomes, news = await ask(self._claim, [waiter.claim for waiter in waiters])
        known: list[Waiter] = []
        answers: list[Claimed | None] = []
        unknown = list(waiters[len(outcomes) :])
        failed = False
        for waiter, outcome in zip(waiters, outcomes, strict=False):
            if isinstance(outcome, ComposerdError):
                failed = True
                if self._fail(waiter, outcome):
                    unknown.append(waiter)
            else:
                known.append(waiter)
                answers.append(outcome)
                self._deliver(waiter, outcome)
        self._list.settle(known, answers)
        self._list.again(unknown)
        if self._closed:
            for waiter in unknown:
                self._dismiss(waiter)
        for one in news:
            self._on_news(one)
        return not failed

    async def _claim(self, claims: Sequence[Claim]) -> Batch[Claimed | ComposerdError | None]:
        return await self._driver.claim(claims, MAX_BYTES)

    def _deliver(self, waiter: Waiter, claimed: Claimed | None) -> None:
        if waiter.answer.done():
            if claimed is not None:
                self._give_back(claimed.token)
        elif claimed is not None or waiter.expired:
            waiter.answer.set_result(claimed)

    def _fail(self, waiter: Waiter, error: ComposerdError) -> bool:
        """Deal with a claim of which nobody knows what it did; whether the waiter asks again, with the same token.

        Who waits already does not hear of a storage that is away for a while; who comes now is told, unless it was only
        slow.
        """
        stays = waiter.asked or isinstance(error, DriverTimeout)
        if stays and not waiter.expired and not waiter.answer.done():
            return True
        self._give_back(waiter.claim.token)
        if not waiter.answer.done():
            if stays:
                waiter.answer.set_result(None)
            else:
                waiter.answer.set_exception(error)
        self._list.remove(waiter)
        return False

    def _expire(self, waiter: Waiter) -> None:
        if waiter.claiming or not waiter.asked:
            waiter.expired = True
        else:
            self._dismiss(waiter)

    def _dismiss(self, waiter: Waiter) -> None:
        self._list.remove(waiter)
        if not waiter.answer.done():
            waiter.answer.set_result(None)

    def _leave(self, waiter: Waiter) -> None:
        self._list.remove(waiter)
        answer = waiter.answer
        if answer.done() and not answer.cancelled() and answer.exception() is None:
            claimed = answer.result()
            if claimed is not None:
                self._give_back(claimed.token)


def keys_for(channel: str, types: Sequence[str], arch: str) -> tuple[Key, ...]:
    """What a worker of an arch may take: its types' jobs of that arch, and those without one."""
    return tuple(Key(channel, type, a) for type in dict.fromkeys(types) for a in (arch, None))

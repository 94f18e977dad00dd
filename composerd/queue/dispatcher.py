"""The dispatcher: claims jobs for the requests that wait, one round of claims at a time.

Which waiters claim in a round is decided in `waitlist`.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from uuid import UUID

from composerd.driver import Driver
from composerd.errors import ComposerdError, DriverTimeout, Unavailable
from composerd.models import Claim, Claimed, Key, News
from composerd.queue.batcher import MAX_BYTES, MAX_ITEMS
from composerd.queue.budget import Budget
from composerd.queue.pulse import Pulse
from composerd.queue.repeating import Call, call_until_answered
from composerd.queue.waitlist import Waiter, WaitList

RETRY_AFTER = 1.0
"""Pause in seconds before the next claim after the storage failed to answer one."""


class Dispatcher:
    """Hands ready jobs to waiters: each job to one waiter, the oldest waiter first.

    It makes one round of claims at a time, in a task that runs only while a round has work to do. `WaitList` decides
    which waiters take part in a round. A job that was claimed for a waiter that has left meanwhile is released.
    """

    def __init__(
        self,
        driver: Driver,
        budget: Budget,
        release: Callable[[UUID], None],
        on_news: Callable[[News], None],
        pulse: Pulse,
    ) -> None:
        self._loop = asyncio.get_running_loop()  # once: Python 3.11 makes a system call at each look
        self._claim: Call[Claim, Claimed | None] = partial(driver.claim, max_bytes=MAX_BYTES)
        self._budget = budget
        self._release = release
        self._on_news = on_news
        self._pulse = pulse
        self._list = WaitList()
        self._task: asyncio.Task[None] | None = None
        self._claiming = False
        self._claiming_since = 0
        """The beat at which the present round of claims began."""
        self._closed = False

    async def wait_for_job(self, claim: Claim, wait: float | None) -> Claimed | None:
        """Wait for a job of the claim's keys; return None if `wait` seconds pass, or if the dispatcher closes.

        If the caller is canceled it gets no job, and a job that was claimed for it is released. Raises `Unavailable` if
        the storage does not answer the first claim.
        """
        if self._closed:
            return None
        loop = self._loop
        answer: asyncio.Future[Claimed | None] = loop.create_future()
        waiter = self._list.add(claim, answer)
        if self._task is None:
            self._task = loop.create_task(self._run())
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
        """Let waiters claim the jobs that became ready."""
        if not self._list:
            return
        if news.recheck:
            self._list.heat_all()
        if news.ready:
            self._list.heat(news.ready)
        if self._task is None:
            self._task = self._loop.create_task(self._run())

    def recheck(self) -> None:
        """Let a waiter of each key claim, in case news of a ready job was lost."""
        self.heat(News(recheck=True))

    @property
    def oldest(self) -> int:
        """The age in beats of the present round of claims; 0 if there is none."""
        return self._pulse.beats - self._claiming_since if self._claiming else 0

    def give_up(self, beats: int) -> None:
        """Answer every waiter with an error if a round of claims has taken so many beats.

        The round goes on, and a job that it gets is released.
        """
        if self.oldest < beats:
            return
        error = Unavailable("the storage has not answered")
        error.logged = True
        for waiter in self._list.everyone():
            self._list.remove(waiter)
            if not waiter.answer.done():
                waiter.answer.set_exception(error)

    def drain(self) -> None:
        """Answer every waiter with None, except those whose claim is under way: they get its outcome."""
        self._closed = True
        for waiter in self._list.everyone():
            if waiter.claiming:
                waiter.expired = True
            else:
                self._dismiss(waiter)

    async def close(self) -> None:
        """Drain, and wait for the round of claims that is under way."""
        self.drain()
        while self._task is not None:
            if not self._claiming:
                self._task.cancel()  # it sleeps until there is room, or until the storage is tried again
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            while not self._closed:
                if self._budget.used >= self._budget.limit:
                    await self._budget.wait_for_room()
                waiters = self._list.pick(MAX_ITEMS)
                if not waiters:
                    break
                began = self._loop.time()
                self._claiming = True
                self._claiming_since = self._pulse.beats
                try:
                    answered = await self._claim_for(waiters)
                finally:
                    self._claiming = False
                if not answered:
                    await asyncio.sleep(began + RETRY_AFTER - self._loop.time())  # not at all if it took long to fail
        finally:
            self._task = None

    async def _claim_for(self, waiters: Sequence[Waiter]) -> bool:
        """Make one claim for all waiters of a round, and answer them. Return False if the storage failed for any."""
        outcomes, news, _ = await call_until_answered(self._claim, [waiter.claim for waiter in waiters], changes=False)
        known: list[Waiter] = []
        answers: list[Claimed | None] = []
        unknown = list(waiters[len(outcomes) :])
        failed = False
        for waiter, outcome in zip(waiters, outcomes, strict=False):
            if isinstance(outcome, ComposerdError):
                failed = True
                if self._fail(waiter, outcome):
                    unknown.append(waiter)
                continue
            known.append(waiter)
            answers.append(outcome)
            if waiter.answer.done():
                if outcome is not None:
                    self._release(outcome.token)
            elif outcome is not None or waiter.expired:
                waiter.answer.set_result(outcome)
        self._list.end_round(known, answers)
        if unknown:
            self._list.retry(unknown)
            if self._closed:
                for waiter in unknown:
                    self._dismiss(waiter)
        for one in news:
            self._on_news(one)
        return not failed

    def _fail(self, waiter: Waiter, error: ComposerdError) -> bool:
        """Handle a claim whose outcome is unknown. Return True if the waiter should claim again, with the same token.

        A waiter that has waited already stays while the storage is away. A new one gets the error, unless the storage
        was only slow: then it stays too, or is answered with None if its time is up.
        """
        stays = waiter.claimed or isinstance(error, DriverTimeout)
        if stays and not waiter.expired and not waiter.answer.done():
            return True
        self._release(waiter.claim.token)
        if not waiter.answer.done():
            if stays:
                waiter.answer.set_result(None)
            else:
                waiter.answer.set_exception(error)
        self._list.remove(waiter)
        return False

    def _expire(self, waiter: Waiter) -> None:
        if waiter.claiming or not waiter.claimed:
            waiter.expired = True
        else:
            self._dismiss(waiter)

    def _dismiss(self, waiter: Waiter) -> None:
        self._list.remove(waiter)
        if not waiter.answer.done():
            waiter.answer.set_result(None)

    def _leave(self, waiter: Waiter) -> None:
        self._list.remove(waiter)
        answer = waiter.answer  # canceled with its caller, unless it was set before
        if not answer.cancelled() and answer.exception() is None and (claimed := answer.result()) is not None:
            self._release(claimed.token)


def keys_for(channel: str, types: Sequence[str], arch: str) -> tuple[Key, ...]:
    """Return the keys that a worker of an architecture may claim: for each type, jobs of its arch and of any arch."""
    keys: list[Key] = []
    for type in dict.fromkeys(types):
        keys += (Key(channel, type, arch), Key(channel, type, None))
    return tuple(keys)

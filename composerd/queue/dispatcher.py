"""The dispatcher: claims jobs for the requests that wait, one round of claims at a time.

Which waiters claim in a round is decided in `waitlist`.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from composerd.driver import Driver
from composerd.errors import ComposerdError, DriverTimeout, Unavailable
from composerd.gate import Gate
from composerd.models import AttemptState, Claim, Claimed, Key, News, Touch
from composerd.queue.batcher import MAX_BYTES, MAX_ITEMS
from composerd.queue.budgets import SMALL, Account
from composerd.queue.held_back import HeldBack
from composerd.queue.line import Waiter
from composerd.queue.pulse import Pulse
from composerd.queue.repeating import Call, call_until_answered
from composerd.queue.running_quota import RunningQuota
from composerd.queue.waitlist import WaitList
from composerd.quotas import Quotas

RETRY_AFTER = 1.0
"""Pause in seconds before the next claim after the storage failed to answer one."""


class TokenUsed(ComposerdError):
    """The token of a claim has stood for an attempt before."""

    def __init__(self, state: AttemptState) -> None:
        super().__init__()
        self.state = state


class Dispatcher:
    """Hands ready jobs to waiters, each job to one waiter.

    It makes one round of claims at a time, in a task that runs only while a round has work to do. `WaitList` decides
    which waiters take part in a round. A job that was claimed for a waiter that has left meanwhile is released.

    The args of a job that is handed out count in the account of its client, until `delivered`.
    """

    def __init__(
        self,
        driver: Driver,
        account: Account,
        gate: Gate,
        release: Callable[[Waiter], None],
        on_news: Callable[[News], None],
        pulse: Pulse,
        quotas: Quotas | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()  # once: Python 3.11 makes a system call at each look
        self._driver = driver
        self._account = account
        self._gate = gate
        self._full = False
        """True while no job is claimed because there is no room for its args."""
        self._give_back = release
        self._on_news = on_news
        self._pulse = pulse
        held_back = HeldBack()
        self.running = None
        """Keeps the running jobs of channels within their quotas, if there are any."""
        if quotas is not None:
            self.running = RunningQuota(quotas, held_back, self._let_go, self._dismiss_expired)
        self._list = WaitList(held_back, None if self.running is None else self.running.room)
        self._task: asyncio.Task[None] | None = None
        self._claiming = False
        self._claiming_since = 0
        """The beat at which the present round of claims began."""
        self._closed = False

    def waiter(self, claim: Claim, client: str = "", *, named: bool = False) -> Waiter:
        """Return a new waiter for `wait_for_job`. `named` is True if an earlier request may have used its token."""
        return Waiter(claim, client, self._loop.create_future(), self._loop.time(), named=named)

    async def wait_for_job(self, waiter: Waiter, wait: float | None) -> Claimed | None:
        """Wait for a job of the waiter's keys; return None if `wait` seconds pass, or if the dispatcher closes.

        If the caller is canceled it gets no job, and a job that was claimed for it is released. Raises `TokenUsed` if
        the claim of a named waiter finds that its attempt has ended, and `Unavailable` if the storage does not answer
        the first claim, and if the jobs that the client is reading fill its share.
        """
        if self._closed:
            return None
        loop = self._loop
        self._list.add(waiter)
        if self._task is None and not waiter.claimed:
            self._task = loop.create_task(self._run())
        alarm = None
        if wait is not None:  # many waits may be over at the same moment
            alarm = loop.call_later(wait, self._gate.call, waiter.client, partial(self.expire, waiter))
        try:
            return await waiter.answer
        except asyncio.CancelledError:
            self._leave(waiter)
            raise
        finally:
            if alarm is not None:
                alarm.cancel()

    def delivered(self, claimed: Claimed, client: str) -> None:
        """Stop counting the args of a job that its worker has read, or that was not delivered."""
        if size := _counted(claimed):
            self._account.free(client, size)

    def doubt(self, client: str, key: Key) -> None:
        """Let a client that has not answered a handover of a job of a key come last there."""
        self._list.doubt(client, key, self._loop.time())

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
            self._remove(waiter)
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
        if self.running is not None:
            await self.running.close()
        while self._task is not None:
            if not self._claiming:
                self._task.cancel()  # it sleeps until there is room, or until the storage is tried again
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            while not self._closed:
                if self._account.used >= self._account.limit:
                    await self._wait_for_room()
                picked = self._list.pick(MAX_ITEMS, self._loop.time())
                if not picked:
                    self._follow()
                    if not self._list.checking:
                        break
                    await asyncio.sleep(0)
                    continue
                waiters = self._within_shares(picked)
                if not waiters:
                    continue
                began = self._loop.time()
                self._claiming = True
                self._claiming_since = self._pulse.beats
                try:
                    answered = await self._claim_for(waiters)
                finally:
                    self._claiming = False
                self._follow()
                if not answered:
                    await asyncio.sleep(began + RETRY_AFTER - self._loop.time())  # not at all if it took long to fail
        finally:
            self._task = None

    def _follow(self) -> None:
        """Look after the waiters that were held back in a round, because their channels may run no more jobs."""
        if self.running is not None:
            self.running.follow()
            self._dismiss_expired(self._list.take_over())

    def _let_go(self, channel: str) -> None:
        """Let the waiters of a channel claim that were held back."""
        self._list.let_go(channel)
        if self._task is None and not self._closed:
            self._task = self._loop.create_task(self._run())

    def _dismiss_expired(self, waiters: Iterable[Waiter]) -> None:
        for waiter in waiters:
            if waiter.expired:
                self._dismiss(waiter)

    async def _wait_for_room(self) -> None:
        """Wait until there is room for args. Meanwhile the requests whose time is up are answered."""
        self._full = True
        try:
            for waiter in self._list.everyone():
                if waiter.expired:
                    self._dismiss(waiter)
            await self._account.wait_for_room()
        finally:
            self._full = False

    def _within_shares(self, waiters: Sequence[Waiter]) -> Sequence[Waiter]:
        """Answer the waiters of clients that have no room for args with an error, and return the others."""
        account = self._account
        if not account.used:
            return waiters
        within = []
        for waiter in waiters:
            if account.room(waiter.client):
                within.append(waiter)
                continue
            self._remove(waiter)
            if not waiter.answer.done():
                waiter.answer.set_exception(Unavailable(f"too many {account.what}", limit=account.limit))
        return within

    async def _claim_for(self, waiters: Sequence[Waiter]) -> bool:
        """Make one claim for the waiters of a round, and answer them. Return False if the storage failed for any."""
        unsure = [waiter for waiter in waiters if waiter.vain]
        failed = False
        news: Sequence[News] = ()
        if claiming := [waiter for waiter in waiters if not waiter.vain]:
            if self.running is not None:
                self.running.begin(claiming)
            most = min(MAX_BYTES, self._account.limit - self._account.used)
            call: Call[Claim, Claimed | None] = partial(self._driver.claim, max_bytes=most)
            outcomes, news, _ = await call_until_answered(call, [waiter.claim for waiter in claiming], changes=False)
            if self.running is not None:
                self.running.end(claiming, outcomes)
            known, answers = list[Waiter](), list[Claimed | ComposerdError | None]()
            for waiter, outcome in zip(claiming, outcomes, strict=False):
                if outcome is None and waiter.named:
                    unsure.append(waiter)
                else:
                    known.append(waiter)
                    answers.append(outcome)
            failed = self._take_in(known, answers, claiming[len(outcomes) :])
        if unsure:
            failed |= await self._take_in_unsure(unsure)
        for one in news:
            self._on_news(one)
        return not failed

    def _take_in(
        self,
        waiters: Sequence[Waiter],
        outcomes: Sequence[Claimed | ComposerdError | None],
        unanswered: Sequence[Waiter] = (),
    ) -> bool:
        """Answer waiters with outcomes; those without one claim again. Return True if the storage failed for any."""
        known: list[Waiter] = []
        answers: list[Claimed | None] = []
        again = list(unanswered)
        failed = False
        for waiter, outcome in zip(waiters, outcomes, strict=True):
            if isinstance(outcome, ComposerdError):
                failed = True
                if self._fail(waiter, outcome):
                    again.append(waiter)
                continue
            waiter.unknown = False
            known.append(waiter)
            answers.append(outcome)
            if waiter.answer.done():
                if outcome is not None:
                    self._give_back(waiter)
            elif outcome is not None or waiter.expired:
                waiter.answer.set_result(outcome)
                if outcome is not None and (size := _counted(outcome)):
                    self._account.hold(waiter.client, size)
        self._list.end_round(known, answers)
        if again:
            self._list.retry(again)
            if self._closed:
                for waiter in again:
                    self._dismiss(waiter)
        return failed

    async def _take_in_unsure(self, waiters: Sequence[Waiter]) -> bool:
        """Find out why there is no job for named waiters, and answer them. Return True if the storage failed for any.

        A driver also answers a claim with None if the attempt of its token has ended, which says nothing about the jobs
        of its keys. A touch tells, and renews nothing but the time of a handover that is under way.
        """
        touches = [Touch(waiter.claim.token, confirm=False) for waiter in waiters]
        attempts, *_ = await call_until_answered(self._driver.touch, touches, changes=False)
        known = []
        outcomes: list[ComposerdError | None] = []
        again = []
        for waiter, attempt in zip(waiters, attempts, strict=True):
            if isinstance(attempt, ComposerdError):
                known.append(waiter)
                outcomes.append(attempt)
            elif attempt.state is AttemptState.UNKNOWN:
                known.append(waiter)
                outcomes.append(None)
            elif attempt.state is AttemptState.RUNNING:  # since a moment ago: the next claim is a repetition
                waiter.owns = True
                again.append(waiter)
            else:
                self._list.remove(waiter)
                if not waiter.answer.done():
                    waiter.answer.set_exception(TokenUsed(attempt.state))
        return self._take_in(known, outcomes, again)

    def _fail(self, waiter: Waiter, error: ComposerdError) -> bool:
        """Handle a claim whose outcome is unknown. Return True if the waiter should claim again, with the same token.

        A waiter that has waited already stays while the storage is away. A new one gets the error, unless the storage
        was only slow: then it stays too, or is answered with None if its time is up.
        """
        stays = waiter.claimed or isinstance(error, DriverTimeout)
        if stays and not waiter.expired and not waiter.answer.done():
            waiter.unknown = True
            return True
        self._give_back(waiter)
        if not waiter.answer.done():
            if stays:
                waiter.answer.set_result(None)
            else:
                waiter.answer.set_exception(error)
        self._list.remove(waiter)
        return False

    def expire(self, waiter: Waiter) -> None:
        """End a wait: answer None, or the outcome of the claim that is under way, or of the first one."""
        if waiter.claiming or not (waiter.claimed or self._full):
            waiter.expired = True
        else:
            self._dismiss(waiter)

    def _dismiss(self, waiter: Waiter) -> None:
        self._remove(waiter)
        if not waiter.answer.done():
            waiter.answer.set_result(None)

    def _remove(self, waiter: Waiter) -> None:
        """Remove a waiter, and release the job that a claim of it may have got whose outcome is unknown."""
        self._list.remove(waiter)
        if waiter.unknown:
            self._give_back(waiter)

    def _leave(self, waiter: Waiter) -> None:
        self._remove(waiter)
        answer = waiter.answer  # canceled with its caller, unless it was set before
        if not answer.cancelled() and answer.exception() is None and (claimed := answer.result()) is not None:
            self._give_back(waiter)
            self.delivered(claimed, waiter.client)


def _counted(claimed: Claimed) -> int:
    """Return how many bytes of a claimed job count in the account."""
    size = 0 if claimed.args is None else len(claimed.args)
    return size if size > SMALL else 0

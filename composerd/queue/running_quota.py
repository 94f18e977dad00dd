"""The quota of running jobs: how many more jobs of a channel may be claimed, and when there is room again."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import zip_longest

from composerd.errors import ComposerdError
from composerd.models import Claimed
from composerd.queue.held_back import UNREAD, HeldBack
from composerd.queue.line import Waiter
from composerd.quotas import Quota, Quotas
from composerd.tasks import stop

LOOK_EVERY = 1.0
"""Interval in seconds at which the storage is asked whether a channel has room again, although no news says so."""

_RUNNING = Quota.RUNNING_JOBS


class RunningQuota:
    """Bounds the running jobs of channels.

    A claim counts before it is made. The end of a job is noticed when the storage is asked again: as soon as there is
    news of any job that ended, while something is held back.
    """

    def __init__(
        self,
        quotas: Quotas,
        held_back: HeldBack,
        let_go: Callable[[str], None],
        dismiss_expired: Callable[[Iterable[Waiter]], None],
    ) -> None:
        """Bound the claims of a wait list that holds back what has no room.

        Args:
            quotas: The limits, and what runs.
            held_back: What the wait list holds back.
            let_go: Called with a channel once there may be room for it.
            dismiss_expired: Called with waiters of which nobody knows whether there is room.
        """
        self._quotas = quotas
        self._held_back = held_back
        self._let_go = let_go
        self._dismiss_expired = dismiss_expired
        self._followed: set[str] = set()
        """The channels of which something is held back."""
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def room(self, channel: str) -> int | None:
        """Return how many more jobs of a channel may run; None if it has no quota, `UNREAD` if that is not known."""
        limit = self._quotas.limits(channel).running_jobs
        if limit is None:
            return None
        ledger = self._quotas.ledger(channel)
        if not self._quotas.is_fresh(ledger):
            return UNREAD
        return self._quotas.share(ledger, _RUNNING, limit)

    def begin(self, waiters: Iterable[Waiter]) -> None:
        """Count the claims that are about to be made for waiters."""
        for waiter in waiters:
            if not waiter.owns and self._quotas.limits(waiter.channel).running_jobs is not None:
                waiter.counted = True
                self._quotas.ledger(waiter.channel).hold(_RUNNING, 1)

    def end(self, waiters: Sequence[Waiter], outcomes: Sequence[Claimed | ComposerdError | None]) -> None:
        """Count the claims no more that have got nothing; those at the end that have no outcome were not made.

        A claim of which nobody knows what it has got counts until the storage is asked again.
        """
        for waiter, outcome in zip_longest(waiters, outcomes):
            if waiter.counted:
                waiter.counted = False
                ledger = self._quotas.ledger(waiter.channel)
                if outcome is None:
                    ledger.free(_RUNNING, 1)
                else:
                    ledger.settle(_RUNNING, 1)

    def follow(self) -> None:
        """Let the channels of which something was held back in the latest round go as soon as there is room."""
        latest = self._held_back.latest
        while latest:
            channel = latest.pop()
            room = self.room(channel)
            if room is None or room > 0:
                self._let_go(channel)
                continue
            if room == UNREAD or channel not in self._followed:
                self._news.set()
            self._followed.add(channel)
        if self._followed and self._task is None:
            self._task = asyncio.create_task(self._run(), name="quota of running jobs")

    def ended(self) -> None:
        """Note that jobs have ended, of any channel."""
        if self._followed:
            self._news.set()

    async def close(self) -> None:
        """Let nothing go any more."""
        if self._task is not None:
            await stop(self._task)

    async def _run(self) -> None:
        try:
            while self._followed:
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_EVERY):
                        await self._news.wait()
                self._news.clear()
                await self._look()
        finally:
            self._task = None

    async def _look(self) -> None:
        """Ask the storage about the channels that are followed, and let those go that have room."""
        self._followed = {one for one in self._followed if self._held_back.holds(one)}
        readings = {one: self._quotas.readings.next(self._quotas.ledger(one)) for one in self._followed}
        if readings:
            await asyncio.wait(readings.values())
        for channel, reading in readings.items():
            unread = self._held_back.unread.get(channel)
            if reading.exception() is not None:
                self._dismiss_expired(list((unread or {}).values()))
                continue
            room = self.room(channel)
            if room is None or room > 0:
                self._followed.discard(channel)
            elif not unread:
                continue
            self._let_go(channel)

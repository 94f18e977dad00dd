"""The use of the storage by one channel, as far as this server knows: the latest reading, and what was added since."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from composerd.errors import ComposerdError
from composerd.quotas.limits import Quota
from composerd.tasks import stop

CHANNELS_AT_ONCE = 500
"""The most channels in a call of the driver."""

ReadUsage = Callable[[Sequence[str]], Awaitable[Sequence[Mapping[Quota, int]]]]
"""Returns what channels have in the storage, in their order."""

_NEVER = float("-inf")


class Ledger:
    """The amounts of one channel.

    An amount that is added counts from the moment at which it is allowed. A reading replaces it once it is certain that
    the reading has it: if the reading began after it was stored. So what is counted is never less than what is stored
    by this server, and may be more until the next reading.
    """

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self.read_at = _NEVER
        """The time at which the latest complete reading began."""
        self.answered_at = _NEVER
        """The time at which it was complete."""
        self.reading: Mapping[Quota, int] = {}
        self._held: dict[Quota, int] = {}
        """Amounts that are allowed and not stored yet."""
        self._since: dict[Quota, int] = {}
        """Amounts that were stored since the latest reading began."""
        self._before: dict[Quota, int] = {}
        """Amounts that were stored before it began, as long as it is not complete."""

    @property
    def is_idle(self) -> bool:
        """True if nothing is counted that a reading would not have."""
        return not self._held

    def used(self, quota: Quota) -> int:
        """Return how much of a quota counts as used."""
        return (
            self.reading.get(quota, 0)
            + self._held.get(quota, 0)
            + self._since.get(quota, 0)
            + self._before.get(quota, 0)
        )

    def added(self, quota: Quota) -> int:
        """Return how much of it the latest reading may not have."""
        return self.used(quota) - self.reading.get(quota, 0)

    def hold(self, quota: Quota, amount: int) -> None:
        """Count an amount that is allowed; `settle` or `free` ends that."""
        self._held[quota] = self._held.get(quota, 0) + amount

    def settle(self, quota: Quota, amount: int) -> None:
        """Note that a held amount is stored now, or may be."""
        self.free(quota, amount)
        self._since[quota] = self._since.get(quota, 0) + amount

    def free(self, quota: Quota, amount: int) -> None:
        """Note that a held amount is not going to be stored."""
        left = self._held[quota] - amount
        if left:
            self._held[quota] = left
        else:
            del self._held[quota]

    def begin_reading(self) -> None:
        """Note that a reading begins, which has all that was stored before."""
        for quota, amount in self._since.items():
            self._before[quota] = self._before.get(quota, 0) + amount
        self._since = {}

    def end_reading(self, began: float, now: float, reading: Mapping[Quota, int]) -> None:
        """Take in what a reading has found."""
        self.read_at = began
        self.answered_at = now
        self.reading = reading
        self._before = {}


class Readings:
    """Reads the amounts of channels: one reading at a time, for all that were asked for meanwhile."""

    def __init__(self, read: ReadUsage, clock: Callable[[], float], pause: float) -> None:
        """Begin a reading at the earliest `pause` seconds after the one before."""
        self._read = read
        self._clock = clock
        self._pause = pause
        self._wanted: dict[Ledger, asyncio.Future[None]] = {}
        self._task: asyncio.Task[None] | None = None
        self._began = _NEVER

    def next(self, ledger: Ledger) -> "asyncio.Future[None]":
        """Return a future that is done when a reading of a channel is complete that has not begun yet.

        Wait for it with `asyncio.shield`, because others may wait for it too. It raises what the storage raises.
        """
        future = self._wanted.get(ledger)
        if future is None:
            future = self._wanted[ledger] = asyncio.get_running_loop().create_future()
            if self._task is None:
                self._task = asyncio.create_task(self._run(), name="usage of channels")
        return future

    async def close(self) -> None:
        """End the reading that is in progress, for which nobody waits any more. A storage that hangs delays nothing."""
        if self._task is not None:
            await stop(self._task)

    async def _run(self) -> None:
        try:
            while self._wanted:
                if (early := self._began + self._pause - self._clock()) > 0:
                    await asyncio.sleep(early)
                some = list(self._wanted)[:CHANNELS_AT_ONCE]
                await self._read_some({ledger: self._wanted.pop(ledger) for ledger in some})
        finally:
            self._task = None

    async def _read_some(self, wanted: "Mapping[Ledger, asyncio.Future[None]]") -> None:
        self._began = self._clock()
        for ledger in wanted:
            ledger.begin_reading()
        try:
            found = await self._read([ledger.channel for ledger in wanted])
        except ComposerdError as exc:
            for future in wanted.values():
                future.set_exception(exc)
                future.exception()  # nobody may be waiting any more
            return
        now = self._clock()
        for (ledger, future), reading in zip(wanted.items(), found, strict=True):
            ledger.end_reading(self._began, now, reading)
            future.set_result(None)

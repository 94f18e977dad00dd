"""`Quotas`: decides what tenants may still do, by their channels. Whoever asks waits for the storage if need be."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from composerd.errors import QuotaForbids, QuotaUsedUp
from composerd.quotas.ledger import Ledger, Readings, ReadUsage
from composerd.quotas.limits import Limits, Quota, QuotaTable, name_of
from composerd.quotas.minute import Minute

log = logging.getLogger(__name__)

FRESH = 1.0
"""Age in seconds up to which a reading of the storage counts: other servers may have stored more since."""

PAUSE = 0.01
"""The least time in seconds between two readings of a storage of one server, which has the numbers in memory."""

PAUSE_SHARED = 0.05
"""The least time in seconds between two readings of a storage that servers share."""

LOG_EVERY = 60.0
"""Time in seconds between two lines of the log about one quota of one tenant."""

REMEMBERED = 1000
"""Number of tenants from which on those are forgotten that have nothing in progress."""

ASK_AGAIN = {
    Quota.WAITING_JOBS: 5,
    Quota.RUNNING_JOBS: 5,
    Quota.PAYLOAD_BYTES: 60,
    Quota.ARTIFACT_BYTES: 60,
    Quota.OPEN_WAITS: 5,
}
"""Seconds after which it is worth while to ask again, where nobody knows when there is room."""


class Source(Protocol):
    """Holds the limits of tenants, and may change them."""

    value: QuotaTable
    problem: str | None
    """The reason why the latest change of the limits is not used, for operators; None if there is nothing wrong."""


class _Refusals:
    """The refusals of one quota of one tenant since the log had a line about them."""

    def __init__(self) -> None:
        self.count = 0
        self.log_after = -math.inf


class _Tenant:
    """The counts of one tenant."""

    def __init__(self, channel: str) -> None:
        self.ledger = Ledger(channel)
        self.submissions = Minute()
        self.open_waits = 0
        self.users = 0
        """Number of callers that are using this object."""
        self.refusals: dict[Quota, _Refusals] = {}

    def is_idle(self, now: float) -> bool:
        """Return True if nothing would be lost if this tenant was forgotten."""
        return (
            not self.users
            and not self.open_waits
            and self.ledger.is_idle
            and not self.submissions.look(now)
            and all(one.log_after < now for one in self.refusals.values())
        )


class Quotas:
    """The quotas of all tenants on this server.

    What is in the storage is read at most a second before it counts, and what this server adds is counted in between,
    from the moment at which it is allowed. So the limits hold on one server however many requests come at once. Other
    servers may have added as much as there was room for when they read it.
    """

    def __init__(
        self,
        source: Source,
        read: ReadUsage,
        *,
        shared: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Apply the limits of a source. `shared` is True if servers share the storage."""
        self.refused: dict[Quota, int] = dict.fromkeys(Quota, 0)
        """Number of requests that were refused because of each quota."""
        self.clock = clock
        self.readings = Readings(read, clock, PAUSE_SHARED if shared else PAUSE)
        self._shared = shared
        self._source = source
        self._tenants: dict[str, _Tenant] = {}
        self._forget_at = REMEMBERED

    @property
    def problem(self) -> str | None:
        """A sentence about what an operator has to mend; None if there is nothing."""
        return self._source.problem

    async def close(self) -> None:
        """End what is in progress."""
        await self.readings.close()

    def limits(self, channel: str) -> Limits:
        """Return the limits of a channel as they are now."""
        return self._source.value.of(channel)

    def held(self, channel: str) -> "Held":
        """Return an object that holds amounts of a channel, nothing at first."""
        return Held(self, self._tenant(channel))

    def ledger(self, channel: str) -> Ledger:
        """Return what is counted of the storage of a channel."""
        return self._tenant(channel).ledger

    async def used_up(self, channel: str, quota: Quota) -> tuple[int, int] | None:
        """Return how much of a quota is used, and its limit, if nothing of it is left. Asks the storage."""
        if (limit := self.limits(channel).of(quota)) is None:
            return None
        ledger = self.ledger(channel)
        await asyncio.shield(self.readings.next(ledger))
        used = ledger.used(quota)
        return (used, limit) if used >= limit else None

    def share(self, ledger: Ledger, quota: Quota, limit: int) -> int:
        """Return how much this server may still add until the next reading, if others do the same.

        On a shared storage that is half of what a reading has found left, so two servers do not exceed the limit.
        """
        left = limit - ledger.reading.get(quota, 0)
        share = -(-left // 2) if self._shared else left
        return max(min(share - ledger.added(quota), limit - ledger.used(quota)), 0)

    def is_fresh(self, ledger: Ledger) -> bool:
        """Return True if the latest reading of a channel counts still."""
        return self.clock() - ledger.answered_at <= FRESH

    async def check_submission(self, channel: str) -> None:
        """Raise `QuotaUsedUp` or `QuotaForbids` if a submission would be refused whatever is in it."""
        held = self.held(channel)
        await held.grow({Quota.WAITING_JOBS: 1, Quota.PAYLOAD_BYTES: 1})
        held.free()

    def count_submission(self, channel: str) -> None:
        """Count a submission. Raises `QuotaUsedUp` or `QuotaForbids` if there are too many in this minute."""
        limit = self.limits(channel).submissions_per_minute
        if limit is None:
            return
        tenant, now = self._tenant(channel), self.clock()
        if (count := tenant.submissions.look(now)) >= limit:
            again = tenant.submissions.room_in(now, limit) if limit else None
            self._refuse(tenant, Quota.SUBMISSIONS_PER_MINUTE, limit, count, 1, again)
        tenant.submissions.add(now)

    @contextmanager
    def open_wait(self, channel: str) -> Iterator[None]:
        """Count a request that waits for the length of a block.

        Raises `QuotaUsedUp` or `QuotaForbids` if too many of the channel wait.
        """
        tenant = self._tenant(channel)
        limit = self.limits(channel).open_waits
        if limit is not None and tenant.open_waits >= limit:
            self._refuse(tenant, Quota.OPEN_WAITS, limit, tenant.open_waits, 1)
        tenant.open_waits += 1
        try:
            yield
        finally:
            tenant.open_waits -= 1

    def _tenant(self, channel: str) -> _Tenant:
        tenant = self._tenants.get(channel)
        if tenant is None:
            if len(self._tenants) >= self._forget_at:
                now = self.clock()
                self._tenants = {name: one for name, one in self._tenants.items() if not one.is_idle(now)}
                self._forget_at = max(REMEMBERED, 2 * len(self._tenants))
            tenant = self._tenants[channel] = _Tenant(channel)
        return tenant

    def limited(self, tenant: _Tenant, amounts: Mapping[Quota, int]) -> Mapping[Quota, tuple[int, int]]:
        """Return those amounts of which a tenant has a limit, each with the limit."""
        limits = self.limits(tenant.ledger.channel)
        return {
            quota: (amount, limit)
            for quota, amount in amounts.items()
            if amount and (limit := limits.of(quota)) is not None
        }

    def allows(self, tenant: _Tenant, limited: Mapping[Quota, tuple[int, int]], began: float) -> bool:
        """Return True if a tenant may have these amounts, False if only a further reading can tell.

        `began` is the time of the request. Raises `QuotaUsedUp` and `QuotaForbids`.
        """
        ledger = tenant.ledger
        is_fresh = ledger.read_at >= began or self.is_fresh(ledger)
        is_late = self.clock() > began + FRESH
        allowed = is_fresh or not limited
        for quota, (amount, limit) in limited.items():
            read, used = ledger.reading.get(quota, 0), ledger.used(quota)
            if used + amount <= limit:
                allowed &= is_late or used == read or amount <= self.share(ledger, quota, limit)
            elif amount > limit or (is_fresh and (read + amount > limit or is_late)):
                self._refuse(tenant, quota, limit, max(read, min(used, limit)), amount)
            else:
                allowed = False
        return allowed

    def _refuse(
        self, tenant: _Tenant, quota: Quota, limit: int, used: int, amount: int, again: float | None = None
    ) -> None:
        """Raise the error for a request that needs more of a quota than there is, and log it now and then."""
        self.refused[quota] += 1
        now = self.clock()
        refusals = tenant.refusals.setdefault(quota, _Refusals())
        refusals.count += 1
        if now >= refusals.log_after:
            log.warning(
                "the quota %s of %s is used up (%s of %s); requests that were refused since the last such line: %d",
                quota,
                name_of(tenant.ledger.channel),
                quota.shown(used),
                quota.shown(limit),
                refusals.count,
            )
            refusals.count = 0
            refusals.log_after = now + LOG_EVERY
        details = {"quota": quota.value, "limit": limit, "used": used, "requested": amount}
        if amount > limit:
            raise QuotaForbids(f"the quota {quota} is {limit}, and the request needs {amount}", **details)
        seconds = ASK_AGAIN[quota] if again is None else max(math.ceil(again), 1)
        raise QuotaUsedUp(f"the quota {quota} is used up: {used} of {limit}", retry_after=seconds, **details)


class Held:
    """Amounts of one channel that are allowed and not stored yet."""

    def __init__(self, quotas: Quotas, tenant: _Tenant) -> None:
        self._quotas = quotas
        self._tenant = tenant
        self._amounts: dict[Quota, int] = {}

    async def grow(self, amounts: Mapping[Quota, int]) -> None:
        """Hold more, once it is known from the storage that there is room.

        A refusal is that of a reading, which is at most a second old. As long as only what this server has added stands
        against an amount, the caller waits for the next reading, for a second at most: some of it may count twice.
        Raises `QuotaUsedUp`, `QuotaForbids`, and what the driver raises if the storage does not answer.
        """
        quotas, tenant = self._quotas, self._tenant
        began = quotas.clock()
        tenant.users += 1
        try:
            while not quotas.allows(tenant, limited := quotas.limited(tenant, amounts), began):
                await asyncio.shield(quotas.readings.next(tenant.ledger))
        finally:
            tenant.users -= 1
        for quota, (amount, _) in limited.items():
            tenant.ledger.hold(quota, amount)
            self._amounts[quota] = self._amounts.get(quota, 0) + amount

    def settle(self) -> None:
        """Note that everything held is stored now, or may be. Doing that again changes nothing."""
        self._end(self._tenant.ledger.settle)

    def free(self) -> None:
        """Give back what is held: it is not going to be stored. Doing that again changes nothing."""
        self._end(self._tenant.ledger.free)

    def _end(self, note: Callable[[Quota, int], None]) -> None:
        for quota, amount in self._amounts.items():
            note(quota, amount)
        self._amounts = {}

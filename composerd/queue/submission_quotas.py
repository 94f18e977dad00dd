"""Submissions of tenants that have quotas: they hold what they need of those until they are stored."""

import asyncio
from collections.abc import Callable, Sequence

from composerd.models import Enqueued, NewJob
from composerd.quotas import Held, Quota, Quotas


async def submit_within(
    quotas: Quotas, jobs: Sequence[NewJob], write: "Callable[[Sequence[NewJob]], asyncio.Future[Enqueued]]"
) -> Enqueued:
    """Store jobs if the quotas of their channels allow it.

    A write goes on if its client goes away, and what it needs counts until it has ended. Raises `QuotaUsedUp`,
    `QuotaForbids` and what `write` raises.
    """
    holding: list[Held] = []
    try:
        for channel, amounts in _amounts(jobs).items():
            held = quotas.held(channel)
            await held.grow(amounts)
            holding.append(held)
        answer = write(jobs)
    except BaseException:
        for held in holding:
            held.free()
        raise

    def end(done: "asyncio.Future[Enqueued]") -> None:
        for held in holding:
            held.settle() if done.cancelled() or done.exception() is None else held.free()

    answer.add_done_callback(end)
    return await asyncio.shield(answer)


def _amounts(jobs: Sequence[NewJob]) -> dict[str, dict[Quota, int]]:
    """Return what jobs need of the quotas of their channels."""
    amounts: dict[str, dict[Quota, int]] = {}
    for job in jobs:
        own = amounts.setdefault(job.channel, {Quota.WAITING_JOBS: 0, Quota.PAYLOAD_BYTES: 0})
        own[Quota.WAITING_JOBS] += 1
        own[Quota.PAYLOAD_BYTES] += len(job.args or b"")
    return amounts

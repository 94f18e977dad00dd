"""The quotas of a server's tenants: their file, and what the storage says of them."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from composerd.driver import Driver, Usage
from composerd.quotas import STORED, Quota, Quotas, QuotaTable, parse
from composerd.settings import Settings
from composerd.tasks import stop
from composerd.watched_file import WatchedFile


@asynccontextmanager
async def running_quotas(settings: Settings, driver: Driver) -> AsyncIterator[Quotas | None]:
    """Keep the quotas up to date for the length of a block; None if there are none. Raises `UnusableFile`."""
    if settings.quotas is None:
        yield None
        return

    def parse_for_driver(content: bytes) -> QuotaTable:
        table = parse(content)
        if table.limits(STORED) and not driver.capabilities.counts_usage:
            raise ValueError(
                f"it has quotas of what is stored ({', '.join(STORED)}), which this storage does not count: remove them"
            )
        return table

    async def read(channels: Sequence[str]) -> Sequence[Mapping[Quota, int]]:
        return [_amounts(usage) for usage in await driver.usage(channels)]

    file = WatchedFile(settings.quotas, parse_for_driver, "quotas")
    watching = asyncio.create_task(file.run(), name="quotas file")
    try:
        yield Quotas(file, read, shared=driver.capabilities.shared)
    finally:
        await stop(watching)


def _amounts(usage: Usage) -> Mapping[Quota, int]:
    return {
        Quota.WAITING_JOBS: usage.waiting,
        Quota.RUNNING_JOBS: usage.running,
        Quota.PAYLOAD_BYTES: usage.payloads,
        Quota.ARTIFACT_BYTES: usage.artifacts,
    }

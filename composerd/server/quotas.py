"""The quotas of a server's tenants: their file, and what the storage says of them."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from composerd.driver import Driver
from composerd.identity.watched_file import WatchedFile
from composerd.quotas import STORED, Quota, Quotas, QuotaTable, parse
from composerd.settings import Settings
from composerd.tasks import stop


@asynccontextmanager
async def running_quotas(settings: Settings, driver: Driver) -> AsyncIterator[Quotas | None]:
    """Keep the quotas up to date for the length of a block; None if there are none. Raises `UnusableFile`."""
    if settings.quotas is None:
        yield None
        return

    def parse_for_driver(content: bytes) -> QuotaTable:
        table = parse(content)
        if table.limits(STORED):
            raise ValueError(
                f"the storage driver {driver.name} cannot tell what a tenant has stored: "
                f"remove {', '.join(STORED)}, or use a driver for contract 1.5"
            )
        return table

    async def read(channels: Sequence[str]) -> Sequence[Mapping[Quota, int]]:
        return [{} for _ in channels]

    file = WatchedFile(settings.quotas, parse_for_driver, "quotas")
    watching = asyncio.create_task(file.run(), name="quotas file")
    try:
        yield Quotas(file, read, shared=driver.capabilities.shared)
    finally:
        await stop(watching)

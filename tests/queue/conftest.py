"""A queue over the memory driver, and the steps that its tests share."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any
from uuid import UUID

import msgspec
import pytest

from composerd.driver.guard import Guard
from composerd.errors import (
    Unavailable,
)
from composerd.ids import new_id
from composerd.models import (
    Claimed,
    NewJob,
    News,
)
from composerd.queue import JobQueue, Lookup, QueueOptions, keys_for
from composerd_fs import MemoryDriver

KEYS = keys_for("", ["build"], "x86_64")
LONG = 60.0


class Shared(MemoryDriver):
    """The memory driver as a shared storage: news of other servers comes from the test."""

    def __init__(self) -> None:
        super().__init__()
        self.capabilities = msgspec.structs.replace(MemoryDriver.capabilities, shared=True)
        self.others: asyncio.Queue[News | Unavailable] = asyncio.Queue()
        self.watches: asyncio.Queue[None] = asyncio.Queue()

    async def watch(self) -> AsyncIterator[News]:
        """Yield the news that a test puts in; an error ends the watch."""
        self.watches.put_nowait(None)
        while True:
            news = await self.others.get()
            if isinstance(news, Unavailable):
                raise news
            yield news


def running(driver: MemoryDriver, **options: Any) -> AbstractAsyncContextManager[JobQueue]:
    """Run a queue that does not sweep on its own for the length of a test, unless the options say so."""
    given = {
        "heartbeat_timeout": 120.0,
        "handover_timeout": 10.0,
        "sweep_interval": 3600.0,
        "worker_timeout": 3600.0,
        "max_waits": 100,
    }
    return JobQueue(Guard(driver), QueueOptions(**(given | options))).running()


@pytest.fixture
async def driver() -> MemoryDriver:
    """Return an empty storage."""
    driver = MemoryDriver()
    await driver.start()
    return driver


@pytest.fixture
async def queue(driver: MemoryDriver) -> AsyncIterator[JobQueue]:
    """Run a queue."""
    async with running(driver) as queue:
        yield queue


async def add(queue: JobQueue, **fields: Any) -> UUID:
    """Submit a job, and return its id."""
    job = NewJob(id=new_id(), type="build", **fields)
    assert (await queue.submit([job])).created == (True,)
    return job.id


async def take(queue: JobQueue, **options: Any) -> Claimed:
    """Request a job that is ready."""
    claimed = await queue.request(KEYS, confirm=options.pop("confirm", False), wait=LONG, **options)
    assert claimed is not None
    return claimed


async def ended_attempt(queue: JobQueue, how: str) -> UUID:
    """Return the token of an attempt that ended in some way."""
    job_id = await add(queue)
    token = (await take(queue)).token
    if how == "finished":
        await queue.finish(token, b"1", failed=False)
    elif how == "canceled":
        await queue.cancel(Lookup(job_id, None))
    elif how == "superseded":
        await queue.release(token)
    return token if how != "unknown" else new_id()


async def turns(count: int = 20) -> None:
    """Let the event loop run for some turns."""
    for _ in range(count):
        await asyncio.sleep(0)

"""However many edges there are, other tasks have a turn after a few hundred of them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest

from composerd.models import JobFilter

from ..conftest import Instance, instance_of

EDGES = 10_000


@pytest.fixture
async def memory(tmp_path: Path) -> AsyncIterator[Instance]:
    """Return the memory driver, whose flushes wait for nothing, so that only slices give others a turn."""
    async with instance_of("memory", tmp_path) as instance:
        yield instance


async def turns(work: Awaitable[object]) -> int:
    """Return how often another task has had a turn until something is done."""
    count = 0
    task = asyncio.ensure_future(work)
    while not task.done():
        await asyncio.sleep(0)
        count += 1
    await task
    return count


async def test_a_submission(memory: Instance) -> None:
    """A submission with many dependencies is planned, stored and answered in slices, and so is one on archived jobs."""
    near = [memory.new() for _ in range(10)]
    await memory.submit(*near)
    far = [memory.new(*[job.id for job in near]) for _ in range(EDGES // 10)]
    assert await turns(memory.driver.enqueue([far])) > EDGES // 500
    for job in near:
        await memory.cancel(job.id)
    while (await memory.driver.advance(1000)).news.due_in == 0:
        pass
    ended = [memory.new() for _ in range(500)]
    await memory.submit(*ended)
    for _ in ended:
        await memory.finish(await memory.take())
    table = memory.driver._table  # type: ignore[attr-defined]
    assert len(table.jobs.live) == 0
    late = [memory.new(*[job.id for job in ended]) for _ in range(20)]
    assert await turns(memory.driver.enqueue([late])) > EDGES // 500


async def test_the_end_of_a_hub(memory: Instance) -> None:
    """Each call that propagates an end updates a few hundred dependents, and then leaves the rest to the next one."""
    hub = await memory.add()
    for _ in range(3):
        await memory.submit(*[memory.new(hub) for _ in range(1000)])
    ended = len((await memory.driver.cancel([hub])).news.ended)
    calls = 0
    while True:
        news = (await memory.driver.advance(1000)).news
        ended += len(news.ended)
        calls += 1
        assert len(news.ended) <= 500
        if news.due_in != 0:
            break
    assert ended == 3001
    assert calls > 5


async def test_deletion_and_retention(memory: Instance) -> None:
    """Jobs with many dependencies are deleted and purged in slices, and a call of `purge` deletes only some of them."""
    near = [memory.new(retention=1.0) for _ in range(1000)]
    await memory.submit(*near)
    far = [memory.new(*[job.id for job in near], retention=1.0) for _ in range(20)]
    for half in (far[:10], far[10:]):
        await memory.submit(*half)
    for job in near:
        await memory.cancel(job.id)
    while (await memory.driver.advance(1000)).news.due_in == 0:
        pass
    assert await turns(memory.driver.delete([job.id for job in far[:10]])) > 10
    await memory.shift(100)
    calls = 0
    while (await memory.driver.purge(1000)).items:
        calls += 1
    assert calls > 2
    assert await memory.dump() == []


async def test_a_listing(memory: Instance) -> None:
    """A long page is read in parts."""
    await memory.submit(*[memory.new() for _ in range(1000)])
    assert await turns(memory.driver.list(JobFilter(), None, 1000)) > 10
    assert await turns(memory.driver.list(JobFilter(type="none"), None, 1000)) <= 5

"""Tests of what is read of packed jobs without decoding them."""

import asyncio
from uuid import UUID

import pytest

from composerd.models import Key
from composerd_fs import FsDriver
from composerd_fs.state.jobs import MOST_PACKED_EDGES

from ..conftest import Instance


@pytest.mark.parametrize("sequence", [0, 126, 127, 254, 255, 65_534, 65_535, 2**32 - 2, 2**32 - 1])
async def test_ids_of_packed_jobs(fs: Instance, sequence: int) -> None:
    """An archived job of any sequence and shape is found, shown and listed as what it is."""
    table = fs.driver._table  # type: ignore[attr-defined]
    for shape in range(300 if sequence == 0 else 1):
        table.last_sequence = max(sequence, table.last_sequence)
        dependency = await fs.add(type=f"t{shape}")
        job_id = await fs.add(dependency, type=f"t{shape}", priority=shape % 100)
        claimed = await fs.claim(Key("", f"t{shape}", None))
        assert claimed is not None
        await fs.finish(claimed.token)
        await fs.cancel(job_id)
        number = table.last_sequence
        assert isinstance(table.jobs.by_sequence.get(number), bytes)
        assert table.jobs.id_at(number) == job_id
        assert table.jobs.state_and_key_at(number) == ("canceled", Key("", f"t{shape}", None))
        assert (await fs.get(dependency)).dependents == (job_id,)
        (listed,) = await fs.driver.listed([job_id])
        assert listed is not None
        assert (listed.id, listed.dependencies, listed.priority) == (job_id, (), shape % 100)
        assert await fs.driver.listed([UUID(int=10**9)]) == [None]


async def test_a_job_with_very_many_dependents(fs: Instance) -> None:
    """A job with very many edges stays the same over a checkpoint and a restart; it is archived when few are left."""
    hub = await fs.add()
    near = [fs.new(hub, args=None) for _ in range(MOST_PACKED_EDGES + 2)]
    for begin in range(0, len(near), 500):
        await fs.submit(*near[begin : begin + 500])
    await fs.cancel(hub)
    while (await fs.driver.advance(1000)).news.due_in == 0:
        pass
    driver = fs.driver
    assert isinstance(driver, FsDriver)
    assert list(driver._table.jobs.live) == [hub.int]
    driver._compactor.due_at_bytes = 0
    await fs.add()
    while (task := driver._compactor._task) is not None:
        await asyncio.wait([task])
    assert driver._compactor.checkpoint is not None
    before = await fs.dump()
    await fs.reopen()
    assert await fs.dump() == before
    await fs.driver.delete([job.id for job in near[:5]])
    assert (await fs.get(hub)).dependents == tuple(job.id for job in near[5:1005])
    assert isinstance(fs.driver._table.jobs.by_sequence.get(1), bytes)  # type: ignore[attr-defined]
    before = await fs.dump()
    await fs.reopen()
    assert await fs.dump() == before

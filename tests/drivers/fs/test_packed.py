"""Tests of what is read of packed jobs without decoding them."""

from uuid import UUID

import pytest

from composerd.models import Key

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

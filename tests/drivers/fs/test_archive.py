"""The archive: nothing about a job changes when it is archived, and no job is found that is not stored."""

from typing import Any
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from composerd_fs import MemoryDriver
from composerd_fs.state.indexes import DigestIndex
from composerd_fs.state.table import Table

from ..conftest import Instance, instance_of
from ..test_same_history import CHANGE, History, everything


async def history(*, archives: bool) -> History:
    """Start a storage in memory, which archives no job unless `archives` is true."""
    driver = MemoryDriver.from_url("memory:")
    if not archives:
        jobs: Any = driver._table.jobs
        jobs.archive_resting = jobs._resting.clear
    await driver.start()
    return History(driver)


def live(table: Table) -> set[UUID]:
    """Return the ids of the jobs that are not archived."""
    return {job.id for job in table.jobs.live.values()}


@settings(max_examples=200, deadline=None)
@given(st.lists(CHANGE, min_size=5, max_size=40))
async def test_archiving_changes_nothing(steps: list[tuple[str, Any]]) -> None:
    """A table that archives jobs gives the same answers, and stores the same, as one that archives none."""
    archiving, other = await history(archives=True), await history(archives=False)
    for kind, what in steps:
        assert await archiving.do(kind, what) == await other.do(kind, what)
    assert await archiving.everything() == await other.everything()


async def test_jobs_that_have_come_to_rest_are_archived(fs: Instance) -> None:
    """An ended job is archived once no unended job depends on it, and again after one has depended on it again."""
    table: Table = fs.driver._table  # type: ignore[attr-defined]
    root = await fs.add(idempotency_key="key")
    child = await fs.add(root)
    await fs.end(root)
    assert live(table) == {root, child}
    await fs.end(child)
    assert not table.jobs.live
    assert not table.jobs.attempts
    assert not table.jobs.keys
    late = await fs.add(root)
    assert live(table) == {root, late}
    await fs.cancel(late)
    assert not table.jobs.live
    assert (await fs.get(root)).dependents == (child, late)
    assert await fs.delete(child)
    assert (await fs.get(root)).dependents == (late,)


@settings(max_examples=100, deadline=None)
@given(st.lists(CHANGE, min_size=10, max_size=40))
async def test_an_archived_job_keeps_all_fields(steps: list[tuple[str, Any]]) -> None:
    """A job that was packed and unpacked has the same values in all fields as before."""
    other = await history(archives=False)
    for kind, what in steps:
        await other.do(kind, what)
    table: Table = other.driver._table
    before = everything(table)
    ended = [job for job in table.jobs.live.values() if job.state.ended]
    for job in ended:
        table.jobs.by_sequence.replace(job.sequence, table.jobs.archive.add(job))
    assert everything(table) == before
    for job in ended:
        again = table.jobs.at(job.sequence)
        assert again is not None
        assert again is not job
        assert all(attempt.job is again for attempt in again.attempts)


async def test_numbers_of_shapes_are_used_again(tmp_path: Any) -> None:
    """The number of a shape that no job has is used again, the lowest first, and those at the end are given back."""
    async with instance_of("memory", tmp_path) as instance:
        table: Table = instance.driver._table  # type: ignore[attr-defined]
        archive = table.jobs.archive
        job_ids = [await instance.add(type=f"type{number}") for number in range(5)]
        for job_id in job_ids:
            await instance.cancel(job_id)
        for number in range(50):
            job_id = await instance.add(type=f"another{number}")
            await instance.cancel(job_id)
            await instance.delete(job_id)
            assert len(archive.shapes) == 5
        await instance.delete(job_ids[1])
        await instance.delete(job_ids[3])
        job_ids[1] = await instance.add(type="new")
        await instance.cancel(job_ids[1])
        assert [shape.key.type for shape in archive.shapes] == ["type0", "new", "type2", "", "type4"]
        await instance.delete(job_ids[4])
        assert [shape.key.type for shape in archive.shapes] == ["type0", "new", "type2"]
        for job_id in job_ids[:3]:
            await instance.delete(job_id)
        assert [len(one) for one in (archive.shapes, archive._used, archive._free)] == [0, 0, 0]


def test_an_index_of_half_the_key() -> None:
    """Keys that agree in the half that is kept find their own sequence, and perhaps those of others."""
    index = DigestIndex()
    keys = [UUID(int=(number << 64) | 0x0101010101010101).bytes for number in range(3000)]
    for number, key in enumerate(keys):
        index.add(key, number)
    for number, key in enumerate(keys):
        assert number in list(index.find(key))
    for number, key in enumerate(keys[::2]):
        index.discard(key, 2 * number)
    for number, key in enumerate(keys):
        assert (number in list(index.find(key))) == bool(number % 2)
    for number, key in enumerate(keys[1::2]):
        index.discard(key, 2 * number + 1)
    assert not any(index._parts)

"""A restart of the fs driver replays what was in one flush, or not finished yet, as it happened.

That a restart changes nothing else is tested by the kit.
"""

import asyncio
from pathlib import Path
from uuid import UUID

import pytest
from msgspec.structs import replace

from composerd.driver import StoredJob
from composerd.errors import StorageUnusable
from composerd.models import JobState, OnDependencyFailure
from composerd_fs import FsDriver
from composerd_fs.journal import entries
from composerd_fs.state.commands import Commands

from ..conftest import Instance


async def test_one_flush_is_replayed_in_its_order(fs: Instance) -> None:
    """A restart replays an end, and the claim of a job that it made ready, in their order, even in one flush."""
    root = await fs.add()
    job_id = await fs.add(root, retry_on_failure=1, retry_backoff=1.0)
    first, second = UUID(int=98), UUID(int=99)
    await asyncio.gather(fs.claim(token=first), fs.finish(first), fs.claim(token=second))
    assert await fs.state(job_id) is JobState.RUNNING
    await fs.reopen()
    await fs.finish(second, failed=True)
    assert await fs.state(job_id) is JobState.WAITING
    assert await fs.pass_time(2.0) == [job_id]
    assert await fs.state(job_id) is JobState.READY


async def test_failures_of_one_flush(fs: Instance) -> None:
    """A result that names failed dependencies has the same bytes after a restart (J5)."""
    roots = [await fs.add(), await fs.add()]
    tokens = [await fs.take(), await fs.take()]
    job_id = await fs.add(*roots, on_dependency_failure=OnDependencyFailure.FAIL)
    await asyncio.gather(*[fs.finish(token, failed=True) for token in tokens])
    before = await fs.result(job_id)
    await fs.reopen()
    assert await fs.result(job_id) == before


async def test_deleted_in_the_flush_of_its_end(fs: Instance) -> None:
    """A job that failed with its dependency and was deleted in the same flush stays deleted and uncounted."""
    root = await fs.add()
    token = await fs.take()
    job_id = await fs.add(root, on_dependency_failure=OnDependencyFailure.FAIL)
    await asyncio.gather(fs.finish(token, failed=True), fs.delete(job_id))
    info = (await fs.driver.info()).jobs
    await fs.reopen()
    assert (await fs.driver.info()).jobs == info
    assert (await fs.get(root)).dependents == ()


async def test_the_end_of_a_dependency_leaves_a_running_job(fs: Instance) -> None:
    """A job that was loaded as running keeps its progress, its files and its attempt when a dependency ends (D1)."""
    root = await fs.add()
    root_token = await fs.take(root)
    job_id = await fs.add()
    token = await fs.take(job_id)
    await fs.attach(token, "a")
    # As in a dump of a storage in use: the dependency is dumped before it ends, the dependent after that.
    stored = [one if one.new.id == root else with_dependency(one, root) for one in await fs.dump()]
    await fs.empty()
    await fs.driver.load(stored)
    await fs.touch(token, b"half")
    await fs.finish(root_token)
    assert (await fs.get(job_id)).partial == b"half"
    assert [one.name for one in await fs.artifacts(job_id)] == ["a"]
    await fs.finish(token)
    assert [one.name for one in await fs.artifacts(job_id)] == ["a"]


def with_dependency(stored: StoredJob, dependency: UUID) -> StoredJob:
    """Return a stored job with a dependency."""
    return replace(
        stored,
        new=replace(stored.new, dependencies=(dependency,)),
        job=replace(stored.job, dependencies=(dependency,)),
    )


async def test_many_dependents(fs: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    """`advance` completes the propagation of an end, with the same answers before and after a restart."""
    monkeypatch.setattr("composerd_fs.state.changes.PROPAGATION", 6)
    root = await fs.add()
    jobs = [fs.new(root, on_dependency_failure=OnDependencyFailure.FAIL) for _ in range(10)]
    await fs.submit(*jobs)
    leaves = [fs.new(job.id) for job in jobs]
    await fs.submit(*leaves)
    token = await fs.take(root)
    await fs.finish(token, failed=True)
    unended = [job.id for job in jobs if await fs.state(job.id) is JobState.WAITING]
    assert unended
    await fs.cancel(unended[0])
    before = await fs.dump()
    await fs.reopen()
    assert await fs.dump() == before
    for _ in range(40):
        await fs.driver.advance(3)
    before = await fs.dump()
    states = {one.new.id: one.job.state for one in before}
    assert [states[job.id] for job in jobs].count(JobState.FAILED) == 9
    assert [states[leaf.id] for leaf in leaves].count(JobState.CANCELED) == 1
    assert [states[leaf.id] for leaf in leaves].count(JobState.READY) == 9
    await fs.reopen()
    assert await fs.dump() == before


async def test_an_end_that_an_older_version_propagated_in_part(fs: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    """An end that an older version has propagated in part is propagated to the other dependents after the start."""

    def as_before(self: Commands, _limit: int = 0) -> None:
        if self._table.unpropagated:
            self._table.propagate(3)
            self._record(entries.PropagatedEntry(3))

    root = await fs.add()
    jobs = [fs.new(root, on_dependency_failure=OnDependencyFailure.FAIL) for _ in range(10)]
    await fs.submit(*jobs)
    await fs.cancel(jobs[2].id)
    with monkeypatch.context() as patch:
        patch.setattr(Commands, "_propagate", as_before)
        await fs.finish(await fs.take(root), failed=True)
        await fs.driver.advance(3)
    before = await fs.dump()
    assert [one.job.state for one in before].count(JobState.WAITING) == 3
    await fs.reopen()
    assert await fs.dump() == before
    await fs.driver.advance(100)
    before = await fs.dump()
    assert [one.job.state for one in before].count(JobState.FAILED) == 10
    await fs.reopen()
    assert await fs.dump() == before


async def test_a_file_in_the_place_of_the_directory(tmp_path: Path) -> None:
    """A file in the place of the directory is `StorageUnusable`, and the driver can be closed after that."""
    path = tmp_path / "file"
    path.write_text("")
    driver = FsDriver(path)
    with pytest.raises(StorageUnusable, match="file"):
        await driver.start()
    await driver.close()
    await driver.close()


async def test_a_flush_has_a_bounded_number_of_items(fs: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    """Concurrent writes with more items than a flush may have are written in several flushes, in their order."""
    monkeypatch.setattr("composerd_fs.commit.MAX_ITEMS", 4)
    journal = fs.driver._journal  # type: ignore[attr-defined]
    before = journal.frame
    jobs = [fs.new() for _ in range(11)]
    writes = [[[one] for one in jobs[:2]], [[one] for one in jobs[2:4]], [[one] for one in jobs[4:10]], [jobs[10:]]]
    await asyncio.gather(*[fs.driver.enqueue(submissions) for submissions in writes])
    assert journal.frame - before == 3
    assert [one.new.id for one in await fs.dump()] == [one.id for one in jobs]

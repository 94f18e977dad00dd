"""What a restart leaves as it was, and the little that it changes."""

import asyncio
from pathlib import Path
from uuid import UUID

import pytest

from composerd.errors import StorageUnusable
from composerd.models import AttemptState, Finish, JobState, OnDependencyFailure
from composerd_fs import FsDriver

from .conftest import Store, opened
from .test_contract_look import everything


async def test_everything_is_as_it_was(fs: Store) -> None:
    """Durable: jobs, attempts, payloads and artifacts are after a restart what they were before, also after another one."""
    await everything(fs)
    before = await fs.dump()
    info = (await fs.driver.info()).jobs
    for _ in range(2):
        await fs.reopen()
        assert await fs.dump() == before
        assert (await fs.driver.info()).jobs == info


async def test_repetitions_after_a_restart(fs: Store) -> None:
    """Repeatable: after a restart every write is answered as before it."""
    job = fs.new(idempotency_key="k", fingerprint=b"f")
    await fs.submit(job)
    other = fs.new()
    await fs.submit(other)
    first, second = fs.id(), fs.id()
    claimed = await fs.claim(token=first)
    await fs.claim(token=second)
    await fs.finish(second, b"2")
    await fs.reopen()
    assert await fs.claim(token=first) == claimed
    assert await fs.finish(second, b"2") is Finish.ACCEPTED
    assert await fs.finish(second, b"3") is Finish.CONFLICT
    assert (await fs.submit(job)).created == (True,)
    assert (await fs.submit(fs.new(idempotency_key="k", fingerprint=b"f"))).jobs[0].id == job.id


async def test_the_ready_order_is_kept(fs: Store) -> None:
    """Ready order: a restart changes no place."""
    ids = [await fs.add(priority=n % 2) for n in range(6)]
    await fs.release(await fs.take(ids[1]))
    await fs.reopen()
    order = [await fs.claim() for _ in range(6)]
    assert [one and one.job_id for one in order] == [ids[n] for n in (3, 5, 1, 0, 2, 4)]


async def test_running_attempts_have_a_full_lease(fs: Store) -> None:
    """No attempt lapses within one lease of the start: every running attempt is confirmed and has a full lease."""
    job_id = await fs.add()
    token = await fs.take(handover=5.0)
    await fs.driver.close()
    fs.driver = await opened(fs.directory)
    await fs.driver.shift_clock(59.0)
    assert (await fs.driver.advance(10)).items == []
    await fs.driver.shift_clock(1.5)
    assert (await fs.driver.advance(10)).items == [job_id]
    assert (await fs.get(job_id)).retries == 1
    assert await fs.touch(token) is AttemptState.SUPERSEDED


async def test_a_lapsed_attempt_gets_another_lease(fs: Store) -> None:
    """No attempt lapses within one lease of the start, though its lease and its job's timeout ran out before."""
    await fs.pass_time(100.0)
    job_id = await fs.add(timeout=10.0)
    token = await fs.take()
    fs.shifted += 500.0
    await fs.reopen()
    assert await fs.pass_time(0.0) == []
    assert await fs.touch(token) is AttemptState.RUNNING
    fs.shifted += 61.0
    await fs.driver.shift_clock(61.0)
    assert (await fs.driver.advance(10)).items == [job_id]


async def test_time_does_not_go_back(fs: Store) -> None:
    """The clock: a start whose wall clock is behind begins at the latest time that the journal knows."""
    await fs.driver.shift_clock(5000.0)
    first = await fs.get(await fs.add())
    await fs.driver.close()
    fs.driver = await opened(fs.directory)
    assert (await fs.get(await fs.add())).queued_at >= first.queued_at


async def test_one_flush_is_read_as_it_was_lived(fs: Store) -> None:
    """Durable: an end, and a claim of the job that it made ready, in one flush: the restart knows the order."""
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


async def test_failures_of_one_flush(fs: Store) -> None:
    """J5: which failed dependencies a result names was decided once; a restart gives the same bytes."""
    roots = [await fs.add(), await fs.add()]
    tokens = [await fs.take(), await fs.take()]
    job_id = await fs.add(*roots, on_dependency_failure=OnDependencyFailure.FAIL)
    await asyncio.gather(*[fs.finish(token, failed=True) for token in tokens])
    before = await fs.result(job_id)
    await fs.reopen()
    assert await fs.result(job_id) == before


async def test_deleted_in_the_flush_of_its_end(fs: Store) -> None:
    """Durable: a job that failed with its dependency and was deleted in the same flush stays deleted, and is not counted."""
    root = await fs.add()
    token = await fs.take()
    job_id = await fs.add(root, on_dependency_failure=OnDependencyFailure.FAIL)
    await asyncio.gather(fs.finish(token, failed=True), fs.delete(job_id))
    info = (await fs.driver.info()).jobs
    await fs.reopen()
    assert (await fs.driver.info()).jobs == info
    assert (await fs.get(root)).dependents == ()


async def test_many_dependents(fs: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows from an end may lag, and `advance` completes it, with the same answers before and after a restart."""
    monkeypatch.setattr("composerd_fs.operations.SETTLED_AT_ONCE", 3)
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
    for _ in range(20):
        await fs.driver.advance(3)
    before = await fs.dump()
    states = {one.new.id: one.job.state for one in before}
    assert [states[job.id] for job in jobs].count(JobState.FAILED) == 9
    assert [states[leaf.id] for leaf in leaves].count(JobState.CANCELED) == 1
    assert [states[leaf.id] for leaf in leaves].count(JobState.READY) == 9
    await fs.reopen()
    assert await fs.dump() == before


async def test_a_file_in_the_place_of_the_directory(tmp_path: Path) -> None:
    """Start: what cannot be a storage is `StorageUnusable`, and closing after that is fine."""
    path = tmp_path / "file"
    path.write_text("")
    driver = FsDriver(path)
    with pytest.raises(StorageUnusable, match="file"):
        await driver.start()
    await driver.close()
    await driver.close()

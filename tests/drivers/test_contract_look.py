"""Listings, payloads, workers, moving to another storage, and the storage itself."""

import os
from pathlib import Path

import pytest

from composerd.models import Claim, Job, JobFilter, JobState, OnDependencyFailure, PayloadKind, PayloadRef, Worker

from .conftest import ANY, PLENTY, Store, store_of

ALL = JobFilter()
PAYLOADS = {
    "spelled oddly": b'{ "b":1.0e2,"a" : "\\u00e9\xc3\xa9", "b":2 }',
    "empty": b"",
    "not JSON": bytes(range(256)),
    "like the journal's own": b"cdF\n" * 40 + b"cdjrnl\r\n",
    "large": os.urandom(1024) * 2048,
}


async def test_newest_first(store: Store) -> None:
    """List: newest submission first, in parts; the last part has no next one."""
    ids = [await store.add() for _ in range(7)]
    jobs: list[Job] = []
    sizes = []
    cursor = None
    while True:
        page = await store.driver.list(ALL, cursor, 3)
        jobs += page.jobs
        sizes.append(len(page.jobs))
        cursor = page.next
        if cursor is None:
            break
        assert 0 < cursor < 2**63
    assert [job.id for job in jobs] == ids[::-1]
    assert max(sizes) == 3


async def test_a_listed_job(store: Store) -> None:
    """List: a job is listed as `get` has it, but for its dependents and progress."""
    job_id = await store.add()
    await store.add(job_id)
    listed = (await store.driver.list(ALL, None, 10)).jobs[1]
    job = await store.get(job_id)
    assert listed.dependents == ()
    assert (listed.id, listed.state, listed.queued_at) == (job.id, job.state, job.queued_at)


async def test_filters(store: Store) -> None:
    """List: each filter, and all together."""
    fields = [(type_, channel, arch) for type_ in "ab" for channel in ("", "c") for arch in (None, "x86_64")]
    ids = {each: await store.add(type=each[0], channel=each[1], arch=each[2]) for each in fields}
    canceled = ids["b", "c", "x86_64"]
    await store.cancel(canceled)
    for chosen, expected in [
        (JobFilter(type="a"), {ids[each] for each in fields if each[0] == "a"}),
        (JobFilter(channel=""), {ids[each] for each in fields if each[1] == ""}),
        (JobFilter(arch="x86_64"), {ids[each] for each in fields if each[2] == "x86_64"}),
        (JobFilter(state=JobState.CANCELED), {canceled}),
        (JobFilter(state=JobState.READY, type="b", channel="c", arch="x86_64"), set()),
        (JobFilter(state=JobState.CANCELED, type="b", channel="c", arch="x86_64"), {canceled}),
    ]:
        assert {job.id for job in (await store.driver.list(chosen, None, 100)).jobs} == expected


async def test_a_listing_is_stable(store: Store) -> None:
    """List: while jobs come, move and go, what stays is shown once, in the same order."""
    ids = [await store.add() for _ in range(12)]
    shown: list[Job] = []
    cursor: int | None = None
    for n in range(100):
        page = await store.driver.list(ALL, cursor, 2)
        shown += page.jobs
        cursor = page.next
        if cursor is None:
            break
        await store.add(priority=n)
        gone = ids[n * 2]  # some shown already, some not yet
        await store.cancel(gone)
        await store.delete(gone)
        await store.release(await store.take())
    stayed = [one for one in ids if (await store.driver.get([one]))[0] is not None]
    assert [job.id for job in shown if job.id in stayed] == stayed[::-1]
    assert {job.id for job in shown} <= set(ids)
    assert len(shown) == len({job.id for job in shown})


@pytest.mark.parametrize("cursor", [1, 3, 10**6, 2**63 - 1])
async def test_any_cursor_will_do(store: Store, cursor: int) -> None:
    """List: a cursor that was never given is no error."""
    for _ in range(5):
        await store.add()
    page = await store.driver.list(ALL, cursor, 10)
    assert len(page.jobs) <= 5


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
async def test_payloads_are_kept_as_they_are(store: Store, payload: bytes) -> None:
    """Payload: args and results come back byte for byte, in a claim too."""
    job_id = await store.add(args=payload)
    claimed = await store.claim()
    assert claimed is not None
    assert claimed.args == payload
    await store.finish(claimed.token, payload[::-1])
    refs = [PayloadRef(job_id, PayloadKind.RESULT), PayloadRef(job_id, PayloadKind.ARGS)]
    assert await store.driver.payload(refs) == [payload[::-1], payload]


async def test_what_is_not_there(store: Store) -> None:
    """Get, Payload, Artifacts: a job that does not exist is None, and has nothing; so is what a job does not have."""
    job_id = await store.add(args=None)
    refs = [PayloadRef(one, kind) for one in (job_id, store.id()) for kind in PayloadKind]
    assert await store.driver.payload(refs) == [None] * 4
    assert await store.driver.get([store.id()]) == [None]
    assert await store.driver.artifacts([store.id(), job_id]) == [(), ()]


async def test_many_payloads_at_once(store: Store) -> None:
    """Payload: a call's answers are in its order, repetitions included."""
    ids = [await store.add(args=b"%d" % n * n) for n in range(50)]
    refs = [PayloadRef(ids[n * 7 % 50], PayloadKind.ARGS) for n in range(80)]
    assert await store.driver.payload(refs) == [b"%d" % (n * 7 % 50) * (n * 7 % 50) for n in range(80)]


async def test_empty_batches(store: Store) -> None:
    """Batches: nothing asked, nothing answered."""
    driver = store.driver
    for batch in [
        await driver.enqueue([]),
        await driver.claim([], PLENTY),
        await driver.touch([]),
        await driver.attach([]),
        await driver.finish([]),
        await driver.release([]),
        await driver.cancel([]),
        await driver.delete([]),
        await driver.advance(10),
        await driver.purge(10),
    ]:
        assert list(batch.items) == []
    assert list(await driver.get([])) == []


async def test_workers(store: Store) -> None:
    """Workers: the latest first, each once, with what it said last."""
    one, two = store.id(), store.id()
    await store.driver.seen([Worker(one, "x86_64"), Worker(two, "aarch64", ("build",), "org")])
    await store.driver.seen([Worker(one, "x86_64", ("build",))])
    workers = await store.driver.workers(60)
    assert [(worker.id, worker.types) for worker in workers] == [(one, ("build",)), (two, ("build",))]
    assert all(worker.seen_at is not None for worker in workers)


async def test_a_sign_of_life(store: Store) -> None:
    """Workers: one that is merely alive keeps what it said; one not heard of for too long is not shown; those asked for are."""
    one, two = store.id(), store.id()
    await store.driver.seen([Worker(one, "x86_64", ("build",)), Worker(two, "aarch64")])
    await store.pass_time(100.0)
    await store.driver.seen([Worker(one, "")])
    (shown,) = await store.driver.workers(99)
    assert (shown.id, shown.arch, shown.types) == (one, "x86_64", ("build",))
    assert [worker.id for worker in await store.driver.workers(101)] == [one, two]
    assert [worker.id for worker in await store.driver.workers(101, [two, store.id()])] == [two]
    assert await store.driver.workers(99, [two]) == []


async def test_what_workers_run(store: Store) -> None:
    """Workers: each with the jobs it runs now."""
    worker = store.id()
    await store.driver.seen([Worker(worker, "x86_64")])
    first, second = await store.add(), await store.add()
    tokens = [store.id(), store.id()]
    await store.driver.claim([Claim(token, (ANY,), 60.0, worker_id=worker) for token in tokens], PLENTY)
    assert [set(one.jobs) for one in await store.driver.workers(60)] == [{first, second}]
    await store.finish(tokens[0])
    await store.release(tokens[1])
    assert [one.jobs for one in await store.driver.workers(60)] == [()]


async def test_how_many_go_first(store: Store) -> None:
    """Ahead: ready jobs of the same key with a higher priority or an earlier place, counted up to the limit."""
    ids = [await store.add(priority=n % 2) for n in range(6)]
    await store.add(type="other", priority=9)
    await store.cancel(ids[1])
    assert [await store.driver.ahead(job_id, 100) for job_id in ids] == [2, 0, 3, 0, 4, 1]
    assert await store.driver.ahead(ids[4], 3) == 3
    assert await store.driver.ahead(store.id(), 100) == 0


async def test_info_counts(store: Store) -> None:
    """Info: how many jobs are in each state."""
    await store.add(not_before=5.0)
    await store.add()
    await store.end((await store.submit(store.new(priority=1))).jobs[0].id)
    canceled = await store.add()
    await store.cancel(canceled)
    await store.delete(canceled)
    jobs = {state: count for state, count in (await store.driver.info()).jobs.items() if count}
    assert jobs == {"waiting": 1, "ready": 1, "finished": 1}
    await store.driver.ping()


async def test_closing_twice(store: Store) -> None:
    """Close: fine twice."""
    await store.add()
    await store.driver.close()
    await store.driver.close()


async def everything(store: Store) -> None:
    """Jobs in every state, with all that a job may have."""
    retried = await store.add(retry_on_failure=1, retry_backoff=500.0, args=None)
    token = await store.take(retried)
    await store.finish(token, b"1", failed=True)
    root = await store.add(args=b"root", idempotency_key="k", fingerprint=b"f", retention=1000.0)
    await store.add(root, priority=5, not_before=1000.0, max_retries=7, timeout=2000.0, channel="org", arch="x86_64")
    token = await store.take(root)
    await store.attach(token, "b")
    await store.attach(token, "a", "elsewhere")
    await store.finish(token, b"result")
    failed = await store.add()
    await store.end(failed, failed=True)
    await store.add(failed, on_dependency_failure=OnDependencyFailure.FAIL)
    canceled = await store.add()
    await store.add(canceled)
    await store.cancel(canceled)
    released = await store.add(priority=9, max_retries=100)
    for _ in range(18):
        await store.release(await store.take(released))
    await store.take(released, handover=500.0)
    running = await store.add(priority=9)
    token = await store.take(running, lease=1000.0)
    await store.attach(token, "c")
    await store.add()


@pytest.mark.parametrize("target", ["fs", "memory"])
async def test_moved_to_another_storage(store: Store, target: str, tmp_path: Path) -> None:
    """Dump, Load: everything goes from one storage to another as it is; loading again changes nothing."""
    await everything(store)
    dumped = await store.dump()
    assert {one.job.state for one in dumped} == set(JobState)
    async with store_of(target, tmp_path / "other") as other:
        for _ in range(2):
            await other.driver.load(dumped)
            assert await other.dump() == dumped
        running = [one for one in dumped if one.job.state is JobState.RUNNING]
        for one in running:
            assert (await other.finish(one.attempts[-1].token)).value == "accepted"
        assert await other.driver.artifacts([running[-1].job.id]) == [running[-1].artifacts]
        if target == "fs":
            before = await other.dump()
            await other.reopen()
            assert await other.dump() == before


async def test_dumped_while_dependents_are_pending(store: Store, tmp_path: Path) -> None:
    """Dump, Load: what follows from an end that was dumped follows in the other storage, though the dump was made in between."""
    root = store.new()
    near = store.new(root.id)
    strict = store.new(root.id, on_dependency_failure=OnDependencyFailure.FAIL)
    far = store.new(strict.id)
    await store.submit(root, near, strict, far)
    before = {one.new.id: one for one in await store.dump()}
    await store.end(root.id, failed=True)
    after = {one.new.id: one for one in await store.dump()}
    async with store_of("memory", tmp_path) as other:
        await other.driver.load([after[root.id], before[near.id], before[strict.id], before[far.id]])
        await other.driver.advance(10)
        states = [await other.state(job.id) for job in (near, strict, far)]
        assert states == [JobState.READY, JobState.FAILED, JobState.READY]

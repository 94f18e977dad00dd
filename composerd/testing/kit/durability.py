"""What survives: a restart after every operation, and a process that is killed right after it was answered."""

import asyncio
import os
import signal
import warnings
from collections.abc import AsyncIterator

import msgspec

from composerd.models import AttemptState, JobState, OnDependencyFailure, Outcome, Verdict, Worker
from composerd.testing.kit.clause import clause
from composerd.testing.kit.instance import LEASE, Store, everything, timeless

KILLED_AFTER = 17
"""How many operations `_operations` has, at each of which a process is killed."""


class Durability:
    """What survives: a restart after every operation, and a process that is killed right after it was answered."""

    @clause("G5", needs="durable")
    async def test_everything_is_as_it_was(self, store: Store) -> None:
        """Jobs, attempts, payloads and artifacts are after a restart what they were before, also after another one."""
        await everything(store)
        before, info = await store.dump(), (await store.driver.info()).jobs
        for _ in range(2):
            await store.reopen()
            assert await store.dump() == before
            assert (await store.driver.info()).jobs == info

    @clause("G5", needs="durable")
    async def test_reopened_after_every_operation(self, store: Store) -> None:
        """After each kind of write everything is the same before and after a restart."""
        done = 0
        async for _ in _operations(store):
            before = await store.dump()
            await store.reopen()
            assert await store.dump() == before
            done += 1
        assert done == KILLED_AFTER

    @clause("G4", needs="durable", opened=False)
    async def test_killed_after_every_operation(self, store: Store) -> None:
        """A process that is killed right after an answer loses nothing of it; the storage opens, and goes on."""
        for operations in range(1, KILLED_AFTER + 1):
            store.shifted, told = _until_killed(store, operations)
            await store.driver.shift_clock(store.shifted)
            await store.driver.start()
            assert await _shape(store) == told
            await store.empty()
            await store.driver.close()
            store.driver = store.again()

    @clause("G5", "C7", "F2", "E6", "E7", needs="durable")
    async def test_repetitions_after_a_restart(self, store: Store) -> None:
        """After a restart every write is answered as before it."""
        job = store.new(idempotency_key="k", fingerprint=b"f")
        await store.submit(job)
        await store.add()
        first, second = store.id(), store.id()
        claimed = await store.claim(token=first)
        await store.claim(token=second)
        await store.finish(second, b"2")
        await store.reopen()
        assert await store.claim(token=first) == claimed
        assert await store.finish(second, b"2") is Verdict.ACCEPTED
        assert await store.finish(second, b"3") is Verdict.CONFLICT
        assert (await store.submit(job)).created == (True,)
        assert (await store.submit(store.new(idempotency_key="k", fingerprint=b"f"))).jobs[0].id == job.id

    @clause("G5", "C4", needs="durable")
    async def test_the_ready_order_is_kept(self, store: Store) -> None:
        """A restart changes no place."""
        ids = [await store.add(priority=n % 2) for n in range(6)]
        await store.release(await store.take(ids[1]))
        await store.reopen()
        order = [await store.claim() for _ in range(6)]
        assert [one and one.job_id for one in order] == [ids[n] for n in (3, 5, 1, 0, 2, 4)]

    @clause("L11", needs="durable")
    async def test_running_attempts_have_a_full_lease(self, store: Store) -> None:
        """After a start every running attempt is confirmed and has a full lease."""
        job_id = await store.add()
        token = await store.take(handover=50.0)
        await store.reopen()
        assert await store.pass_time(LEASE - 10.0) == []
        assert await store.pass_time(20.0) == [job_id]
        assert (await store.get(job_id)).retries == 1
        assert await store.touch(token) is AttemptState.SUPERSEDED

    @clause("L11", needs="durable")
    async def test_a_lapsed_attempt_gets_another_lease(self, store: Store) -> None:
        """An attempt does not lapse within one lease of the start, though its lease and its job's timeout ran out before."""
        job_id = await store.add(timeout=100.0)
        token = await store.take()
        store.shifted += 5000.0
        await store.reopen()
        assert await store.pass_time(0.0) == []
        assert await store.touch(token) is AttemptState.RUNNING
        assert await store.pass_time(LEASE + 10.0) == [job_id]

    @clause("D3", "G5", needs="durable")
    async def test_what_follows_survives(self, store: Store) -> None:
        """What follows from an end is drawn before a restart or after it, by `advance` at the latest."""
        root = store.new()
        jobs = [store.new(root.id, on_dependency_failure=OnDependencyFailure.FAIL) for _ in range(30)]
        leaves = [store.new(job.id) for job in jobs]
        await store.submit(root, *jobs, *leaves)
        token = await store.take(root.id)
        await store.driver.finish([Outcome(token, b"no", failed=True)])
        await store.reopen()
        await store.told((await store.driver.advance(10)).news)
        assert [await store.state(job.id) for job in jobs] == [JobState.FAILED] * 30
        assert [await store.state(leaf.id) for leaf in leaves] == [JobState.READY] * 30

    @clause("G4", needs="durable")
    async def test_signs_of_life_may_be_lost(self, store: Store) -> None:
        """What only `touch` and `seen` said need not survive, and does no harm."""
        job_id = await store.add()
        token = await store.take()
        await store.touch(token, b"half")
        await store.driver.seen([Worker(store.id(), "x86_64")])
        await store.reopen()
        assert (await store.get(job_id)).partial in (b"half", None)
        assert await store.finish(token) is Verdict.ACCEPTED


async def _operations(store: Store) -> AsyncIterator[None]:
    """Every kind of write, one after the other; it stops after each."""
    root = await store.add(idempotency_key="k", fingerprint=b"f")
    yield
    graph = [store.new(root), store.new(root, on_dependency_failure=OnDependencyFailure.FAIL)]
    await store.submit(*graph, store.new(graph[0].id), store.new(not_before=100.0))
    yield
    token = await store.take(root)
    yield
    await store.release(token)
    yield
    token = await store.take(root, handover=50.0)
    yield
    await store.attach(token, "log")
    yield
    await store.attach(token, "log", "elsewhere")
    yield
    await store.finish(token, b"result", failed=True)
    yield
    lapsing = await store.take(graph[0].id)
    yield
    await store.pass_time(LEASE + 200.0)
    yield
    assert await store.touch(lapsing) is AttemptState.SUPERSEDED
    retried = await store.add(priority=5, retry_on_failure=1)
    yield
    await store.finish(await store.take(retried), b"error", failed=True)
    yield
    await store.cancel(graph[0].id)
    yield
    await store.delete(graph[1].id)
    yield
    await store.add(priority=9, retention=10.0)
    yield
    await store.finish(await store.take(), b"{}")
    yield
    await store.pass_time(20.0)
    await store.driver.purge(10)
    yield


async def _shape(store: Store) -> bytes:
    """What is stored, but the moments, and what a start renews."""
    return msgspec.json.encode([timeless(one) for one in await store.dump()])


def _until_killed(store: Store, operations: int) -> tuple[float, bytes]:
    """Let a process of its own do so many operations on the storage, and be killed; how far ahead it was, and what it had stored."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # The threads of a driver that was closed may linger; the child has a loop and a driver of its own.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            asyncio.run(_work(store, operations, writer))
        finally:
            os._exit(1)  # not to be reached: the child kills itself
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        shifted, _, told = pipe.read().partition(b"\n")
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the process that was to be killed failed before"
    return float(shifted), told


async def _work(store: Store, operations: int, pipe: int) -> None:
    await store.driver.shift_clock(store.shifted)
    await store.driver.start()
    done = 0
    async for _ in _operations(store):
        done += 1
        if done == operations:
            with os.fdopen(pipe, "wb") as told:
                told.write(b"%f\n" % store.shifted + await _shape(store))
            os.kill(os.getpid(), signal.SIGKILL)

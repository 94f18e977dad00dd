"""Tests of durability: a restart after every kind of write, and a process killed right after its answer."""

import asyncio
import os
import signal
import warnings
from collections.abc import AsyncIterator

import msgspec

from composerd.models import AttemptState, JobState, OnDependencyFailure, Outcome, Verdict, Worker
from composerd.testing.kit.clause import clause
from composerd.testing.kit.instance import LEASE, Instance, add_jobs_in_every_state, without_times

KILLED_AFTER = 17
"""The number of operations that `_operations` performs; a process is killed after each of them."""


class Durability:
    """Every kind of write survives a restart, and the death of the process right after the answer."""

    @clause("G5", needs="durable")
    async def test_a_restart_changes_nothing(self, instance: Instance) -> None:
        """Jobs, attempts, payloads and artifacts are the same after a restart, and after a second one."""
        await add_jobs_in_every_state(instance)
        before, info = await instance.dump(), (await instance.driver.info()).jobs
        for _ in range(2):
            await instance.reopen()
            assert await instance.dump() == before
            assert (await instance.driver.info()).jobs == info

    @clause("G5", needs="durable")
    async def test_reopened_after_every_operation(self, instance: Instance) -> None:
        """After each kind of write, what is stored is the same before and after a restart."""
        done = 0
        async for _ in _operations(instance):
            before = await instance.dump()
            await instance.reopen()
            assert await instance.dump() == before
            done += 1
        assert done == KILLED_AFTER

    @clause("G4", needs="durable", opened=False)
    async def test_killed_after_every_operation(self, instance: Instance) -> None:
        """A process that is killed right after an answer has lost nothing of it, and its storage can be opened."""
        for operations in range(1, KILLED_AFTER + 1):
            instance.shifted, stored = _until_killed(instance, operations)
            await instance.set_clock(instance.driver)
            await instance.driver.start()
            assert await _contents(instance) == stored
            await instance.empty()
            await instance.driver.close()
            instance.driver = instance.make_driver()

    @clause("G5", "C7", "F2", "E6", "E7", needs="durable")
    async def test_repetitions_after_a_restart(self, instance: Instance) -> None:
        """After a restart, repeated writes are answered as before it."""
        job = instance.new(idempotency_key="k", fingerprint=b"f")
        await instance.submit(job)
        await instance.add()
        first, second = instance.id(), instance.id()
        claimed = await instance.claim(token=first)
        await instance.claim(token=second)
        await instance.finish(second, b"2")
        await instance.reopen()
        assert await instance.claim(token=first) == claimed
        assert await instance.finish(second, b"2") is Verdict.ACCEPTED
        assert await instance.finish(second, b"3") is Verdict.CONFLICT
        assert (await instance.submit(job)).created == (True,)
        assert (await instance.submit(instance.new(idempotency_key="k", fingerprint=b"f"))).jobs[0].id == job.id

    @clause("G5", "C4", needs="durable")
    async def test_the_ready_order_is_kept(self, instance: Instance) -> None:
        """A restart changes the position of no job."""
        ids = [await instance.add(priority=n % 2) for n in range(6)]
        await instance.release(await instance.take(ids[1]))
        await instance.reopen()
        order = [await instance.claim() for _ in range(6)]
        assert [one and one.job_id for one in order] == [ids[n] for n in (3, 5, 1, 0, 2, 4)]

    @clause("D3", "G5", needs="durable")
    async def test_propagation_survives_a_restart(self, instance: Instance) -> None:
        """An end is propagated to all jobs that it concerns, if not before a restart then after it."""
        root = instance.new()
        jobs = [instance.new(root.id, on_dependency_failure=OnDependencyFailure.FAIL) for _ in range(30)]
        leaves = [instance.new(job.id) for job in jobs]
        await instance.submit(root, *jobs, *leaves)
        token = await instance.take(root.id)
        await instance.driver.finish([Outcome(token, b"no", failed=True)])
        await instance.reopen()
        await instance.advance_until_idle((await instance.driver.advance(10)).news)
        assert [await instance.state(job.id) for job in jobs] == [JobState.FAILED] * 30
        assert [await instance.state(leaf.id) for leaf in leaves] == [JobState.READY] * 30

    @clause("G4", needs="durable")
    async def test_heartbeats_may_be_lost(self, instance: Instance) -> None:
        """Changes by `touch` and `seen` may be lost in a restart; the loss does no harm."""
        job_id = await instance.add()
        token = await instance.take()
        await instance.touch(token, b"half")
        await instance.driver.seen([Worker(instance.id(), "x86_64")])
        await instance.reopen()
        assert (await instance.get(job_id)).partial in (b"half", None)
        assert await instance.finish(token) is Verdict.ACCEPTED


async def _operations(instance: Instance) -> AsyncIterator[None]:
    """Perform every kind of write, one after the other, and yield after each."""
    root = await instance.add(idempotency_key="k", fingerprint=b"f")
    yield
    graph = [instance.new(root), instance.new(root, on_dependency_failure=OnDependencyFailure.FAIL)]
    await instance.submit(*graph, instance.new(graph[0].id), instance.new(not_before=100.0))
    yield
    token = await instance.take(root)
    yield
    await instance.release(token)
    yield
    token = await instance.take(root, handover=50.0)
    yield
    await instance.attach(token, "log")
    yield
    await instance.attach(token, "log", "elsewhere")
    yield
    await instance.finish(token, b"result", failed=True)
    yield
    expiring = await instance.take(graph[0].id)
    yield
    await instance.pass_time(LEASE + 200.0)
    yield
    assert await instance.touch(expiring) is AttemptState.SUPERSEDED
    retried = await instance.add(priority=5, retry_on_failure=1)
    yield
    await instance.finish(await instance.take(retried), b"error", failed=True)
    yield
    await instance.cancel(graph[0].id)
    yield
    await instance.delete(graph[1].id)
    yield
    await instance.add(priority=9, retention=10.0)
    yield
    await instance.finish(await instance.take(), b"{}")
    yield
    await instance.pass_time(20.0)
    await instance.driver.purge(10)
    yield


async def _contents(instance: Instance) -> bytes:
    """Return what is stored, without its times."""
    return msgspec.json.encode([without_times(one) for one in await instance.dump()])


def _until_killed(instance: Instance, operations: int) -> tuple[float, bytes]:
    """Fork a process that performs the given number of operations and kills itself.

    Returns:
        How far its clock ran ahead, in seconds, and the contents that it stored.
    """
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # Threads of a closed driver may still exist; the child uses a loop and a driver of its own.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            asyncio.run(_work(instance, operations, writer))
        finally:
            os._exit(1)  # reached only if the work failed: otherwise the child has killed itself
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        shifted, _, stored = pipe.read().partition(b"\n")
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the process failed before it could be killed"
    return float(shifted), stored


async def _work(instance: Instance, operations: int, pipe: int) -> None:
    await instance.driver.shift_clock(instance.shifted)
    await instance.driver.start()
    done = 0
    async for _ in _operations(instance):
        done += 1
        if done == operations:
            with os.fdopen(pipe, "wb") as report:
                report.write(b"%f\n" % instance.shifted + await _contents(instance))
            os.kill(os.getpid(), signal.SIGKILL)

"""Tests of dependencies: how their ends decide what becomes of a job."""

import asyncio
from uuid import UUID

import pytest

from composerd.models import MAX_STEP, JobState, NewJob, OnDependencyFailure, Outcome
from composerd.testing.kit.clause import clause
from composerd.testing.kit.instance import OTHER, STEPS, Instance
from composerd.testing.kit.results import dependency_failed

FAIL = OnDependencyFailure.FAIL


class Dependencies:
    """Dependencies: how their ends, before or after the submission, decide what becomes of a job."""

    @clause("D1")
    async def test_waits_for_its_dependencies(self, instance: Instance) -> None:
        """A job becomes ready when the last of its dependencies ends, not earlier (J1, J4)."""
        first, second = await instance.add(), await instance.add()
        job_id = await instance.add(first, second)
        await instance.end(first)
        assert await instance.state(job_id) is JobState.WAITING
        await instance.end(second)
        assert await instance.state(job_id) is JobState.READY

    @clause("D4", "D3", "V5", "V9")
    async def test_a_job_with_many_dependents(self, instance: Instance) -> None:
        """The end of a job with many dependents reaches them in steps of limited size, and it shows the first 1,000."""
        hub = await instance.add()
        jobs = [instance.new(hub, args=None) for _ in range(1100)]
        for begin in (0, 550):
            await instance.submit(*jobs[begin : begin + 550])
        shown = (await instance.get(hub)).dependents
        assert shown == tuple(job.id for job in jobs[:1000])
        first = await instance.driver.dependents(hub, None, 700)
        assert first is not None
        second = await instance.driver.dependents(hub, first.next, 700)
        assert second is not None
        assert (first.ids + second.ids, second.next) == (tuple(job.id for job in jobs), None)
        token = await instance.take(hub)
        news = (await instance.driver.finish([Outcome(token, b"{}")])).news
        steps = [sum(news.ready.values())]
        while news.due_in == 0:
            news = (await instance.driver.advance(10_000)).news
            steps.append(sum(news.ready.values()))
            assert len(steps) < STEPS
        assert max(steps) <= MAX_STEP
        assert sum(steps) == len(jobs)

    @clause("D4")
    async def test_many_canceled_dependents(self, instance: Instance) -> None:
        """Cancels in one call, whose dependents depend on each other too, update only so many dependents together."""
        hubs = [await instance.add(args=None), await instance.add(args=None)]
        far: list[NewJob] = []
        for hub in hubs:
            near = [instance.new(hub, args=None) for _ in range(300)]
            far += [instance.new(one.id, args=None) for one in near]
            await instance.submit(*near, *far[-len(near) :])
        news = (await instance.driver.cancel(hubs)).news
        steps = [len(news.ended)]
        while news.due_in == 0:
            news = (await instance.driver.advance(10_000)).news
            steps.append(len(news.ended))
            assert len(steps) < STEPS
        assert max(steps) <= MAX_STEP + len(hubs)
        assert sum(steps) == len(hubs) + 2 * len(far)
        assert [await instance.state(job.id) for job in far[::100]] == [JobState.CANCELED] * 6

    @clause("D1", "L13")
    async def test_waits_for_dependencies_and_time(self, instance: Instance) -> None:
        """A job whose dependencies have all ended still waits until `not_before` (J4)."""
        first = await instance.add()
        job_id = await instance.add(first, not_before=100.0)
        await instance.end(first)
        assert await instance.state(job_id) is JobState.WAITING
        assert await instance.pass_time(110.0) == [job_id]
        assert await instance.state(job_id) is JobState.READY

    @pytest.mark.parametrize("failed", [False, True])
    @clause("E5")
    async def test_an_ended_dependency_is_applied_at_once(self, instance: Instance, failed: bool) -> None:
        """A dependency that ended before the submission, finished or failed, does not delay the job (J2)."""
        first = await instance.add()
        await instance.end(first, failed=failed)
        assert await instance.state(await instance.add(first)) is JobState.READY

    @clause("D1")
    async def test_runs_after_a_failed_dependency(self, instance: Instance) -> None:
        """With `on_dependency_failure` `run`, a job becomes ready when its dependency fails (J4)."""
        first = await instance.add()
        job_id = await instance.add(first)
        await instance.end(first, failed=True)
        assert await instance.state(job_id) is JobState.READY

    @clause("D2")
    async def test_fails_with_a_dependency(self, instance: Instance) -> None:
        """With `on_dependency_failure` `fail`, a job and its dependents fail as soon as one dependency fails (J5)."""
        first, second = await instance.add(), await instance.add()
        job_id = await instance.add(second, first, on_dependency_failure=FAIL)
        dependent = await instance.add(job_id, on_dependency_failure=FAIL)
        indifferent = await instance.add(job_id)
        token = await instance.take(first)
        await instance.finish(token, failed=True)
        assert await instance.state(job_id) is JobState.FAILED
        assert await instance.result(job_id) == dependency_failed([first])
        assert await instance.result(dependent) == dependency_failed([job_id])
        assert await instance.state(indifferent) is JobState.READY
        assert await instance.state(second) is JobState.READY

    @clause("E5")
    async def test_fails_at_once(self, instance: Instance) -> None:
        """A job that fails when it is submitted names its failed dependencies, in the order of the job (J3)."""
        ids = [await instance.add() for _ in range(3)]
        await instance.end(ids[0], failed=True)
        await instance.end(ids[1])
        await instance.end(ids[2], failed=True)
        unended = await instance.add()
        job = instance.new(ids[2], unended, ids[1], ids[0], ids[2], on_dependency_failure=FAIL)
        assert (await instance.submit(job)).jobs[0].state is JobState.FAILED
        assert await instance.result(job.id) == (
            b'{"job_error":{"id":26,"reason":"A dependency failed.","details":["%s","%s"]}}'
            % (str(ids[2]).encode(), str(ids[0]).encode())
        )
        assert (await instance.get(job.id)).finished_at is not None

    @clause("D1")
    async def test_a_diamond(self, instance: Instance) -> None:
        """In a graph submitted at once, no job becomes ready before all its dependencies have ended (J4)."""
        top = instance.new()
        sides = [instance.new(top.id), instance.new(top.id)]
        bottom = instance.new(*[side.id for side in sides])
        await instance.submit(top, *sides, bottom)
        order: list[UUID] = []
        while (claimed := await instance.claim()) is not None:
            order.append(claimed.job_id)
            await instance.finish(claimed.token)
        assert order == [top.id, sides[0].id, sides[1].id, bottom.id]

    @clause("D1")
    async def test_a_lost_job_releases_its_dependents(self, instance: Instance) -> None:
        """A dependency that failed because its lease expired has ended like any other (J4)."""
        job_id = await instance.add(max_retries=0)
        dependent = await instance.add(job_id)
        await instance.take_confirmed(job_id)
        assert await instance.pass_time(610.0) == [job_id]
        assert await instance.state(job_id) is JobState.FAILED
        assert await instance.state(dependent) is JobState.READY

    @clause("D3")
    async def test_an_end_is_propagated_through_a_large_graph(self, instance: Instance) -> None:
        """An end has reached all jobs that it concerns once `advance` has nothing left to do at once."""
        root = instance.new()
        near = [instance.new(root.id, on_dependency_failure=FAIL) for _ in range(40)]
        chain = [instance.new(near[0].id, on_dependency_failure=FAIL)]
        for _ in range(40):
            chain.append(instance.new(chain[-1].id, on_dependency_failure=FAIL))
        await instance.submit(root, *near, *chain)
        await instance.end(root.id, failed=True)
        assert {await instance.state(job.id) for job in (*near, *chain)} == {JobState.FAILED}

    @clause("E5")
    async def test_submitted_while_it_ends(self, instance: Instance) -> None:
        """A dependency that ends while jobs that name it are submitted is not missed by any of them."""
        for _ in range(10):
            first = await instance.add(type="other")
            claimed = await instance.claim(OTHER)
            assert claimed is not None
            jobs = [instance.new(first) for _ in range(4)]
            await asyncio.gather(
                instance.submit(jobs[0]),
                instance.submit(jobs[1]),
                instance.finish(claimed.token),
                instance.submit(*jobs[2:]),
            )
            assert {await instance.state(job.id) for job in jobs} == {JobState.READY}

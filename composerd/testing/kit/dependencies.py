"""What a dependency's end, before the submission or after it, makes of a job."""

import asyncio
from uuid import UUID

import pytest

from composerd.models import JobState, OnDependencyFailure
from composerd.testing.kit.clause import clause
from composerd.testing.kit.instance import OTHER, Store
from composerd.testing.kit.results import dependency_failed

FAIL = OnDependencyFailure.FAIL


class Dependencies:
    """What a dependency's end, before the submission or after it, makes of a job."""

    @clause("D1")
    async def test_waits_for_its_dependencies(self, store: Store) -> None:
        """J1, J4: a job is ready when the last of its dependencies has ended, not earlier."""
        first, second = await store.add(), await store.add()
        job_id = await store.add(first, second)
        await store.end(first)
        assert await store.state(job_id) is JobState.WAITING
        await store.end(second)
        assert await store.state(job_id) is JobState.READY

    @clause("D1", "L13")
    async def test_waits_for_dependencies_and_time(self, store: Store) -> None:
        """J4: with its dependencies ended, a job still waits for its time."""
        first = await store.add()
        job_id = await store.add(first, not_before=100.0)
        await store.end(first)
        assert await store.state(job_id) is JobState.WAITING
        assert await store.pass_time(110.0) == [job_id]
        assert await store.state(job_id) is JobState.READY

    @pytest.mark.parametrize("failed", [False, True])
    @clause("E5")
    async def test_an_ended_dependency_is_applied_at_once(self, store: Store, failed: bool) -> None:
        """J2: a dependency that has ended already, finished or failed, holds nothing up."""
        first = await store.add()
        await store.end(first, failed=failed)
        assert await store.state(await store.add(first)) is JobState.READY

    @clause("D1")
    async def test_a_failed_dependency_is_no_obstacle(self, store: Store) -> None:
        """J4: with `run`, a dependency that fails makes the job ready like one that finishes."""
        first = await store.add()
        job_id = await store.add(first)
        await store.end(first, failed=True)
        assert await store.state(job_id) is JobState.READY

    @clause("D2")
    async def test_fails_with_a_dependency(self, store: Store) -> None:
        """J5: with `fail` a job fails when a dependency does; the others are not waited for, and its dependents follow."""
        first, second = await store.add(), await store.add()
        job_id = await store.add(second, first, on_dependency_failure=FAIL)
        dependent = await store.add(job_id, on_dependency_failure=FAIL)
        indifferent = await store.add(job_id)
        token = await store.take(first)
        await store.finish(token, failed=True)
        assert await store.state(job_id) is JobState.FAILED
        assert await store.result(job_id) == dependency_failed([first])
        assert await store.result(dependent) == dependency_failed([job_id])
        assert await store.state(indifferent) is JobState.READY
        assert await store.state(second) is JobState.READY

    @clause("E5")
    async def test_fails_at_once(self, store: Store) -> None:
        """J3: with `fail` a job whose dependency has failed is born failed; its result names the failed ones in the job's order."""
        ids = [await store.add() for _ in range(3)]
        await store.end(ids[0], failed=True)
        await store.end(ids[1])
        await store.end(ids[2], failed=True)
        unended = await store.add()
        job = store.new(ids[2], unended, ids[1], ids[0], ids[2], on_dependency_failure=FAIL)
        assert (await store.submit(job)).jobs[0].state is JobState.FAILED
        assert await store.result(job.id) == (
            b'{"job_error":{"id":26,"reason":"A dependency failed.","details":["%s","%s"]}}'
            % (str(ids[2]).encode(), str(ids[0]).encode())
        )
        assert (await store.get(job.id)).finished_at is not None

    @clause("D1")
    async def test_a_diamond(self, store: Store) -> None:
        """J4: through a graph of one submission, nothing is ready before all that it depends on has ended."""
        top = store.new()
        sides = [store.new(top.id), store.new(top.id)]
        bottom = store.new(*[side.id for side in sides])
        await store.submit(top, *sides, bottom)
        order: list[UUID] = []
        while (claimed := await store.claim()) is not None:
            order.append(claimed.job_id)
            await store.finish(claimed.token)
        assert order == [top.id, sides[0].id, sides[1].id, bottom.id]

    @clause("D1")
    async def test_a_lost_job_takes_its_dependents_along(self, store: Store) -> None:
        """J4: a dependency that failed by its lease has ended like any other."""
        job_id = await store.add(max_retries=0)
        dependent = await store.add(job_id)
        await store.take(job_id)
        assert await store.pass_time(610.0) == [job_id]
        assert await store.state(job_id) is JobState.FAILED
        assert await store.state(dependent) is JobState.READY

    @clause("D3")
    async def test_a_wide_and_deep_graph(self, store: Store) -> None:
        """However much follows from an end, it is all drawn once `advance` has nothing to do at once."""
        root = store.new()
        near = [store.new(root.id, on_dependency_failure=FAIL) for _ in range(40)]
        chain = [store.new(near[0].id, on_dependency_failure=FAIL)]
        for _ in range(40):
            chain.append(store.new(chain[-1].id, on_dependency_failure=FAIL))
        await store.submit(root, *near, *chain)
        await store.end(root.id, failed=True)
        assert {await store.state(job.id) for job in (*near, *chain)} == {JobState.FAILED}

    @clause("E5")
    async def test_submitted_while_it_ends(self, store: Store) -> None:
        """A dependency that ends while it is named is seen unended or ended, never neither."""
        for _ in range(10):
            first = await store.add(type="other")
            claimed = await store.claim(OTHER)
            assert claimed is not None
            jobs = [store.new(first) for _ in range(4)]
            await asyncio.gather(
                store.submit(jobs[0]), store.submit(jobs[1]), store.finish(claimed.token), store.submit(*jobs[2:])
            )
            assert {await store.state(job.id) for job in jobs} == {JobState.READY}

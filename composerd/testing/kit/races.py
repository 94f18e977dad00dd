"""Tests of concurrent calls: the answers are those of some order of the calls, and an attempt ends only once."""

import asyncio
import itertools
from uuid import UUID

import pytest

from composerd.driver import Driver
from composerd.driver.guard import Guard
from composerd.models import AttemptState, Claim, Job, JobState, Outcome, Touch, Verdict
from composerd.queue import JobQueue, QueueOptions
from composerd.testing.kit.clause import clause
from composerd.testing.kit.instance import BUILD, LEASE, PLENTY, Instance

ERROR = b'{"job_error":{"id":1}}'
ENDS = ("finish", "cancel", "expiry", "release")
OPTIONS = QueueOptions(
    heartbeat_timeout=120.0, handover_timeout=10.0, sweep_interval=5.0, worker_timeout=3600.0, max_waits=1000
)


class Races:
    """Concurrent calls: the answers are those of some order of the calls, and an attempt ends only once."""

    @clause("C6", "G6")
    async def test_one_job_one_claim(self, instance: Instance) -> None:
        """Concurrent claims never get the same job."""
        ids = {await instance.add() for _ in range(20)}
        answers = await asyncio.gather(*[instance.claim() for _ in range(30)])
        got = [claimed.job_id for claimed in answers if claimed is not None]
        assert len(got) == 20
        assert set(got) == ids

    @clause("C6", needs="shared")
    async def test_one_job_one_server(self, instance: Instance) -> None:
        """Two servers that claim at the same time never get the same job, and together they get all jobs."""
        other = await instance.another()
        await other.start()
        await instance.submit(*[instance.new() for _ in range(60)])
        got: list[UUID] = []

        async def claim_all(driver: Driver) -> None:
            while True:
                answers = (await driver.claim([Claim(instance.id(), (BUILD,), LEASE) for _ in range(3)], PLENTY)).items
                found = [one.job_id for one in answers if one is not None]
                if not found:
                    return
                got.extend(found)

        await asyncio.gather(*[claim_all(driver) for driver in (instance.driver, other) for _ in range(3)])
        got += [one.job_id for one in [await instance.claim() for _ in range(60)] if one is not None]
        assert len(got) == len(set(got)) == 60

    @clause("G6")
    async def test_claims_and_releases_of_one_job(self, instance: Instance) -> None:
        """A claim is answered with its own attempt, even if the job had another attempt before the answer was given."""
        job_id = await instance.add()
        one, two = UUID(int=98), UUID(int=99)
        await asyncio.gather(instance.claim(token=one), instance.release(one), instance.claim(token=two))
        job = await instance.get(job_id)
        attempts = {token: (await instance.driver.release([token])).items[0] for token in (one, two)}
        running = [attempt for attempt in attempts.values() if attempt.state is AttemptState.RUNNING]
        assert len(running) <= 1
        assert all(attempt.job_id == job_id for attempt in attempts.values() if attempt.job_id is not None)
        assert job.attempt == max(attempt.number for attempt in attempts.values())

    @clause("G6")
    @pytest.mark.parametrize("ways", [*itertools.combinations(ENDS, 2), ENDS], ids="-".join)
    async def test_one_outcome(self, instance: Instance, ways: tuple[str, ...]) -> None:
        """Of a finish, a cancel, an expired lease and a release at the same time, exactly one ends the attempt."""
        for ordered in itertools.permutations(ways):
            job_id = await instance.add(max_retries=0)
            token = await instance.take_confirmed(job_id)
            await instance.shift(LEASE + 10.0)
            ended = await asyncio.gather(*[_end(instance, way, job_id, token) for way in ordered])
            answers = dict(zip(ordered, ended, strict=True))
            job = await instance.get(job_id)
            (attempt,) = (await instance.driver.touch([Touch(token)])).items
            won = {
                AttemptState.FINISHED: "finish",
                AttemptState.CANCELED: "cancel",
                AttemptState.SUPERSEDED: "expiry" if job.state is JobState.FAILED else "release",
            }[attempt.state]
            assert won in ordered
            assert [way for way, ended in answers.items() if ended and way != "cancel"] == (
                [won] if won != "cancel" else []
            )
            after = {"finish": {JobState.FINISHED}, "expiry": {JobState.FAILED}, "cancel": {JobState.CANCELED}}
            # After a release the job has not ended, so the cancel may still end it.
            assert job.state in after.get(won, {JobState.READY, JobState.CANCELED})
            assert (await instance.result(job_id) == b"done") == (won == "finish")
            await instance.empty()

    @clause("G6")
    async def test_all_at_once(self, instance: Instance) -> None:
        """Claims, outcomes and `advance` at the same time finish a whole graph, retries included."""
        root = await instance.add()
        jobs = [await instance.add(root, retry_on_failure=1, retry_backoff=10.0) for _ in range(5)]
        last = await instance.add(*jobs)

        async def work() -> None:
            while (claimed := await instance.claim()) is not None:
                failed = claimed.job_id in jobs and claimed.attempt == 1
                assert await instance.finish(claimed.token, ERROR, failed=failed) is Verdict.ACCEPTED

        await asyncio.gather(*[work() for _ in range(4)], instance.driver.advance(10), instance.driver.get(jobs))
        await work()
        assert [await instance.state(job_id) for job_id in (root, *jobs, last)] == [
            JobState.FINISHED,
            *[JobState.WAITING] * 6,
        ]
        assert set(await instance.pass_time(20.0)) == set(jobs)
        await asyncio.gather(*[work() for _ in range(4)])
        await work()
        assert await instance.state(last) is JobState.FINISHED

    @clause("C6", "G6")
    async def test_many_waiters(self, instance: Instance) -> None:
        """Three hundred workers that wait at the server's queue get three hundred jobs, one each."""
        queue = JobQueue(Guard(instance.driver), OPTIONS)
        root = instance.new()
        singles = [instance.new() for _ in range(150)]
        graph = [instance.new(root.id) for _ in range(150)]

        async def work() -> UUID:
            while True:
                claimed = await queue.request((BUILD,), confirm=False, wait=None)
                assert claimed is not None
                if claimed.job_id != root.id:
                    return claimed.job_id
                await queue.finish(claimed.token, b"{}", failed=False)

        async with queue.running(), asyncio.TaskGroup() as group:
            workers = [group.create_task(work()) for _ in range(300)]
            await asyncio.gather(queue.submit([root, *graph]), *[queue.submit([job]) for job in singles])
        assert {worker.result() for worker in workers} == {job.id for job in (*singles, *graph)}


async def _end(instance: Instance, way: str, job_id: UUID, token: UUID) -> bool:
    """End an attempt in one of the ways. Return True if this call ended it or, for a cancel, its job."""
    if way == "finish":
        return (await instance.driver.finish([Outcome(token, b"done")])).items[0].verdict is Verdict.ACCEPTED
    if way == "cancel":
        return isinstance((await instance.driver.cancel([job_id])).items[0], Job)
    if way == "release":
        return (await instance.driver.release([token])).items[0].state is AttemptState.RUNNING
    return job_id in (await instance.driver.advance(10)).items

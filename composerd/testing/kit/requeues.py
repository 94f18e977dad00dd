"""Tests of requeues: releases, lost workers and failed outcomes, and what each of them counts."""

import pytest

from composerd.models import AttemptState, JobState, Verdict
from composerd.testing.kit.clause import clause
from composerd.testing.kit.instance import Instance

ERROR = b'{"job_error":{"id":1}}'


class Requeues:
    """Requeues: releases, lost workers and failed outcomes, and what each of them counts."""

    @clause("R1")
    async def test_a_release(self, instance: Instance) -> None:
        """A released job is ready again, uncounted; the answer is the attempt as it was before (J10, A6)."""
        job_id = await instance.add()
        token = await instance.take()
        released = await instance.release(token)
        assert (released.state, released.job_id) == (AttemptState.RUNNING, job_id)
        job = await instance.get(job_id)
        assert (job.state, job.retries) == (JobState.READY, 0)
        assert (await instance.release(token)).state is AttemptState.SUPERSEDED
        assert (await instance.release(instance.id())).state is AttemptState.UNKNOWN

    @pytest.mark.parametrize("cause", ["release", "handover", "lease"])
    @clause("R2", "R3", "L18")
    async def test_ten_uncounted_requeues_in_a_row(self, instance: Instance, cause: str) -> None:
        """Ten releases, or ends of attempts that were never confirmed, are not counted; each further one is (J11)."""
        job_id = await instance.add(max_retries=1)
        retries = []
        for _ in range(12):
            token = await instance.take(lease=10.0, handover=None if cause == "lease" else 10.0)
            if cause == "release":
                await instance.release(token)
            else:
                await instance.pass_time(15.0)
            retries.append((await instance.get(job_id)).retries)
        assert retries == [0] * 10 + [1, 1]
        assert await instance.state(job_id) is JobState.FAILED
        assert await instance.result(job_id) == (
            b'{"job_error":{"id":27,'
            b'"reason":"Workers running this job stopped responding more than 1 times.","details":null}}'
        )

    @clause("R2")
    async def test_an_expired_lease_restarts_the_count(self, instance: Instance) -> None:
        """After an expired lease, ten further releases in a row are not counted."""
        job_id = await instance.add(max_retries=5)
        for _ in range(10):
            await instance.release(await instance.take())
        await instance.take_confirmed()
        await instance.pass_time(610.0)
        assert (await instance.get(job_id)).retries == 1
        for _ in range(10):
            await instance.release(await instance.take())
        assert (await instance.get(job_id)).retries == 1
        await instance.release(await instance.take())
        assert (await instance.get(job_id)).retries == 2

    @clause("R2")
    async def test_a_retried_failure_restarts_the_count(self, instance: Instance) -> None:
        """After a failed outcome that is retried, ten further releases in a row are not counted."""
        job_id = await instance.add(max_retries=5, retry_on_failure=1, retry_backoff=10.0)
        for _ in range(10):
            await instance.release(await instance.take())
        await instance.finish(await instance.take(), ERROR, failed=True)
        await instance.pass_time(15.0)
        assert (await instance.get(job_id)).retries == 1
        for _ in range(10):
            await instance.release(await instance.take())
        assert (await instance.get(job_id)).retries == 1
        await instance.release(await instance.take())
        assert (await instance.get(job_id)).retries == 2

    @clause("R3")
    async def test_lost_too_often(self, instance: Instance) -> None:
        """A lease that expires when `max_retries` is used up fails the job, with error 27 as its result (J11)."""
        job_id = await instance.add(max_retries=2)
        for retries in (1, 2):
            await instance.take_confirmed()
            await instance.pass_time(610.0)
            assert (await instance.get(job_id)).retries == retries
        token = await instance.take_confirmed()
        await instance.pass_time(610.0)
        assert await instance.state(job_id) is JobState.FAILED
        assert await instance.result(job_id) == (
            b'{"job_error":{"id":27,'
            b'"reason":"Workers running this job stopped responding more than 2 times.","details":null}}'
        )
        assert (await instance.get(job_id)).retries == 2
        assert await instance.touch(token) is AttemptState.SUPERSEDED

    @clause("F5")
    async def test_budgets_are_separate(self, instance: Instance) -> None:
        """Failed outcomes do not use up `max_retries`, and expired leases do not use up `retry_on_failure`."""
        job_id = await instance.add(max_retries=1, retry_on_failure=1, retry_backoff=10.0)
        await instance.finish(await instance.take(), failed=True)
        await instance.pass_time(15.0)
        await instance.take_confirmed()
        await instance.pass_time(610.0)
        job = await instance.get(job_id)
        assert (job.state, job.retries) == (JobState.READY, 2)
        await instance.take_confirmed()
        await instance.pass_time(610.0)
        assert await instance.state(job_id) is JobState.FAILED

    @clause("F4")
    async def test_a_failure_is_tried_again(self, instance: Instance) -> None:
        """A failed outcome requeues the job while `retry_on_failure` lasts, after a backoff that doubles (J8, J9)."""
        job_id = await instance.add(retry_on_failure=3, retry_backoff=100.0)
        for retries, backoff in enumerate((100.0, 200.0, 400.0), 1):
            token = await instance.take()
            assert await instance.finish(token, ERROR, failed=True) is Verdict.ACCEPTED
            job = await instance.get(job_id)
            assert (job.state, job.retries, job.finished_at) == (JobState.WAITING, retries, None)
            assert await instance.result(job_id) is None
            assert await instance.pass_time(backoff - 10.0) == []
            assert await instance.pass_time(15.0) == [job_id]
            assert await instance.touch(token) is AttemptState.FINISHED
        await instance.end(job_id, ERROR, failed=True)
        assert await instance.state(job_id) is JobState.FAILED
        assert await instance.result(job_id) == ERROR

    @clause("F4")
    async def test_a_backoff_is_an_hour_at_most(self, instance: Instance) -> None:
        """A backoff is never longer than one hour."""
        job_id = await instance.add(retry_on_failure=5, retry_backoff=3000.0)
        await instance.end(job_id, failed=True)
        await instance.pass_time(3001.0)
        await instance.end(job_id, failed=True)
        assert await instance.pass_time(3550.0) == []
        assert await instance.pass_time(60.0) == [job_id]

    @clause("F2")
    async def test_the_same_failure_again(self, instance: Instance) -> None:
        """The failed outcome that requeued a job is accepted again and does not requeue it a second time (J9)."""
        job_id = await instance.add(retry_on_failure=3)
        token = await instance.take()
        for _ in range(2):
            assert await instance.finish(token, ERROR, failed=True) is Verdict.ACCEPTED
            assert (await instance.get(job_id)).retries == 1
        assert await instance.finish(token, b"other", failed=True) is Verdict.CONFLICT

    @clause("F4")
    async def test_a_success_is_not_tried_again(self, instance: Instance) -> None:
        """A successful outcome ends the job whatever its `retry_on_failure` (J7)."""
        job_id = await instance.add(retry_on_failure=3)
        await instance.end(job_id)
        assert await instance.state(job_id) is JobState.FINISHED

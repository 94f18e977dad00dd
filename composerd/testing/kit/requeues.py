"""What comes back to the queue, and what each return counts: releases, lost workers, failed outcomes."""

import pytest

from composerd.models import AttemptState, JobState, Verdict
from composerd.testing.kit.clause import clause
from composerd.testing.kit.instance import Store

ERROR = b'{"job_error":{"id":1}}'


class Returns:
    """What comes back to the queue, and what each return counts: releases, lost workers, failed outcomes."""

    @clause("R1")
    async def test_a_release(self, store: Store) -> None:
        """J10, A6: a released job is ready again, uncounted; the answer is the attempt as it was."""
        job_id = await store.add()
        token = await store.take()
        released = await store.release(token)
        assert (released.state, released.job_id) == (AttemptState.RUNNING, job_id)
        job = await store.get(job_id)
        assert (job.state, job.retries) == (JobState.READY, 0)
        assert (await store.release(token)).state is AttemptState.SUPERSEDED
        assert (await store.release(store.id())).state is AttemptState.UNKNOWN

    @pytest.mark.parametrize("handover", [False, True], ids=["release", "handover"])
    @clause("R2", "R3")
    async def test_ten_returns_in_a_row_are_free(self, store: Store, handover: bool) -> None:
        """What counts: ten releases or unconfirmed hand-overs in a row do not count, each further one does, and J11 ends it."""
        job_id = await store.add(max_retries=1)
        retries = []
        for _ in range(12):
            token = await store.take(handover=10.0)
            if handover:
                await store.pass_time(15.0)
            else:
                await store.release(token)
            retries.append((await store.get(job_id)).retries)
        assert retries == [0] * 10 + [1, 1]
        assert await store.state(job_id) is JobState.FAILED
        assert await store.result(job_id) == (
            b'{"job_error":{"id":27,'
            b'"reason":"Workers running this job stopped responding more than 1 times.","details":null}}'
        )

    @clause("R2")
    async def test_a_lost_lease_ends_the_row(self, store: Store) -> None:
        """What counts: a lease that ran out ends the row of uncounted returns."""
        job_id = await store.add(max_retries=5)
        for _ in range(10):
            await store.release(await store.take())
        await store.take()
        await store.pass_time(610.0)
        assert (await store.get(job_id)).retries == 1
        for _ in range(10):
            await store.release(await store.take())
        assert (await store.get(job_id)).retries == 1
        await store.release(await store.take())
        assert (await store.get(job_id)).retries == 2

    @clause("R3")
    async def test_lost_too_often(self, store: Store) -> None:
        """J11: a lease that runs out when `max_retries` is used up fails the job, with error 27."""
        job_id = await store.add(max_retries=2)
        for retries in (1, 2):
            await store.take()
            await store.pass_time(610.0)
            assert (await store.get(job_id)).retries == retries
        token = await store.take()
        await store.pass_time(610.0)
        assert await store.state(job_id) is JobState.FAILED
        assert await store.result(job_id) == (
            b'{"job_error":{"id":27,'
            b'"reason":"Workers running this job stopped responding more than 2 times.","details":null}}'
        )
        assert (await store.get(job_id)).retries == 2
        assert await store.touch(token) is AttemptState.SUPERSEDED

    @clause("F5")
    async def test_budgets_are_apart(self, store: Store) -> None:
        """What counts: failed outcomes do not use up `max_retries`, nor lost leases `retry_on_failure`."""
        job_id = await store.add(max_retries=1, retry_on_failure=1, retry_backoff=10.0)
        await store.finish(await store.take(), failed=True)
        await store.pass_time(15.0)
        await store.take()
        await store.pass_time(610.0)
        job = await store.get(job_id)
        assert (job.state, job.retries) == (JobState.READY, 2)
        await store.take()
        await store.pass_time(610.0)
        assert await store.state(job_id) is JobState.FAILED

    @clause("F4")
    async def test_a_failure_is_tried_again(self, store: Store) -> None:
        """J9: a failed outcome puts the job back while `retry_on_failure` lasts, after a backoff that doubles; then J8."""
        job_id = await store.add(retry_on_failure=3, retry_backoff=100.0)
        for retries, backoff in enumerate((100.0, 200.0, 400.0), 1):
            token = await store.take()
            assert await store.finish(token, ERROR, failed=True) is Verdict.ACCEPTED
            job = await store.get(job_id)
            assert (job.state, job.retries, job.finished_at) == (JobState.WAITING, retries, None)
            assert await store.result(job_id) is None
            assert await store.pass_time(backoff - 10.0) == []
            assert await store.pass_time(15.0) == [job_id]
            assert await store.touch(token) is AttemptState.FINISHED
        await store.end(job_id, ERROR, failed=True)
        assert await store.state(job_id) is JobState.FAILED
        assert await store.result(job_id) == ERROR

    @clause("F4")
    async def test_a_backoff_is_an_hour_at_most(self, store: Store) -> None:
        """What counts: no backoff is longer than an hour."""
        job_id = await store.add(retry_on_failure=5, retry_backoff=3000.0)
        await store.end(job_id, failed=True)
        await store.pass_time(3001.0)
        await store.end(job_id, failed=True)
        assert await store.pass_time(3550.0) == []
        assert await store.pass_time(60.0) == [job_id]

    @clause("F2")
    async def test_the_same_failure_again(self, store: Store) -> None:
        """J9: the outcome that put a job back is accepted again, and puts nothing back a second time."""
        job_id = await store.add(retry_on_failure=3)
        token = await store.take()
        for _ in range(2):
            assert await store.finish(token, ERROR, failed=True) is Verdict.ACCEPTED
            assert (await store.get(job_id)).retries == 1
        assert await store.finish(token, b"other", failed=True) is Verdict.CONFLICT

    @clause("F4")
    async def test_a_success_is_not_tried_again(self, store: Store) -> None:
        """J7: `retry_on_failure` concerns failed outcomes only."""
        job_id = await store.add(retry_on_failure=3)
        await store.end(job_id)
        assert await store.state(job_id) is JobState.FINISHED

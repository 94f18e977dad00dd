"""Tests of how jobs end and leave: outcomes and their repetition, cancels, deletion and retention."""

from uuid import UUID

import pytest

from composerd.errors import JobEnded, JobNotEnded, JobNotFound
from composerd.models import AttemptState, Job, JobState, OnDependencyFailure, Outcome, Verdict
from composerd.testing.kit.clause import clause
from composerd.testing.kit.instance import Instance

ERROR = b'{"job_error":{"id":1}}'


class Ends:
    """Ends of jobs and their removal: outcomes and their repetition, cancels, deletion and retention."""

    @pytest.mark.parametrize(("failed", "state"), [(False, JobState.FINISHED), (True, JobState.FAILED)])
    @clause("F1")
    async def test_an_outcome_ends_the_job(self, instance: Instance, failed: bool, state: JobState) -> None:
        """An accepted outcome ends the job, and its result is stored byte for byte (J7, J8, A4)."""
        job_id = await instance.add()
        token = await instance.take()
        result = b'{ "job_error": null, "\\u00e4": "\xc3\xa4" }'
        (answer,) = (await instance.driver.finish([Outcome(token, result, failed)])).items
        assert (answer.verdict, answer.job_id) == (Verdict.ACCEPTED, job_id)
        job = await instance.get(job_id)
        assert (job.state, job.retries) == (state, 0)
        assert job.finished_at is not None
        assert await instance.result(job_id) == result
        assert await instance.touch(token) is AttemptState.FINISHED

    @clause("F2", "G3")
    async def test_the_same_outcome_again(self, instance: Instance) -> None:
        """A repeated outcome is accepted again, a different result is a conflict, and neither changes anything."""
        job_id = await instance.add()
        token = await instance.take()
        await instance.finish(token, b"1")
        before = await instance.get(job_id)
        assert await instance.finish(token, b"1") is Verdict.ACCEPTED
        assert await instance.finish(token, b"2") is Verdict.CONFLICT
        assert await instance.get(job_id) == before
        assert await instance.result(job_id) == b"1"

    @clause("G2", "F2")
    async def test_twice_in_one_batch(self, instance: Instance) -> None:
        """Outcomes of one call are applied in order: the second one for an attempt is a repetition or a conflict."""
        await instance.add()
        token = await instance.take()
        outcomes = [Outcome(token, result) for result in (b"1", b"1", b"2")]
        answers = (await instance.driver.finish(outcomes)).items
        assert [one.verdict for one in answers] == [Verdict.ACCEPTED, Verdict.ACCEPTED, Verdict.CONFLICT]

    @clause("F3")
    async def test_an_ended_attempt_is_refused(self, instance: Instance) -> None:
        """The outcome of a canceled, superseded or unknown attempt is refused and does not affect the running one."""
        job_id = await instance.add()
        first = await instance.take()
        await instance.release(first)
        second = await instance.take()
        assert await instance.finish(first) is Verdict.SUPERSEDED
        assert await instance.state(job_id) is JobState.RUNNING
        await instance.cancel(job_id)
        assert await instance.finish(second) is Verdict.CANCELED
        assert await instance.finish(instance.id()) is Verdict.UNKNOWN
        assert await instance.result(job_id) is None

    @pytest.mark.parametrize("state", [JobState.WAITING, JobState.READY, JobState.RUNNING])
    @clause("X1")
    async def test_a_cancel(self, instance: Instance, state: JobState) -> None:
        """A cancel ends any unended job, without a result; its running attempt is canceled too (J12, A5)."""
        job_id = await instance.add(not_before=50.0 if state is JobState.WAITING else None)
        token = await instance.take() if state is JobState.RUNNING else None
        assert await instance.state(job_id) is state
        canceled = await instance.cancel(job_id)
        assert isinstance(canceled, Job)
        assert canceled.state is JobState.CANCELED
        assert await instance.result(job_id) is None
        assert await instance.pass_time(1000.0) == []
        assert await instance.claim() is None
        if token is not None:
            assert await instance.touch(token) is AttemptState.CANCELED
            assert (await instance.release(token)).state is AttemptState.CANCELED

    @clause("X2")
    async def test_a_cancel_is_propagated(self, instance: Instance) -> None:
        """A cancel reaches all that depend on the job, whatever they say about failures, but not its dependencies."""
        root = await instance.add()
        job_id = await instance.add(root)
        near = await instance.add(job_id, on_dependency_failure=OnDependencyFailure.FAIL)
        far = await instance.add(near, root)
        await instance.cancel(job_id)
        assert [await instance.state(one) for one in (root, job_id, near, far)] == [
            JobState.READY,
            *[JobState.CANCELED] * 3,
        ]

    @clause("X3", "G3")
    async def test_canceled_stays_canceled(self, instance: Instance) -> None:
        """A second cancel returns the canceled job; an ended job is `JobEnded`, a missing one `JobNotFound`."""
        canceled, ended = await instance.add(), await instance.add()
        first = await instance.cancel(canceled)
        await instance.end(ended)
        answers = (await instance.driver.cancel([canceled, ended, instance.id()])).items
        assert answers[0] == first
        assert [type(one) for one in answers[1:]] == [JobEnded, JobNotFound]
        assert await instance.state(ended) is JobState.FINISHED

    @clause("P1")
    async def test_deleted(self, instance: Instance) -> None:
        """A deleted job is gone, with its payloads, artifacts and tokens; the answer is the job as it was (A7)."""
        job_id = await instance.add()
        token = await instance.take()
        await instance.finish(token)
        before = await instance.get(job_id)
        assert await instance.delete(job_id) == before
        assert await instance.driver.get([job_id]) == [None]
        assert (await instance.args(job_id), await instance.result(job_id)) == (None, None)
        assert await instance.artifacts(job_id) == ()
        assert await instance.touch(token) is AttemptState.UNKNOWN
        assert await instance.finish(token) is Verdict.UNKNOWN
        assert await instance.delete(job_id) is None

    @clause("P2")
    async def test_not_to_be_deleted(self, instance: Instance) -> None:
        """Neither an unended job nor one that an unended job depends on can be deleted."""
        job_id = await instance.add()
        dependent = await instance.add(job_id)
        assert isinstance(await instance.delete(job_id), JobNotEnded)
        await instance.end(job_id)
        assert isinstance(await instance.delete(job_id), JobNotEnded)
        await instance.end(dependent)
        assert isinstance(await instance.delete(job_id), Job)
        assert (await instance.get(dependent)).dependencies == (job_id,)

    @clause("P3")
    async def test_a_deleted_dependent_is_not_named(self, instance: Instance) -> None:
        """A deleted job is no longer among the dependents of another."""
        job_id = await instance.add()
        dependents = [await instance.add(job_id) for _ in range(3)]
        await instance.cancel(dependents[1])
        await instance.delete(dependents[1])
        assert (await instance.get(job_id)).dependents == (dependents[0], dependents[2])

    @clause("P4")
    async def test_purged_after_retention(self, instance: Instance) -> None:
        """`purge` deletes the jobs whose retention is over, at most `limit` in a call, and no others."""
        short = [await instance.add(retention=100.0) for _ in range(3)]
        longer, forever = await instance.add(retention=1000.0), await instance.add()
        for job_id in (*short, longer, forever):
            await instance.end(job_id)
        job = await instance.get(short[0])
        assert job.finished_at is not None
        assert job.expires_at is not None
        assert (job.expires_at - job.finished_at).total_seconds() == 100.0
        assert (await instance.get(forever)).expires_at is None
        assert list((await instance.driver.purge(10)).items) == []
        await instance.shift(110.0)
        purged = [list((await instance.driver.purge(2)).items) for _ in range(3)]
        assert [len(one) for one in purged] == [2, 1, 0]
        assert {*purged[0], *purged[1]} == set(short)
        assert await instance.driver.get([*short, longer, forever]) == [None] * 3 + [
            await instance.get(longer),
            await instance.get(forever),
        ]

    @clause("P7")
    async def test_a_purge_passes_over_needed_jobs(self, instance: Instance) -> None:
        """A call of `purge` deletes a job if there is one to delete, also if others have to stay that ended before."""
        needed = [await instance.add(retention=10.0) for _ in range(5)]
        await instance.add(*needed, await instance.add())
        ended = [await instance.add(retention=20.0) for _ in range(3)]
        for job_id in needed:
            await instance.end(job_id)
        for job_id in ended:
            await instance.cancel(job_id)
        await instance.shift(620.0)
        purged = [list((await instance.driver.purge(2)).items) for _ in range(4)]
        assert [len(one) > 0 for one in purged[:2]] == [True, True]
        assert sorted(one for some in purged for one in some) == sorted(ended)

    @clause("P7")
    async def test_purging_many_dependents(self, instance: Instance) -> None:
        """Repeated calls of `purge` delete a job with all its dependents."""
        hub = await instance.add(retention=10.0)
        await instance.submit(*[instance.new(hub, retention=10.0) for _ in range(100)])
        await instance.cancel(hub)
        await instance.shift(620.0)
        purged: list[UUID] = []
        while items := (await instance.driver.purge(1000)).items:
            purged += items
        assert len(purged) == len(set(purged)) == 101

    @clause("P4")
    async def test_not_purged_while_needed(self, instance: Instance) -> None:
        """A job that an unended job depends on outlives its retention and is purged later."""
        job_id = await instance.add(retention=100.0)
        dependent = await instance.add(job_id)
        await instance.end(job_id)
        await instance.shift(110.0)
        assert list((await instance.driver.purge(10)).items) == []
        await instance.end(dependent)
        await instance.shift(610.0)
        assert list((await instance.driver.purge(10)).items) == [job_id]

    @pytest.mark.parametrize("state", [JobState.CANCELED, JobState.FAILED])
    @clause("P4")
    async def test_retention_of_canceled_and_failed_jobs(self, instance: Instance, state: JobState) -> None:
        """Canceled and failed jobs are purged after their retention, those that ended with a dependency too."""
        root = await instance.add(retention=10.0)
        job_id = await instance.add(root, retention=10.0, on_dependency_failure=OnDependencyFailure.FAIL)
        if state is JobState.CANCELED:
            await instance.cancel(root)
        else:
            await instance.end(root, failed=True)
        assert await instance.state(job_id) is state
        await instance.shift(20.0)
        assert set((await instance.driver.purge(10)).items) == {root, job_id}

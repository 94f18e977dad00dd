"""Outcomes and their idempotence, cancels and their cascade, how jobs leave."""

import pytest

from composerd.errors import JobEnded, JobNotEnded, JobNotFound
from composerd.models import AttemptState, Job, JobState, OnDependencyFailure, Outcome, Verdict
from composerd.testing.kit.clause import clause
from composerd.testing.kit.instance import Store

ERROR = b'{"job_error":{"id":1}}'


class Ends:
    """Outcomes and their idempotence, cancels and their cascade, how jobs leave."""

    @pytest.mark.parametrize(("failed", "state"), [(False, JobState.FINISHED), (True, JobState.FAILED)])
    @clause("F1")
    async def test_an_outcome_ends_the_job(self, store: Store, failed: bool, state: JobState) -> None:
        """J7, J8, A4: an accepted outcome ends the job with its result as it stands."""
        job_id = await store.add()
        token = await store.take()
        result = b'{ "job_error": null, "\\u00e4": "\xc3\xa4" }'
        (answer,) = (await store.driver.finish([Outcome(token, result, failed)])).items
        assert (answer.verdict, answer.job_id) == (Verdict.ACCEPTED, job_id)
        job = await store.get(job_id)
        assert (job.state, job.retries) == (state, 0)
        assert job.finished_at is not None
        assert await store.result(job_id) == result
        assert await store.touch(token) is AttemptState.FINISHED

    @clause("F2", "G3")
    async def test_the_same_outcome_again(self, store: Store) -> None:
        """Finish: the same result again is accepted again, another is a conflict, and nothing changes."""
        job_id = await store.add()
        token = await store.take()
        await store.finish(token, b"1")
        before = await store.get(job_id)
        assert await store.finish(token, b"1") is Verdict.ACCEPTED
        assert await store.finish(token, b"2") is Verdict.CONFLICT
        assert await store.get(job_id) == before
        assert await store.result(job_id) == b"1"

    @clause("G2", "F2")
    async def test_twice_in_one_batch(self, store: Store) -> None:
        """Batches: items are applied in their order, so the second outcome of one attempt is a repetition or a conflict."""
        await store.add()
        token = await store.take()
        outcomes = [Outcome(token, result) for result in (b"1", b"1", b"2")]
        answers = (await store.driver.finish(outcomes)).items
        assert [one.verdict for one in answers] == [Verdict.ACCEPTED, Verdict.ACCEPTED, Verdict.CONFLICT]

    @clause("F3")
    async def test_an_ended_attempt_is_refused(self, store: Store) -> None:
        """Finish: canceled, superseded and unknown attempts are told so; the attempt that runs now is not disturbed."""
        job_id = await store.add()
        first = await store.take()
        await store.release(first)
        second = await store.take()
        assert await store.finish(first) is Verdict.SUPERSEDED
        assert await store.state(job_id) is JobState.RUNNING
        await store.cancel(job_id)
        assert await store.finish(second) is Verdict.CANCELED
        assert await store.finish(store.id()) is Verdict.UNKNOWN
        assert await store.result(job_id) is None

    @pytest.mark.parametrize("state", [JobState.WAITING, JobState.READY, JobState.RUNNING])
    @clause("X1")
    async def test_a_cancel(self, store: Store, state: JobState) -> None:
        """J12, A5: whatever is unended is canceled, without a result; a running attempt is told so."""
        job_id = await store.add(not_before=50.0 if state is JobState.WAITING else None)
        token = await store.take() if state is JobState.RUNNING else None
        assert await store.state(job_id) is state
        canceled = await store.cancel(job_id)
        assert isinstance(canceled, Job)
        assert canceled.state is JobState.CANCELED
        assert await store.result(job_id) is None
        assert await store.pass_time(1000.0) == []
        assert await store.claim() is None
        if token is not None:
            assert await store.touch(token) is AttemptState.CANCELED
            assert (await store.release(token)).state is AttemptState.CANCELED

    @clause("X2")
    async def test_a_cancel_takes_all_along(self, store: Store) -> None:
        """J12: all that depends on a canceled job is canceled, whatever it says of failures; its dependencies are not."""
        root = await store.add()
        job_id = await store.add(root)
        near = await store.add(job_id, on_dependency_failure=OnDependencyFailure.FAIL)
        far = await store.add(near, root)
        await store.cancel(job_id)
        assert [await store.state(one) for one in (root, job_id, near, far)] == [
            JobState.READY,
            *[JobState.CANCELED] * 3,
        ]

    @clause("X3", "G3")
    async def test_canceled_stays_canceled(self, store: Store) -> None:
        """Cancel: a canceled job is answered as it is; an ended one is `JobEnded`, a missing one `JobNotFound`."""
        canceled, ended = await store.add(), await store.add()
        first = await store.cancel(canceled)
        await store.end(ended)
        answers = (await store.driver.cancel([canceled, ended, store.id()])).items
        assert answers[0] == first
        assert [type(one) for one in answers[1:]] == [JobEnded, JobNotFound]
        assert await store.state(ended) is JobState.FINISHED

    @clause("P1")
    async def test_deleted(self, store: Store) -> None:
        """A7, Leaving: a deleted job is gone, with its payloads and its token; the answer is the job as it was."""
        job_id = await store.add()
        token = await store.take()
        await store.finish(token)
        before = await store.get(job_id)
        assert await store.delete(job_id) == before
        assert await store.driver.get([job_id]) == [None]
        assert (await store.args(job_id), await store.result(job_id)) == (None, None)
        assert await store.artifacts(job_id) == ()
        assert await store.touch(token) is AttemptState.UNKNOWN
        assert await store.finish(token) is Verdict.UNKNOWN
        assert await store.delete(job_id) is None

    @clause("P2")
    async def test_not_to_be_deleted(self, store: Store) -> None:
        """Leaving: neither an unended job nor one that an unended job depends on may be deleted."""
        job_id = await store.add()
        dependent = await store.add(job_id)
        assert isinstance(await store.delete(job_id), JobNotEnded)
        await store.end(job_id)
        assert isinstance(await store.delete(job_id), JobNotEnded)
        await store.end(dependent)
        assert isinstance(await store.delete(job_id), Job)
        assert (await store.get(dependent)).dependencies == (job_id,)

    @clause("P3")
    async def test_a_deleted_dependent_is_not_named(self, store: Store) -> None:
        """Leaving: a deleted job is no dependent any more."""
        job_id = await store.add()
        dependents = [await store.add(job_id) for _ in range(3)]
        await store.cancel(dependents[1])
        await store.delete(dependents[1])
        assert (await store.get(job_id)).dependents == (dependents[0], dependents[2])

    @clause("P4")
    async def test_purged_after_retention(self, store: Store) -> None:
        """Leaving: `purge` forgets jobs whose retention is over, in bounded steps, and no others."""
        short = [await store.add(retention=100.0) for _ in range(3)]
        longer, forever = await store.add(retention=1000.0), await store.add()
        for job_id in (*short, longer, forever):
            await store.end(job_id)
        job = await store.get(short[0])
        assert job.finished_at is not None
        assert job.expires_at is not None
        assert (job.expires_at - job.finished_at).total_seconds() == 100.0
        assert (await store.get(forever)).expires_at is None
        assert list((await store.driver.purge(10)).items) == []
        await store.shift(110.0)
        purged = [list((await store.driver.purge(2)).items) for _ in range(3)]
        assert [len(one) for one in purged] == [2, 1, 0]
        assert {*purged[0], *purged[1]} == set(short)
        assert await store.driver.get([*short, longer, forever]) == [None] * 3 + [
            await store.get(longer),
            await store.get(forever),
        ]

    @clause("P4")
    async def test_not_purged_while_needed(self, store: Store) -> None:
        """Leaving: a job that an unended job depends on stays past its retention, and goes later."""
        job_id = await store.add(retention=100.0)
        dependent = await store.add(job_id)
        await store.end(job_id)
        await store.shift(110.0)
        assert list((await store.driver.purge(10)).items) == []
        await store.end(dependent)
        await store.shift(610.0)
        assert list((await store.driver.purge(10)).items) == [job_id]

    @pytest.mark.parametrize("state", [JobState.CANCELED, JobState.FAILED])
    @clause("P4")
    async def test_retention_of_whatever_ended(self, store: Store, state: JobState) -> None:
        """Leaving: canceled and failed jobs, those by a cascade too, are purged like finished ones."""
        root = await store.add(retention=10.0)
        job_id = await store.add(root, retention=10.0, on_dependency_failure=OnDependencyFailure.FAIL)
        if state is JobState.CANCELED:
            await store.cancel(root)
        else:
            await store.end(root, failed=True)
        assert await store.state(job_id) is state
        await store.shift(20.0)
        assert set((await store.driver.purge(10)).items) == {root, job_id}

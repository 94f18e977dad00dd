"""Outcomes, retries after failures, cancels, artifacts, and how jobs leave."""

import asyncio
from uuid import UUID

import pytest

from composerd.errors import JobEnded, JobNotEnded, JobNotFound
from composerd.models import AttemptState, Finish, Job, JobState, OnDependencyFailure, Outcome

from .conftest import Store

ERROR = b'{"job_error":{"id":1}}'


@pytest.mark.parametrize(("failed", "state"), [(False, JobState.FINISHED), (True, JobState.FAILED)])
async def test_an_outcome_ends_the_job(store: Store, failed: bool, state: JobState) -> None:
    """J7, J8, A4: an accepted outcome ends the job with its result as it stands, and the news says so."""
    job_id = await store.add()
    token = await store.take()
    result = b'{ "job_error": null, "\\u00e4": "\xc3\xa4" }'
    batch = await store.driver.finish([Outcome(token, result, failed)])
    assert (batch.items[0].verdict, batch.items[0].job_id) == (Finish.ACCEPTED, job_id)
    assert batch.news.ended == (job_id,)
    job = await store.get(job_id)
    assert (job.state, job.retries) == (state, 0)
    assert job.finished_at is not None
    assert await store.result(job_id) == result
    assert await store.touch(token) is AttemptState.FINISHED


async def test_the_same_outcome_again(store: Store) -> None:
    """Finish: the same result again is accepted again, another is a conflict, and nothing changes."""
    job_id = await store.add()
    token = await store.take()
    await store.finish(token, b"1")
    before = await store.get(job_id)
    assert await store.finish(token, b"1") is Finish.ACCEPTED
    assert await store.finish(token, b"2") is Finish.CONFLICT
    assert await store.get(job_id) == before
    assert await store.result(job_id) == b"1"


async def test_twice_in_one_batch(store: Store) -> None:
    """Batches: items are applied in their order, so the second outcome of one attempt is a repetition or a conflict."""
    await store.add()
    token = await store.take()
    outcomes = [Outcome(token, result) for result in (b"1", b"1", b"2")]
    answers = (await store.driver.finish(outcomes)).items
    assert [one.verdict for one in answers] == [Finish.ACCEPTED, Finish.ACCEPTED, Finish.CONFLICT]


async def test_an_ended_attempt_is_refused(store: Store) -> None:
    """Finish: canceled, superseded and unknown attempts are told so; the attempt that runs now is not disturbed."""
    job_id = await store.add()
    first = await store.take()
    await store.release(first)
    second = await store.take()
    assert await store.finish(first) is Finish.SUPERSEDED
    assert await store.state(job_id) is JobState.RUNNING
    await store.cancel(job_id)
    assert await store.finish(second) is Finish.CANCELED
    assert await store.finish(store.id()) is Finish.UNKNOWN
    assert await store.result(job_id) is None


async def test_a_failure_is_tried_again(store: Store) -> None:
    """J9: a failed outcome puts the job back while `retry_on_failure` lasts, after a backoff that doubles; then J8."""
    job_id = await store.add(retry_on_failure=3, retry_backoff=10.0)
    for retries, backoff in enumerate((10.0, 20.0, 40.0), 1):
        token = await store.take()
        batch = await store.driver.finish([Outcome(token, ERROR, failed=True)])
        assert batch.items[0].verdict is Finish.ACCEPTED
        assert batch.news.returned == (job_id,)
        assert batch.news.ended == ()
        assert batch.news.due_in == pytest.approx(backoff, abs=1.0)
        job = await store.get(job_id)
        assert (job.state, job.retries, job.finished_at) == (JobState.WAITING, retries, None)
        assert await store.result(job_id) is None
        assert await store.pass_time(backoff - 1.0) == []
        assert await store.pass_time(1.5) == [job_id]
        assert await store.touch(token) is AttemptState.FINISHED
    await store.end(job_id, ERROR, failed=True)
    assert await store.state(job_id) is JobState.FAILED
    assert await store.result(job_id) == ERROR


async def test_a_backoff_is_an_hour_at_most(store: Store) -> None:
    """What counts: no backoff is longer than an hour."""
    job_id = await store.add(retry_on_failure=5, retry_backoff=3000.0)
    await store.end(job_id, failed=True)
    await store.pass_time(3001.0)
    await store.end(job_id, failed=True)
    assert await store.pass_time(3599.0) == []
    assert await store.pass_time(1.5) == [job_id]


async def test_the_same_failure_again(store: Store) -> None:
    """J9: the outcome that put a job back is accepted again, and puts nothing back a second time."""
    job_id = await store.add(retry_on_failure=3)
    token = await store.take()
    for _ in range(2):
        assert await store.finish(token, ERROR, failed=True) is Finish.ACCEPTED
        assert (await store.get(job_id)).retries == 1
    assert await store.finish(token, b"other", failed=True) is Finish.CONFLICT


async def test_a_success_is_not_tried_again(store: Store) -> None:
    """J7: `retry_on_failure` concerns failed outcomes only."""
    job_id = await store.add(retry_on_failure=3)
    await store.end(job_id)
    assert await store.state(job_id) is JobState.FINISHED


@pytest.mark.parametrize("state", [JobState.WAITING, JobState.READY, JobState.RUNNING])
async def test_a_cancel(store: Store, state: JobState) -> None:
    """J12, A5: whatever is unended is canceled, without a result; a running attempt is told so."""
    job_id = await store.add(not_before=5.0 if state is JobState.WAITING else None)
    token = await store.take() if state is JobState.RUNNING else None
    assert await store.state(job_id) is state
    batch = await store.driver.cancel([job_id])
    assert isinstance(batch.items[0], Job)
    assert batch.items[0].state is JobState.CANCELED
    assert batch.news.ended == (job_id,)
    assert await store.result(job_id) is None
    assert await store.pass_time(100.0) == []
    assert await store.claim() is None
    if token is not None:
        assert await store.touch(token) is AttemptState.CANCELED
        assert (await store.release(token)).state is AttemptState.CANCELED


async def test_a_cancel_takes_all_along(store: Store) -> None:
    """J12: all that depends on a canceled job is canceled, whatever it says of failures; its dependencies are not."""
    root = await store.add()
    job_id = await store.add(root)
    near = await store.add(job_id, on_dependency_failure=OnDependencyFailure.FAIL)
    far = await store.add(near, root)
    batch = await store.driver.cancel([job_id])
    assert set(batch.news.ended) == {job_id, near, far}
    assert [await store.state(one) for one in (root, job_id, near, far)] == [JobState.READY, *[JobState.CANCELED] * 3]


async def test_canceled_stays_canceled(store: Store) -> None:
    """Cancel: a canceled job is answered as it is; an ended one is `JobEnded`, a missing one `JobNotFound`."""
    canceled, ended = await store.add(), await store.add()
    first = await store.cancel(canceled)
    await store.end(ended)
    answers = (await store.driver.cancel([canceled, ended, store.id()])).items
    assert answers[0] == first
    assert [type(one) for one in answers[1:]] == [JobEnded, JobNotFound]
    assert await store.state(ended) is JobState.FINISHED


async def test_artifacts_become_the_jobs(store: Store) -> None:
    """J7, Artifacts: what is attached when the attempt ends the job is the job's, by name."""
    job_id = await store.add()
    token = await store.take()
    for name in ("b", "a"):
        assert await store.attach(token, name) == (AttemptState.RUNNING, None)
    assert [one.name for one in await store.artifacts(job_id)] == ["a", "b"]
    await store.finish(token)
    assert [one.name for one in await store.artifacts(job_id)] == ["a", "b"]


async def test_artifacts_of_a_failed_job(store: Store) -> None:
    """J8, Artifacts: a failed outcome that ends the job publishes too."""
    job_id = await store.add()
    token = await store.take()
    await store.attach(token, "log")
    await store.finish(token, ERROR, failed=True)
    assert [one.name for one in await store.artifacts(job_id)] == ["log"]


@pytest.mark.parametrize("how", ["released", "lapsed", "canceled", "retried"])
async def test_artifacts_of_no_use(store: Store, how: str) -> None:
    """J9 to J12, Artifacts: an attempt that ends without ending its job leaves no artifacts, to the next attempt neither."""
    job_id = await store.add(retry_on_failure=1)
    token = await store.take()
    await store.attach(token, "log")
    if how == "released":
        await store.release(token)
    elif how == "lapsed":
        await store.pass_time(61.0)
    elif how == "canceled":
        await store.cancel(job_id)
    else:
        await store.finish(token, ERROR, failed=True)
        await store.pass_time(11.0)
    assert await store.artifacts(job_id) == ()
    if how != "canceled":
        await store.end(job_id)
        assert await store.artifacts(job_id) == ()


async def test_an_artifact_is_replaced(store: Store) -> None:
    """Attach: the same name again takes the former's place, which is answered; the same file again replaces nothing."""
    job_id = await store.add()
    token = await store.take()
    await store.attach(token, "a", "one")
    assert await store.attach(token, "a", "two") == (AttemptState.RUNNING, "one")
    assert await store.attach(token, "a", "two") == (AttemptState.RUNNING, None)
    assert [one.place for one in await store.artifacts(job_id)] == ["two"]


async def test_an_artifact_is_refused(store: Store) -> None:
    """Attach: refused unless the attempt runs; the answer says what became of it."""
    job_id = await store.add()
    first = await store.take()
    await store.release(first)
    second = await store.take()
    assert await store.attach(first, "a") == (AttemptState.SUPERSEDED, None)
    await store.finish(second)
    assert await store.attach(second, "a") == (AttemptState.FINISHED, None)
    assert await store.attach(store.id(), "a") == (AttemptState.UNKNOWN, None)
    assert await store.artifacts(job_id) == ()


async def test_attaching_renews(store: Store) -> None:
    """A2: a file attached confirms the attempt and begins its lease anew."""
    await store.add()
    token = await store.take(handover=5.0)
    await store.attach(token, "a")
    assert await store.pass_time(50.0) == []
    await store.attach(token, "a")
    assert await store.pass_time(50.0) == []


async def test_deleted(store: Store) -> None:
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
    assert await store.finish(token) is Finish.UNKNOWN
    assert await store.delete(job_id) is None


async def test_not_to_be_deleted(store: Store) -> None:
    """Leaving: neither an unended job nor one that an unended job depends on may be deleted."""
    job_id = await store.add()
    dependent = await store.add(job_id)
    assert isinstance(await store.delete(job_id), JobNotEnded)
    await store.end(job_id)
    assert isinstance(await store.delete(job_id), JobNotEnded)
    await store.end(dependent)
    assert isinstance(await store.delete(job_id), Job)
    assert (await store.get(dependent)).dependencies == (job_id,)


async def test_a_deleted_dependent_is_not_named(store: Store) -> None:
    """Leaving: a deleted job is no dependent any more."""
    job_id = await store.add()
    dependents = [await store.add(job_id) for _ in range(3)]
    await store.cancel(dependents[1])
    await store.delete(dependents[1])
    assert (await store.get(job_id)).dependents == (dependents[0], dependents[2])


async def test_purged_after_retention(store: Store) -> None:
    """Leaving: `purge` forgets jobs whose retention is over, in bounded steps, and no others."""
    short = [await store.add(retention=10.0) for _ in range(3)]
    longer, forever = await store.add(retention=100.0), await store.add()
    for job_id in (*short, longer, forever):
        await store.end(job_id)
    job = await store.get(short[0])
    assert job.finished_at is not None
    assert job.expires_at is not None
    assert (job.expires_at - job.finished_at).total_seconds() == 10.0
    assert (await store.get(forever)).expires_at is None
    assert list((await store.driver.purge(10)).items) == []
    await store.driver.shift_clock(11.0)
    purged = [list((await store.driver.purge(2)).items) for _ in range(3)]
    assert [len(one) for one in purged] == [2, 1, 0]
    assert {*purged[0], *purged[1]} == set(short)
    assert await store.driver.get([*short, longer, forever]) == [None] * 3 + [
        await store.get(longer),
        await store.get(forever),
    ]


async def test_not_purged_while_needed(store: Store) -> None:
    """Leaving: a job that an unended job depends on stays past its retention, and goes later."""
    job_id = await store.add(retention=10.0)
    dependent = await store.add(job_id)
    await store.end(job_id)
    await store.driver.shift_clock(11.0)
    assert list((await store.driver.purge(10)).items) == []
    await store.end(dependent)
    await store.driver.shift_clock(61.0)
    assert list((await store.driver.purge(10)).items) == [job_id]


@pytest.mark.parametrize("state", [JobState.CANCELED, JobState.FAILED])
async def test_retention_of_whatever_ended(store: Store, state: JobState) -> None:
    """Leaving: canceled and failed jobs, those by a cascade too, are purged like finished ones."""
    root = await store.add(retention=1.0)
    job_id = await store.add(root, retention=1.0, on_dependency_failure=OnDependencyFailure.FAIL)
    if state is JobState.CANCELED:
        await store.cancel(root)
    else:
        await store.end(root, failed=True)
    assert await store.state(job_id) is state
    await store.driver.shift_clock(2.0)
    assert set((await store.driver.purge(10)).items) == {root, job_id}


async def test_all_at_once(orderly: Store) -> None:
    """Races: writes of every kind at once are each answered as in some order of the calls."""
    root = await orderly.add()
    job_id = await orderly.add(root, retry_on_failure=1, retry_backoff=1.0)
    first, second = UUID(int=98), UUID(int=99)
    await asyncio.gather(
        orderly.claim(token=first),
        orderly.finish(first),
        orderly.claim(token=second),
        orderly.finish(second, ERROR, failed=True),
    )
    assert (await orderly.state(root), await orderly.state(job_id)) == (JobState.FINISHED, JobState.WAITING)
    assert await orderly.pass_time(2.0) == [job_id]
    await orderly.end(job_id)

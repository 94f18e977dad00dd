"""Signs of life, leases, hand-overs, timeouts, releases, and what each return counts."""

import pytest

from composerd.driver.rules import ReturnCause, lost_result
from composerd.models import AttemptState, Finish, JobFilter, JobState

from .conftest import Store


async def test_a_lease_ends(store: Store) -> None:
    """J10, A6: an attempt that nobody touches is superseded when its lease is over; the job is ready again, counted."""
    job_id = await store.add()
    token = await store.take()
    assert await store.pass_time(59.0) == []
    assert await store.touch(token, confirm=False) is AttemptState.RUNNING
    assert await store.pass_time(1.5) == [job_id]
    job = await store.get(job_id)
    assert (job.state, job.retries) == (JobState.READY, 1)
    assert await store.touch(token) is AttemptState.SUPERSEDED


async def test_a_touch_renews(store: Store) -> None:
    """A2: each touch begins the lease anew."""
    await store.add()
    token = await store.take()
    for _ in range(3):
        assert await store.pass_time(50.0) == []
        assert await store.touch(token) is AttemptState.RUNNING
    assert len(await store.pass_time(61.0)) == 1


async def test_an_attempt_runs_until_advance_says_otherwise(store: Store) -> None:
    """A lease that has run out still runs, and may be renewed or used, until `advance` has looked."""
    await store.add()
    token = await store.take()
    await store.driver.shift_clock(100.0)
    assert await store.touch(token) is AttemptState.RUNNING
    assert await store.pass_time(0) == []
    await store.driver.shift_clock(100.0)
    assert await store.finish(token) is Finish.ACCEPTED


async def test_the_end_of_a_lease_is_told(store: Store) -> None:
    """News: `advance` says what returned, what became ready, and when it is next needed."""
    job_id = await store.add()
    await store.take()
    batch = await store.driver.advance(10)
    assert batch.news.due_in == pytest.approx(60.0, abs=1.0)
    await store.driver.shift_clock(61.0)
    news = (await store.driver.advance(10)).news
    assert news.returned == (job_id,)
    assert sum(news.ready.values()) == 1
    assert news.due_in is None


async def test_advance_is_bounded(store: Store) -> None:
    """Advance: does up to `limit`, and asks to be called again at once while there is more."""
    for _ in range(5):
        await store.add(not_before=5.0)
    await store.driver.shift_clock(6.0)
    counts = []
    for _ in range(3):
        batch = await store.driver.advance(2)
        counts.append((len(batch.items), batch.news.due_in))
    assert counts == [(2, 0.0), (2, 0.0), (1, None)]


async def test_a_handover_ends(store: Store) -> None:
    """J10, A1: an attempt that is never confirmed lives for its hand-over time, and its return is not counted."""
    job_id = await store.add()
    token = await store.take(handover=5.0)
    assert await store.pass_time(4.0) == []
    assert await store.pass_time(1.5) == [job_id]
    job = await store.get(job_id)
    assert (job.state, job.retries) == (JobState.READY, 0)
    assert await store.touch(token) is AttemptState.SUPERSEDED


async def test_a_confirmed_handover_has_a_lease(store: Store) -> None:
    """A2: the first touch confirms; from then on the lease counts."""
    job_id = await store.add()
    token = await store.take(handover=5.0)
    await store.touch(token)
    assert await store.pass_time(59.0) == []
    assert await store.pass_time(1.5) == [job_id]
    assert (await store.get(job_id)).retries == 1


async def test_a_lease_shorter_than_the_handover(store: Store) -> None:
    """A2: once confirmed, the lease counts, also where the hand-over would have been longer."""
    job_id = await store.add()
    token = await store.take(handover=100.0, lease=10.0)
    await store.touch(token)
    assert await store.pass_time(10.5) == [job_id]
    assert (await store.get(job_id)).retries == 1


async def test_touched_without_confirming(store: Store) -> None:
    """A3: a touch that does not confirm begins an unconfirmed hand-over anew."""
    job_id = await store.add()
    token = await store.take(handover=5.0)
    for _ in range(3):
        assert await store.pass_time(4.0) == []
        assert await store.touch(token, confirm=False) is AttemptState.RUNNING
    assert await store.pass_time(5.5) == [job_id]
    assert (await store.get(job_id)).retries == 0


async def test_a_confirmed_lease_is_left_as_it_is(store: Store) -> None:
    """A3: a touch that does not confirm leaves the lease of a confirmed attempt alone."""
    job_id = await store.add()
    token = await store.take(handover=5.0)
    await store.touch(token)
    await store.pass_time(50.0)
    await store.touch(token, confirm=False)
    assert await store.pass_time(11.0) == [job_id]


async def test_an_attempt_says_whether_it_is_to_be_confirmed(store: Store) -> None:
    """Attempt: `confirm` is whether a hand-over was promised; `number` counts the job's attempts."""
    await store.add()
    first = await store.take(handover=5.0)
    released = await store.release(first)
    assert (released.confirm, released.number) == (True, 1)
    released = await store.release(await store.take())
    assert (released.confirm, released.number) == (False, 2)


async def test_progress(store: Store) -> None:
    """Touch: progress is remembered, left as it is by None, and gone with the attempt."""
    job_id = await store.add()
    token = await store.take()
    await store.touch(token, b'{"done":1}')
    await store.touch(token)
    assert (await store.get(job_id)).partial == b'{"done":1}'
    page = await store.driver.list(JobFilter(), None, 10)
    assert page.jobs[0].partial is None
    await store.release(token)
    assert (await store.get(job_id)).partial is None


async def test_lost_too_often(store: Store) -> None:
    """J11: a lease that runs out when `max_retries` is used up fails the job, with error 27."""
    job_id = await store.add(max_retries=2)
    for retries in (1, 2):
        await store.take()
        await store.pass_time(61.0)
        assert (await store.get(job_id)).retries == retries
    token = await store.take()
    await store.pass_time(61.0)
    assert await store.state(job_id) is JobState.FAILED
    assert await store.result(job_id) == (
        b'{"job_error":{"id":27,"reason":"Workers running this job stopped responding more than 2 times.","details":null}}'
    )
    assert (await store.get(job_id)).retries == 2
    assert await store.touch(token) is AttemptState.SUPERSEDED


async def test_a_lost_job_takes_its_dependents_along(store: Store) -> None:
    """J4: a dependency that failed by its lease has ended like any other."""
    job_id = await store.add(max_retries=0)
    dependent = await store.add(job_id)
    await store.take(job_id)
    await store.driver.shift_clock(61.0)
    news = (await store.driver.advance(10)).news
    assert news.ended == (job_id,)
    assert await store.state(dependent) is JobState.READY


async def test_a_timeout(store: Store) -> None:
    """J10, J11: an attempt over its job's timeout returns however often it was touched, counted; used up, the reason says so."""
    job_id = await store.add(timeout=20.0, max_retries=1)
    for expected in (JobState.READY, JobState.FAILED):
        token = await store.take()
        for _ in range(2):
            assert await store.pass_time(9.0) == []
            await store.touch(token)
        assert await store.pass_time(3.0) == [job_id]
        assert await store.state(job_id) is expected
    assert await store.result(job_id) == lost_result(ReturnCause.TIMEOUT, 1)
    assert b"longer than its timeout more than 1 times." in lost_result(ReturnCause.TIMEOUT, 1)


async def test_a_release(store: Store) -> None:
    """J10, A6: a released job is ready again, uncounted; the answer is the attempt as it was."""
    job_id = await store.add()
    token = await store.take()
    batch = await store.driver.release([token])
    assert (batch.items[0].state, batch.items[0].job_id) == (AttemptState.RUNNING, job_id)
    assert batch.news.returned == (job_id,)
    assert sum(batch.news.ready.values()) == 1
    job = await store.get(job_id)
    assert (job.state, job.retries) == (JobState.READY, 0)
    assert (await store.release(token)).state is AttemptState.SUPERSEDED
    assert (await store.release(store.id())).state is AttemptState.UNKNOWN


@pytest.mark.parametrize("handover", [False, True], ids=["release", "handover"])
async def test_ten_returns_in_a_row_are_free(store: Store, handover: bool) -> None:
    """What counts: ten releases or unconfirmed hand-overs in a row do not count, each further one does, and J11 ends it."""
    job_id = await store.add(max_retries=1)
    retries = []
    for _ in range(12):
        token = await store.take(handover=1.0)
        if handover:
            await store.pass_time(1.5)
        else:
            await store.release(token)
        retries.append((await store.get(job_id)).retries)
    assert retries == [0] * 10 + [1, 1]
    assert await store.state(job_id) is JobState.FAILED
    assert await store.result(job_id) == lost_result(ReturnCause.RELEASED, 1)


async def test_a_lost_lease_ends_the_row(store: Store) -> None:
    """What counts: a lease that ran out ends the row of uncounted returns."""
    job_id = await store.add(max_retries=5)
    for _ in range(10):
        await store.release(await store.take())
    await store.take()
    await store.pass_time(61.0)
    assert (await store.get(job_id)).retries == 1
    for _ in range(10):
        await store.release(await store.take())
    assert (await store.get(job_id)).retries == 1
    await store.release(await store.take())
    assert (await store.get(job_id)).retries == 2


async def test_budgets_are_apart(store: Store) -> None:
    """What counts: failed outcomes do not use up `max_retries`, nor lost leases `retry_on_failure`."""
    job_id = await store.add(max_retries=1, retry_on_failure=1, retry_backoff=1.0)
    await store.finish(await store.take(), failed=True)
    await store.pass_time(1.5)
    await store.take()
    await store.pass_time(61.0)
    job = await store.get(job_id)
    assert (job.state, job.retries) == (JobState.READY, 2)
    await store.take()
    await store.pass_time(61.0)
    assert await store.state(job_id) is JobState.FAILED

"""Submissions: all or nothing, repeatable, idempotency keys, and what a dependency's state makes of a new job."""

from datetime import timedelta
from uuid import UUID

import msgspec
import pytest

from composerd.driver.rules import dependency_result
from composerd.errors import CanceledDependency, IdempotencyConflict, UnknownDependency
from composerd.models import Enqueued, JobState, Key, OnDependencyFailure, Outcome

from .conftest import Store

FAIL = OnDependencyFailure.FAIL


async def test_ready(store: Store) -> None:
    """J2: a job without dependencies whose time has come is ready at once."""
    job = (await store.submit(store.new(priority=3, arch="x86_64", channel="org"))).jobs[0]
    assert job.state is JobState.READY
    assert (job.priority, job.arch, job.channel, job.attempt, job.retries) == (3, "x86_64", "org", 0, 0)
    assert job.started_at is None
    assert job.finished_at is None


async def test_news_counts_the_ready_by_key(store: Store) -> None:
    """Enqueue: the news says how many jobs of each key became ready, and not which wait."""
    first = store.new()
    jobs = [first, store.new(), store.new(first.id), store.new(arch="x86_64"), store.new(not_before=5.0)]
    news = (await store.driver.enqueue([jobs])).news
    assert news.ready == {Key("", "build", None): 2, Key("", "build", "x86_64"): 1}
    assert news.due_in == pytest.approx(5.0, abs=1.0)


async def test_waits_for_its_time(store: Store) -> None:
    """J1, J4: a job whose time is ahead waits, and is ready when `advance` finds that it has come."""
    job_id = await store.add(not_before=10.0)
    assert await store.state(job_id) is JobState.WAITING
    assert await store.pass_time(9.0) == []
    assert await store.pass_time(1.5) == [job_id]
    assert await store.state(job_id) is JobState.READY


async def test_a_time_may_be_absolute(store: Store) -> None:
    """J1: `not_before` may be a time on the store's clock; one that has passed holds nothing up."""
    queued_at = (await store.get(await store.add())).queued_at
    ahead = await store.add(not_before=queued_at + timedelta(hours=1))
    past = await store.add(not_before=queued_at - timedelta(hours=1))
    assert (await store.state(ahead), await store.state(past)) == (JobState.WAITING, JobState.READY)


async def test_waits_for_its_dependencies(store: Store) -> None:
    """J1, J4: a job is ready when the last of its dependencies has ended, not earlier."""
    first, second = await store.add(), await store.add()
    job_id = await store.add(first, second)
    await store.end(first)
    assert await store.state(job_id) is JobState.WAITING
    await store.end(second)
    assert await store.state(job_id) is JobState.READY


async def test_waits_for_dependencies_and_time(store: Store) -> None:
    """J4: with its dependencies ended, a job still waits for its time."""
    first = await store.add()
    job_id = await store.add(first, not_before=10.0)
    await store.end(first)
    assert await store.state(job_id) is JobState.WAITING
    assert await store.pass_time(11.0) == [job_id]
    assert await store.state(job_id) is JobState.READY


@pytest.mark.parametrize("failed", [False, True])
async def test_an_ended_dependency_is_applied_at_once(store: Store, failed: bool) -> None:
    """J2: a dependency that has ended already, finished or failed, holds nothing up."""
    first = await store.add()
    await store.end(first, failed=failed)
    assert await store.state(await store.add(first)) is JobState.READY


async def test_a_failed_dependency_is_no_obstacle(store: Store) -> None:
    """J4: with `run`, a dependency that fails makes the job ready like one that finishes."""
    first = await store.add()
    job_id = await store.add(first)
    await store.end(first, failed=True)
    assert await store.state(job_id) is JobState.READY


async def test_fails_with_a_dependency(store: Store) -> None:
    """J5: with `fail` a job fails when a dependency does; the others are not waited for, and its dependents follow."""
    first, second = await store.add(), await store.add()
    job_id = await store.add(second, first, on_dependency_failure=FAIL)
    dependent = await store.add(job_id, on_dependency_failure=FAIL)
    indifferent = await store.add(job_id)
    token = await store.take(first)
    batch = await store.driver.finish([_failure(token)])
    assert await store.state(job_id) is JobState.FAILED
    assert await store.result(job_id) == dependency_result([first])
    assert await store.result(dependent) == dependency_result([job_id])
    assert await store.state(indifferent) is JobState.READY
    assert await store.state(second) is JobState.READY
    assert set(batch.news.ended) == {first, job_id, dependent}


async def test_fails_at_once(store: Store) -> None:
    """J3: with `fail` a job whose dependency has failed is born failed; its result names the failed ones in the job's order."""
    ids = [await store.add() for _ in range(3)]
    await store.end(ids[0], failed=True)
    await store.end(ids[1])
    await store.end(ids[2], failed=True)
    unended = await store.add()
    job = store.new(ids[2], unended, ids[1], ids[0], ids[2], on_dependency_failure=FAIL)
    assert (await store.submit(job)).jobs[0].state is JobState.FAILED
    error = {"id": 26, "reason": "A dependency failed.", "details": [str(ids[2]), str(ids[0])]}
    assert await store.result(job.id) == msgspec.json.encode({"job_error": error})
    assert (await store.get(job.id)).finished_at is not None


async def test_unknown_dependency(store: Store) -> None:
    """Enqueue: a dependency that does not exist is an error that says which, and nothing of the submission is stored."""
    fine, missing = store.new(), store.id()
    bad = store.new(fine.id, missing)
    batch = await store.driver.enqueue([[fine, bad]])
    (error,) = batch.items
    assert isinstance(error, UnknownDependency)
    assert error.details == {"index": 1, "id": str(missing)}
    assert await store.driver.get([fine.id, bad.id]) == [None, None]
    assert batch.news.ready == {}


async def test_a_dependency_must_come_earlier(store: Store) -> None:
    """Enqueue: a job of the same submission that comes later is unknown."""
    later = store.new()
    with pytest.raises(UnknownDependency):
        await store.submit(store.new(later.id), later)


async def test_canceled_dependency(store: Store) -> None:
    """Enqueue: a canceled dependency is an error, and nothing of the submission is stored."""
    canceled = await store.add()
    await store.cancel(canceled)
    fine, bad = store.new(), store.new(canceled)
    (error,) = (await store.driver.enqueue([[fine, bad]])).items
    assert isinstance(error, CanceledDependency)
    assert error.details == {"index": 1, "id": str(canceled)}
    assert await store.driver.get([fine.id, bad.id]) == [None, None]


async def test_submissions_stand_alone(store: Store) -> None:
    """Enqueue: one submission's error is no other's, and a later one of the batch may depend on an earlier one."""
    first, lost = store.new(), store.new(store.id())
    third = store.new(first.id)
    answers = (await store.driver.enqueue([[first], [lost], [third]])).items
    assert [type(answer) for answer in answers] == [Enqueued, UnknownDependency, Enqueued]
    assert (await store.get(third.id)).dependencies == (first.id,)


async def test_a_repetition_is_answered_as_the_first_time(store: Store) -> None:
    """Enqueue: the same submission again stores nothing and says what it said."""
    first = store.new(idempotency_key="k", fingerprint=b"f")
    jobs = [first, store.new(first.id)]
    answer = await store.submit(*jobs)
    assert await store.submit(*jobs) == answer
    assert answer.created == (True, True)
    assert len(await store.dump()) == 2


async def test_a_repetition_later(store: Store) -> None:
    """Enqueue: a repetition after the job moved on says that it was created, and moves nothing."""
    job = store.new()
    await store.submit(job)
    await store.end(job.id)
    answer = await store.submit(job)
    assert answer.created == (True,)
    assert answer.jobs[0].state is JobState.FINISHED
    assert await store.claim() is None


async def test_a_half_known_submission_is_completed(store: Store) -> None:
    """Enqueue: jobs are repetitions one by one; what is not stored yet is."""
    first, second = store.new(), store.new()
    await store.submit(first)
    assert (await store.submit(first, second)).created == (True, True)
    assert len(await store.dump()) == 2


async def test_key_across_submissions(store: Store) -> None:
    """Enqueue: a key's second use with equal fingerprint and dependencies is the existing job, whatever its state."""
    first = await store.add(idempotency_key="k", fingerprint=b"f")
    await store.end(first)
    again = store.new(idempotency_key="k", fingerprint=b"f")
    for _ in range(2):
        answer = await store.submit(again)
        assert answer.jobs[0].id == first
        assert answer.jobs[0].state is JobState.FINISHED
        assert answer.created == (False,)
    assert await store.driver.get([again.id]) == [None]


async def test_key_within_a_submission(store: Store) -> None:
    """Enqueue: two jobs of one submission with one key are one job."""
    one, two = (store.new(idempotency_key="k", fingerprint=b"f") for _ in range(2))
    answer = await store.submit(one, two)
    assert [job.id for job in answer.jobs] == [one.id, one.id]
    assert answer.created == (True, False)


@pytest.mark.parametrize("same_submission", [False, True])
async def test_key_conflict(store: Store, same_submission: bool) -> None:
    """Enqueue: a key with another fingerprint is a conflict that says where, and nothing of the submission is stored."""
    first = store.new(idempotency_key="k", fingerprint=b"f")
    fine, other = store.new(), store.new(idempotency_key="k", fingerprint=b"g")
    if not same_submission:
        await store.submit(first)
    jobs = [first, fine, other] if same_submission else [fine, other]
    (error,) = (await store.driver.enqueue([jobs])).items
    assert isinstance(error, IdempotencyConflict)
    assert error.details == {"index": len(jobs) - 1}
    assert await store.driver.get([fine.id, other.id]) == [None, None]


async def test_key_conflict_of_dependencies(store: Store) -> None:
    """Enqueue: a key's second use with other dependencies is a conflict."""
    one, two = await store.add(), await store.add()
    await store.add(one, idempotency_key="k", fingerprint=b"f")
    with pytest.raises(IdempotencyConflict):
        await store.add(two, idempotency_key="k", fingerprint=b"f")


async def test_keys_are_the_channels_own(store: Store) -> None:
    """Enqueue: a key means something in its channel only."""
    ids = {await store.add(idempotency_key="k", fingerprint=b"f", channel=channel) for channel in ("", "a", "b")}
    assert len(ids) == 3
    assert len(await store.dump()) == 3


async def test_an_existing_job_stands_in_for_the_new_one(store: Store) -> None:
    """Enqueue: dependencies on a job that turned out to exist are on the existing one, for keys' comparison too."""
    graph = [store.new(idempotency_key="root", fingerprint=b"r")]
    graph.append(store.new(graph[0].id, idempotency_key="leaf", fingerprint=b"l"))
    await store.submit(*graph)
    root = store.new(idempotency_key="root", fingerprint=b"r")
    leaf = store.new(root.id, idempotency_key="leaf", fingerprint=b"l")
    fresh = store.new(root.id, leaf.id)
    answer = await store.submit(root, leaf, fresh)
    assert [job.id for job in answer.jobs] == [graph[0].id, graph[1].id, fresh.id]
    assert answer.created == (False, False, True)
    assert answer.jobs[2].dependencies == (graph[0].id, graph[1].id)
    assert (await store.get(graph[0].id)).dependents == (graph[1].id, fresh.id)


async def test_a_key_is_free_after_its_job_was_deleted(store: Store) -> None:
    """Delete: a forgotten job takes its key with it."""
    first = await store.add(idempotency_key="k", fingerprint=b"f")
    await store.end(first)
    await store.delete(first)
    assert (await store.submit(store.new(idempotency_key="k", fingerprint=b"other"))).created == (True,)


async def test_repeated_dependencies(store: Store) -> None:
    """NewJob: dependencies are kept as named, repetitions included, and are waited for once."""
    first = await store.add()
    job_id = await store.add(first, first)
    assert (await store.get(job_id)).dependencies == (first, first)
    await store.end(first)
    assert await store.state(job_id) is JobState.READY
    assert (await store.get(first)).dependents == (job_id,)


async def test_dependents_are_in_the_order_of_submission(store: Store) -> None:
    """Job: `dependents` names those who wait, oldest submission first."""
    first = await store.add()
    ids = tuple([await store.add(first, priority=n % 2) for n in range(5)])
    assert (await store.get(first)).dependents == ids


async def test_a_diamond(store: Store) -> None:
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


def _failure(token: UUID) -> Outcome:
    return Outcome(token, b'{"job_error":1}', failed=True)

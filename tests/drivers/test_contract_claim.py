"""Claims: which job, to whom, once; and the repetition of a claim."""

import asyncio
from uuid import UUID

import pytest

from composerd.models import AttemptState, Claim, JobState, Key

from .conftest import ANY, LEASE, PLENTY, Store


async def test_an_attempt_begins(store: Store) -> None:
    """J6, A1: a claim gets the job with its args; the job runs, and says since when and with whom."""
    first = await store.add()
    await store.end(first)
    job_id = await store.add(first, args=b'{"a": "\\u00e4"}', arch="x86_64", channel="org")
    worker, key = store.id(), Key("org", "build", "x86_64")
    (claimed,) = (await store.driver.claim([Claim(store.id(), (key,), LEASE, worker_id=worker)], PLENTY)).items
    assert claimed is not None
    assert (claimed.job_id, claimed.key, claimed.args) == (job_id, key, b'{"a": "\\u00e4"}')
    assert (claimed.dependencies, claimed.attempt) == ((first,), 1)
    job = await store.get(job_id)
    assert (job.state, job.worker_id, job.attempt) == (JobState.RUNNING, worker, 1)
    assert job.started_at is not None
    assert job.started_at >= job.queued_at


async def test_nothing_is_nothing(store: Store) -> None:
    """Claim: without a ready job of its keys a request is answered at once, with None."""
    await store.add(not_before=100.0)
    assert await store.claim() is None


@pytest.mark.parametrize(
    "key",
    [Key("", "other", None), Key("", "build", "x86_64"), Key("org", "build", None)],
    ids=["type", "arch", "channel"],
)
async def test_keys_are_exact(store: Store, key: Key) -> None:
    """Claim: a request gets jobs of its keys only; no key stands for another."""
    await store.add()
    assert await store.claim(key) is None
    assert await store.claim(key, ANY) is not None


async def test_priority_then_place(store: Store) -> None:
    """Ready order: the highest priority first; among equals who was submitted first, whatever its key."""
    other = Key("", "build", "x86_64")
    low = await store.add(priority=-1)
    ids = [await store.add(arch="x86_64" if n % 2 else None) for n in range(4)]
    high = await store.add(priority=2, arch="x86_64")
    assert [await _next(store, other, ANY) for _ in range(6)] == [high, *ids, low]


async def test_the_order_of_submission_counts_not_that_of_readiness(store: Store) -> None:
    """Ready order: a job keeps the place of its submission while it waits."""
    first = await store.add(priority=1)
    waits = await store.add(first)
    later = await store.add()
    await store.end(first)
    assert [await _next(store, ANY) for _ in range(2)] == [waits, later]


async def test_what_comes_back_is_behind(store: Store) -> None:
    """J10, ready order: a returned job gets a new place, behind those of its priority but before lower ones."""
    first = await store.add(priority=1)
    token = await store.take(first)
    equal, lower = await store.add(priority=1), await store.add()
    await store.release(token)
    assert [await _next(store, ANY) for _ in range(3)] == [equal, first, lower]


async def test_a_batch_is_served_in_order(store: Store) -> None:
    """Claim: requests of one call are answered in their order, each with another job, None where there is none."""
    ids = [await store.add() for _ in range(2)]
    requests = [
        Claim(store.id(), (Key("", "other", None),), LEASE),
        *[Claim(store.id(), (ANY,), LEASE) for _ in range(3)],
    ]
    answers = (await store.driver.claim(requests, PLENTY)).items
    assert [None if one is None else (one.token, one.job_id) for one in answers] == [
        None,
        (requests[1].token, ids[0]),
        (requests[2].token, ids[1]),
        None,
    ]


async def test_one_job_one_claim(store: Store) -> None:
    """Claim: whatever races, a job is given to one request only."""
    ids = {await store.add() for _ in range(20)}
    answers = await asyncio.gather(*[store.claim() for _ in range(30)])
    got = [claimed.job_id for claimed in answers if claimed is not None]
    assert len(got) == 20
    assert set(got) == ids


async def test_a_repetition_is_the_same_job(store: Store) -> None:
    """Claim: a token whose attempt runs gets the same answer again, and takes no second job."""
    await store.add()
    await store.add()
    claimed = await store.claim(token=UUID(int=99))
    assert await store.claim(token=UUID(int=99)) == claimed
    assert await store.claim(Key("", "other", None), token=UUID(int=99)) == claimed
    assert len([job for job in await store.dump() if job.job.state is JobState.RUNNING]) == 1


async def test_answers_as_of_each_call(orderly: Store) -> None:
    """Races: a claim is answered with its own attempt, even if its job changed hands before the answer was given."""
    job_id = await orderly.add()
    one, two = UUID(int=98), UUID(int=99)
    answers = await asyncio.gather(orderly.claim(token=one), orderly.release(one), orderly.claim(token=two))
    assert answers[0] is not None
    assert answers[2] is not None
    assert (answers[0].token, answers[0].attempt) == (one, 1)
    assert (answers[2].token, answers[2].attempt) == (two, 2)
    assert (await orderly.get(job_id)).attempt == 2


@pytest.mark.parametrize(("most", "answered"), [(0, 1), (1, 1), (10, 1), (11, 2), (30, 3), (31, 4)])
async def test_a_prefix_is_answered(store: Store, most: int, answered: int) -> None:
    """Claim: once the args reach `max_bytes` the rest of the requests is not looked at; at least one is answered."""
    for _ in range(4):
        await store.add(args=b"1234567890")
    requests = [Claim(store.id(), (ANY,), LEASE) for _ in range(4)]
    answers = (await store.driver.claim(requests, most)).items
    assert len(answers) == answered
    assert None not in answers
    assert len([job for job in await store.dump() if job.job.state is JobState.READY]) == 4 - answered


async def test_no_args_weigh_nothing(store: Store) -> None:
    """Claim: jobs without args do not use up `max_bytes`."""
    for _ in range(3):
        await store.add(args=None)
    answers = (await store.driver.claim([Claim(store.id(), (ANY,), LEASE) for _ in range(3)], 1)).items
    assert [one is not None and one.args is None for one in answers] == [True] * 3


async def test_news_says_when_it_lapses(store: Store) -> None:
    """News: a claim's `due_in` is when its hand-over or lease ends, or its job's timeout."""
    for timeout, handover, due in [(None, None, 60.0), (None, 5.0, 5.0)]:
        await store.add(timeout=timeout)
        batch = await store.driver.claim([Claim(store.id(), (ANY,), LEASE, handover)], PLENTY)
        assert batch.news.due_in == pytest.approx(due, abs=1.0)


async def test_sixteen_tokens_are_remembered(store: Store) -> None:
    """A7: a token is unknown once 16 later attempts at its job have begun, and not before."""
    await store.add(max_retries=100)
    tokens = []
    for _ in range(16):
        tokens.append(await store.take())
        await store.release(tokens[-1])
    assert await store.touch(tokens[0]) is AttemptState.SUPERSEDED
    last = await store.take()
    assert await store.touch(tokens[0]) is AttemptState.UNKNOWN
    assert await store.touch(tokens[1]) is AttemptState.SUPERSEDED
    assert await store.touch(last) is AttemptState.RUNNING


async def _next(store: Store, *keys: Key) -> UUID:
    claimed = await store.claim(*keys)
    assert claimed is not None
    return claimed.job_id

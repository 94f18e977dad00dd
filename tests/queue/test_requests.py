"""Requests for jobs that are repeated with the same id, and workers that declare their slots."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from unittest import mock
from uuid import UUID, uuid4

import pytest

from composerd.errors import RequestIdUsed, TokenNotFound
from composerd.models import AttemptState, JobState, Worker
from composerd.queue import HandedOut, JobQueue, Lookup, keys_for, stored_token
from composerd_fs import MemoryDriver

from .conftest import KEYS, LONG, add, running, take, turns

WORKER = Worker(UUID(int=7), "x86_64", ("build",), client="here")
OTHER = Worker(UUID(int=8), "x86_64", ("build",), client="here")


@pytest.fixture
async def elsewhere(driver: MemoryDriver) -> AsyncIterator[JobQueue]:
    """Run the queue of another server over the same storage. It hears nothing of what the first one does."""
    async with running(driver) as queue:
        yield queue


def asking(queue: JobQueue, request_id: UUID | None = None, **options: Any) -> "asyncio.Task[HandedOut | None]":
    """Begin to request a job."""
    keys = keys_for("", options.pop("types", ["build"]), "x86_64")
    given: dict[str, Any] = {"confirm": True, "wait": LONG, "client": "here"} | options
    return asyncio.create_task(queue.request(keys, request_id=request_id, **given))


async def running_jobs(queue: JobQueue, *jobs: UUID) -> int:
    """Return how many of the jobs run."""
    return sum([(await queue.get(Lookup(job, None))).state is JobState.RUNNING for job in jobs])


async def test_a_repeated_request_gets_the_same_attempt(queue: JobQueue, elsewhere: JobQueue) -> None:
    """A repeated id gets the same attempt again, at this server and at another one, and takes no second job."""
    jobs = [await add(queue) for _ in range(3)]
    name = uuid4()
    claimed = await take(queue, confirm=True, request_id=name)
    assert await take(queue, confirm=True, request_id=name) == claimed
    assert await take(elsewhere, confirm=True, request_id=name) == claimed
    assert await running_jobs(queue, *jobs) == 1


async def test_another_worker_or_another_id_gets_another_job(queue: JobQueue) -> None:
    """The attempt belongs to the worker and the id together."""
    for _ in range(4):
        await add(queue)
    name = uuid4()
    requests = [(name, None), (name, WORKER), (name, OTHER), (uuid4(), WORKER)]
    got = [await take(queue, confirm=True, request_id=one, worker=worker) for one, worker in requests]
    assert len({one.job_id for one in got}) == 4


async def test_a_repeated_request_ends_the_one_that_waits(queue: JobQueue) -> None:
    """If a request with the same id waits, it ends without a job, and the repetition waits."""
    name = uuid4()
    first = asking(queue, name)
    await turns()
    second = asking(queue, name)
    assert await first is None
    await turns()
    job = await add(queue)
    claimed = await second
    assert claimed is not None
    assert claimed.job_id == job


async def test_repetitions_that_come_together(queue: JobQueue) -> None:
    """Of several requests with one id that arrive together, the last one waits, and they get no second job."""
    name = uuid4()
    asked = [asking(queue, name) for _ in range(5)]
    await turns(100)
    assert sorted(one.done() for one in asked) == [False] + [True] * 4
    jobs = [await add(queue) for _ in range(3)]
    got = {claimed for one in asked if (claimed := await one) is not None}
    assert len(got) == 1
    assert await running_jobs(queue, *jobs) == 1


async def test_a_repetition_that_leaves(queue: JobQueue, driver: MemoryDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the storage has not answered the claim of the first request, later ones wait for that, if they stay."""
    name = uuid4()
    claim, let_go = driver.claim, asyncio.Event()

    async def slow(*args: Any) -> Any:
        await let_go.wait()
        return await claim(*args)

    monkeypatch.setattr(driver, "claim", slow)
    first, second = asking(queue, name), asking(queue, name)
    await turns()
    second.cancel()
    await asyncio.wait([second])
    third = asking(queue, name)
    await turns()
    assert [len(queue._dispatcher._list), first.done(), third.done()] == [1, False, False]
    job = await add(queue)
    let_go.set()
    got = await first
    assert got is not None
    assert got.job_id == job
    assert await third == got
    assert queue._requests._by_id == {}


async def test_repetitions_while_the_job_is_released(queue: JobQueue) -> None:
    """Of requests with one id that come while the job of an earlier one is released, one gets the job, once."""
    job = await add(queue)
    name = uuid4()
    claimed = await take(queue, confirm=True, request_id=name)
    queue.release_undelivered(claimed.token, named=True)
    asked = [asking(queue, name) for _ in range(3)]
    got = [one for one in await asyncio.gather(*asked) if one is not None]
    assert {one.job_id for one in got} == {job}
    assert {one.token for one in got} - {claimed.token} == {(await take(queue, confirm=True, request_id=name)).token}


async def test_a_request_with_an_id_takes_no_job_from_those_that_wait(
    queue: JobQueue, driver: MemoryDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While others wait, a new request with an id makes no claim, and a repeated one gets its job all the same."""
    await add(queue)
    name = uuid4()
    claimed = await take(queue, confirm=True, request_id=name)
    other = asking(queue)
    await turns()
    calls = mock.AsyncMock(side_effect=driver.claim)
    monkeypatch.setattr(driver, "claim", calls)
    new = asking(queue, uuid4())
    await turns(50)
    assert not calls.called
    assert await take(queue, confirm=True, request_id=name) == claimed
    await queue.release(claimed.token)
    assert (await asyncio.wait([new, other], return_when=asyncio.FIRST_COMPLETED))[0] == {new}
    again = asking(queue, name)
    await turns(50)
    job = await add(queue)
    got = await again
    assert got is not None
    assert (got.job_id, got.token == claimed.token) == (job, False)


async def test_two_servers_give_one_job(queue: JobQueue, elsewhere: JobQueue) -> None:
    """Of two requests with one id that wait at two servers, both get the same attempt, and no second job."""
    name = uuid4()
    here, there = asking(queue, name), asking(elsewhere, name)
    await turns()
    jobs = [await add(queue) for _ in range(2)]
    elsewhere._dispatcher.recheck()
    assert await here == await there
    assert await running_jobs(queue, *jobs) == 1


@pytest.mark.parametrize("end", ["finished", "running"])
async def test_an_id_whose_attempt_was_answered_is_refused(queue: JobQueue, end: str) -> None:
    """Once the worker has called about its job, the id is used up: nothing is claimed for it."""
    job, other = await add(queue), await add(queue)
    name = uuid4()
    claimed = await take(queue, confirm=True, request_id=name)
    if end == "finished":
        await queue.finish(claimed.token, b"1", failed=False)
    else:
        await queue.touch(claimed.token)
    with pytest.raises(RequestIdUsed):
        await asking(queue, name)
    assert (await queue.get(Lookup(other, None))).state is JobState.READY
    assert (await queue.get(Lookup(job, None))).state is (JobState.FINISHED if end == "finished" else JobState.RUNNING)


@pytest.mark.parametrize("end", ["undelivered", "released", "canceled"])
async def test_an_id_whose_attempt_was_given_back_gets_another(queue: JobQueue, end: str) -> None:
    """If the attempt was given back or canceled, the id gets a job all the same, with another token."""
    job = await add(queue)
    name = uuid4()
    claimed = await take(queue, confirm=True, request_id=name)
    if end == "undelivered":
        queue.release_undelivered(claimed.token, named=True)
    elif end == "released":
        await queue.release(claimed.token)
    else:
        await queue.cancel(Lookup(job, None))
        await add(queue)
    again = await take(queue, confirm=True, request_id=name)
    assert again.token != claimed.token
    assert (again.job_id == job) is (end != "canceled")
    assert await take(queue, confirm=True, request_id=name) == again
    assert (await queue.touch(claimed.token)).state is not AttemptState.RUNNING


async def test_an_answered_attempt_is_not_released(queue: JobQueue) -> None:
    """An answer that could not be delivered releases nothing if the worker got the job by a repetition and called."""
    await add(queue)
    claimed = await take(queue, confirm=True, request_id=uuid4())
    await queue.touch(claimed.token)
    queue.release_undelivered(claimed.token, named=True)
    await turns()
    assert (await queue.touch(claimed.token)).state is AttemptState.RUNNING


@pytest.mark.parametrize("later", range(8))
async def test_a_call_while_the_job_is_released(queue: JobQueue, later: int) -> None:
    """A worker that calls while its job is being released is not told to go on with a job that it then loses."""
    await add(queue)
    claimed = await take(queue, confirm=True)
    releasing = asyncio.create_task(queue.release_unconfirmed(claimed.token))
    await turns(later)
    told = (await queue.touch(claimed.token)).state
    await releasing
    assert (await queue.touch(claimed.token)).state is told


async def test_many_tokens_were_given_back(queue: JobQueue) -> None:
    """An id whose attempts were given back 16 times is used up."""
    await add(queue, max_retries=100)
    name = uuid4()
    for _ in range(16):
        await queue.release((await take(queue, confirm=True, request_id=name)).token)
    with pytest.raises(RequestIdUsed):
        await asking(queue, name)


async def test_a_token_that_was_used_elsewhere_strands_nobody(queue: JobQueue, elsewhere: JobQueue) -> None:
    """A request that waits with a token that was used up elsewhere gets a job, and hides no job from others."""
    name = uuid4()
    other = asking(queue, client="other")
    await turns()
    waiting = asking(queue, name)
    await turns()
    job = await add(elsewhere)
    await elsewhere.release((await take(elsewhere, confirm=True, request_id=name)).token)
    await elsewhere.cancel(Lookup(job, None))
    jobs = [await add(queue), await add(queue)]
    async with asyncio.timeout(30):
        got = [await waiting, await other]
    assert {one.job_id for one in got if one is not None} == set(jobs)


async def test_requests_beyond_the_slots_end(queue: JobQueue) -> None:
    """A worker that asks again beyond its slots ends its oldest requests, which get no job."""
    first, second = [asking(queue, worker=WORKER, slots=2) for _ in range(2)]
    await turns()
    third = asking(queue, worker=WORKER, slots=2)
    assert await first is None
    fourth = asking(queue, worker=WORKER, slots=1)
    assert [await second, await third] == [None, None]
    job = await add(queue)
    claimed = await fourth
    assert claimed is not None
    assert claimed.job_id == job


@pytest.mark.parametrize(
    "other",
    [
        {"worker": WORKER},
        {"worker": OTHER, "slots": 1},
        {"worker": Worker(WORKER.id, "x86_64", ("build",), client="there"), "client": "there", "slots": 1},
        {"worker": WORKER, "types": ["other"], "slots": 1},
        {"slots": 1},
    ],
    ids=["without slots", "another worker", "another client", "other types", "without a worker"],
)
async def test_requests_of_others_end_nothing(queue: JobQueue, other: dict[str, Any]) -> None:
    """A request ends only requests of the same worker, client and types, and only if it declares its slots."""
    first = asking(queue, worker=WORKER, slots=1)
    await turns()
    second = asking(queue, **other)
    await turns()
    assert not first.done()
    assert not second.done()


async def test_nothing_is_kept_of_requests_that_ended(queue: JobQueue) -> None:
    """When no request waits any more, nothing is kept of them."""
    asked = [asking(queue, uuid4(), worker=WORKER, slots=1) for _ in range(5)]
    await turns(100)
    assert [one.done() for one in asked] == [True] * 4 + [False]
    asked[-1].cancel()
    await asyncio.wait(asked)
    assert queue._requests._by_id == {}
    assert queue._requests._by_worker == {}
    assert await queue.request(KEYS, confirm=False, wait=0) is None


@pytest.mark.parametrize("request_id", [None, uuid4()], ids=["no id", "an id"])
async def test_an_attempt_belongs_to_its_owner(queue: JobQueue, request_id: UUID | None) -> None:
    """The token that a worker gets is that of its attempt for its owner only."""
    job_id = await add(queue)
    claimed = await asking(queue, request_id, owner="token acme builder")
    assert claimed is not None
    for other in ("", "token acme other", "token  builder"):
        with pytest.raises(TokenNotFound):
            await queue.finish(stored_token(claimed.given, other), b"1", failed=False)
    await queue.finish(stored_token(claimed.given, "token acme builder"), b"2", failed=False)
    assert (await queue.get(Lookup(job_id, None))).state is JobState.FINISHED


async def test_a_request_id_of_another_owner_ends_no_wait(queue: JobQueue) -> None:
    """Two identities that choose the same request id have a request each, and a job each."""
    name = uuid4()
    requests = [asking(queue, name, owner=owner) for owner in ("one", "other")]
    await turns()
    jobs = [await add(queue) for _ in range(2)]
    claimed = [await request for request in requests]
    assert {one.job_id for one in claimed if one is not None} == set(jobs)


async def test_a_server_without_identities_gives_the_token_of_the_storage(queue: JobQueue) -> None:
    """Without an owner, both tokens are one, so attempts that run go on when the server is started again."""
    await add(queue)
    claimed = await asking(queue)
    assert claimed is not None
    assert claimed.given == claimed.token

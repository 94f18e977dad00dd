"""The queue over a storage that fails: what is repeated, who gets which error, and that every waiter is answered."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec
import pytest

from composerd.driver.guard import Guard
from composerd.errors import (
    DriverError,
    DriverTimeout,
    OutcomeUnknown,
    StorageFull,
    TokenNotFound,
    Unavailable,
    UnknownDependency,
)
from composerd.ids import new_id
from composerd.models import JobState, NewJob, PayloadKind
from composerd.queue import JobQueue, Lookup, QueueOptions, batcher, jobqueue, keys_for
from composerd.queue.batcher import MAX_ITEMS
from composerd_fs import MemoryDriver

from .conftest import turns

BEGINS = "the storage does not answer: requests that need it fail until it does"
KEYS = keys_for("", ["build"], "x86_64")
OPTIONS = QueueOptions(
    heartbeat_timeout=120.0, handover_timeout=10.0, sweep_interval=0.2, worker_timeout=3600.0, max_waits=1000
)


class Faulty(MemoryDriver):
    """The memory driver, with errors on demand: before a call did anything, or after it did all of it."""

    def __init__(self, *, coalesces: bool = True) -> None:
        super().__init__()
        self.capabilities = msgspec.structs.replace(MemoryDriver.capabilities, coalesces=coalesces)
        self.before: Callable[[str, Sequence[Any]], None] = lambda _method, _items: None
        self.after: Callable[[str, Sequence[Any]], None] = lambda _method, _items: None
        self.calls: list[tuple[str, int]] = []
        self.called = asyncio.Event()

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in ("enqueue", "claim", "touch", "finish", "release", "cancel"):
            return found

        async def call(items: Sequence[Any], *more: Any) -> Any:
            self.calls.append((name, len(items)))
            self.called.set()
            self.before(name, items)
            answer = await found(items, *more)
            self.after(name, items)
            return answer

        return call


def times(count: int, method: str, error: Exception) -> Callable[[str, Sequence[Any]], None]:
    """Raise an error in the first calls of a method."""
    left = count

    def fail(called: str, _items: Sequence[Any]) -> None:
        nonlocal left
        if called == method and left > 0:
            left -= 1
            raise error

    return fail


@pytest.fixture(params=[False, True], ids=["one call at a time", "coalescing"])
async def faulty(request: pytest.FixtureRequest) -> Faulty:
    """Return a storage that works until a test makes it fail, for each way of a write."""
    driver = Faulty(coalesces=request.param)
    await driver.start()
    return driver


@pytest.fixture
async def queue(faulty: Faulty) -> AsyncIterator[JobQueue]:
    """Run a queue over that storage."""
    async with JobQueue(Guard(faulty), OPTIONS).running() as queue:
        yield queue


def job(**fields: Any) -> NewJob:
    """Return a job to be submitted."""
    return NewJob(id=new_id(), type="build", **fields)


@pytest.mark.parametrize("error", [ConnectionError("gone"), KeyError("bug"), OutcomeUnknown("lost")])
async def test_a_write_of_unknown_outcome_is_repeated(queue: JobQueue, faulty: Faulty, error: Exception) -> None:
    """A write that failed after it was stored is repeated with the same ids, and answered as if it had not failed."""
    faulty.after = times(1, "enqueue", error)
    stored = await queue.submit([job()])
    assert stored.created == (True,)
    faulty.after = times(1, "claim", error)
    claimed = await queue.request(KEYS, confirm=False, wait=5)
    assert claimed is not None
    faulty.after = times(1, "finish", error)
    await queue.finish(claimed.token, b"1", failed=False)
    assert (await queue.get(Lookup(claimed.job_id, None))).state is JobState.FINISHED
    assert (await faulty.info()).jobs["finished"] == 1


async def test_one_item_that_always_fails_takes_no_other_with_it(queue: JobQueue, faulty: Faulty) -> None:
    """A batch that keeps failing is repeated item by item: only the item that causes it gets the error."""
    poison = job(priority=7)

    def fail(method: str, items: Sequence[Any]) -> None:
        if method == "enqueue" and any(one.priority == 7 for jobs in items for one in jobs):
            raise RuntimeError("indigestible")

    faulty.before = fail
    answers = await asyncio.gather(
        *[queue.submit([one]) for one in [job(), job(), poison, job()]], return_exceptions=True
    )
    assert [isinstance(one, OutcomeUnknown) for one in answers] == [False, False, True, False]
    assert (await faulty.info()).jobs["ready"] == 3


@pytest.mark.parametrize("error", [StorageFull("full"), Unavailable("away")])
async def test_a_storage_that_refuses_is_not_called_for_each_item(
    queue: JobQueue, faulty: Faulty, error: Exception
) -> None:
    """A storage that is full or unavailable is not called for each item, and every caller gets the error."""
    faulty.before = times(10**6, "enqueue", error)
    answers = await asyncio.gather(*[queue.submit([job()]) for _ in range(50)], return_exceptions=True)
    assert {type(one) for one in answers} == {type(error)}
    assert len(faulty.calls) <= 4


async def test_a_waiter_outlives_an_outage(queue: JobQueue, faulty: Faulty) -> None:
    """A waiter outlives an outage of the storage and gets the first job after it; a new request gets the error."""
    waiting = asyncio.create_task(queue.request(KEYS, confirm=False, wait=30))
    await faulty.called.wait()
    faulty.before = times(10**6, "claim", Unavailable("away"))
    await queue.submit([job()])
    with pytest.raises(Unavailable):
        await queue.request(KEYS, confirm=False, wait=30)
    assert not waiting.done()
    faulty.before = lambda _method, _items: None
    claimed = await asyncio.wait_for(waiting, 10)
    assert claimed is not None


async def test_a_slow_storage_is_a_longer_wait(queue: JobQueue, faulty: Faulty) -> None:
    """A timeout of the storage does not fail a wait: the wait goes on, or ends without a job."""
    faulty.before = times(10**6, "claim", TimeoutError())
    assert await queue.request(KEYS, confirm=False, wait=0.1) is None
    faulty.before = times(2, "claim", TimeoutError())
    await queue.submit([job()])
    assert await queue.request(KEYS, confirm=False, wait=10) is not None


async def test_news_that_got_lost_cost_latency_only(queue: JobQueue, faulty: Faulty) -> None:
    """A job whose news was lost is found by the periodic check."""
    waiting = asyncio.create_task(queue.request(KEYS, confirm=False, wait=30))
    await faulty.called.wait()
    await faulty.enqueue([[job()]])
    assert await asyncio.wait_for(waiting, 5) is not None


async def test_a_canceled_wait_releases_its_job(queue: JobQueue) -> None:
    """A request that is canceled at any moment of its claim gets no job, and the next request gets it, uncounted."""
    stored = await queue.submit([job()])
    for count in range(9):  # ten uncounted requeues in a row are the most
        requesting = asyncio.create_task(queue.request(KEYS, confirm=False, wait=30))
        for _ in range(count):
            await asyncio.sleep(0)
        if requesting.done():
            got = requesting.result()
            assert got is not None
            queue.release_undelivered(got.token)
        requesting.cancel()
        await asyncio.wait([requesting])
    claimed = await asyncio.wait_for(queue.request(KEYS, confirm=False, wait=30), 5)
    assert claimed is not None
    assert (await queue.get(Lookup(stored.jobs[0].id, None))).retries == 0


async def test_payload_in_a_call_is_bounded(queue: JobQueue, faulty: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    """Submissions, progress and results that come together share a call only up to a number of bytes."""
    await asyncio.gather(*[queue.submit([job(args=b"1234567")]) for _ in range(3)])
    assert [count for called, count in faulty.calls if called == "enqueue"] == [3]
    tokens = [claimed.token for _ in range(3) if (claimed := await queue.request(KEYS, confirm=False, wait=5))]
    for kind in (batcher.Batcher, batcher.ConcurrentBatcher):
        monkeypatch.setattr(kind, "max_bytes", 10)
    faulty.calls.clear()
    await asyncio.gather(*[queue.submit([job(args=b"123"), job(), job(args=b"123")]) for _ in range(3)])
    await asyncio.gather(*[queue.progress(token, b"123456") for token in tokens])
    await asyncio.gather(*[queue.delivered(token) for token in tokens])
    await asyncio.gather(*[queue.finish(token, b"123456", failed=False) for token in tokens])
    calls = [(called, count) for called, count in faulty.calls if called != "claim"]
    assert calls == [("enqueue", 1)] * 3 + [("touch", 1)] * 3 + [("touch", 3)] + [("finish", 1)] * 3


async def test_a_driver_that_coalesces_is_called_at_once(queue: JobQueue, faulty: Faulty) -> None:
    """A write waits for the end of the call before it, unless the driver gathers concurrent calls by itself."""
    let_go = asyncio.Event()
    enqueue = faulty.enqueue

    async def slowly(submissions: Sequence[Any]) -> Any:
        await let_go.wait()
        return await enqueue(submissions)

    faulty.enqueue = slowly  # type: ignore[method-assign]
    writes = []
    for _ in range(3):
        writes.append(asyncio.create_task(queue.submit([job()])))
        for _ in range(10):
            await asyncio.sleep(0)
    calls = faulty.calls.count(("enqueue", 1))
    let_go.set()
    await asyncio.gather(*writes)
    assert calls == (3 if faulty.capabilities.coalesces else 1)


async def test_a_write_outlives_its_caller(queue: JobQueue, faulty: Faulty) -> None:
    """A client that goes away cancels its handler, not a write that has begun."""
    new = job(args=b"1")
    submitting = asyncio.create_task(queue.submit([new]))
    await asyncio.sleep(0)
    submitting.cancel()
    await asyncio.wait([submitting])
    await faulty.called.wait()
    assert (await queue.get(Lookup(new.id, None))).state is JobState.READY
    assert await queue.payload(await queue.get(Lookup(new.id, None)), PayloadKind.ARGS) == b"1"


async def test_errors_of_an_item_are_its_own(queue: JobQueue) -> None:
    """Of one call of the driver each caller gets its own answer or error."""
    answers = await asyncio.gather(
        queue.submit([job()]), queue.submit([job(dependencies=(new_id(),))]), return_exceptions=True
    )
    assert isinstance(answers[1], UnknownDependency)
    assert not isinstance(answers[0], BaseException)
    with pytest.raises(TokenNotFound):
        await queue.touch(new_id())


async def test_the_guard_names_the_driver(faulty: Faulty) -> None:
    """A bug in a driver becomes a `DriverError` that names it, a timeout a `DriverTimeout`, and a cancel passes."""
    guard = Guard(faulty)
    cause = KeyError("bug")
    for error, expected in [(cause, DriverError), (TimeoutError(), DriverTimeout)]:
        faulty.before = times(1, "touch", error)
        with pytest.raises(expected, match="memory: touch") as raised:
            await guard.touch([])
        assert raised.value.__cause__ is error
    faulty.before = times(1, "touch", asyncio.CancelledError())  # type: ignore[arg-type]
    with pytest.raises(asyncio.CancelledError):
        await guard.touch([])


async def test_a_storage_that_hangs(queue: JobQueue, faulty: Faulty, caplog: pytest.LogCaptureFixture) -> None:
    """While every write hangs until it times out, nobody waits for more than two calls, and the log has one line."""
    ends = asyncio.Event()
    enqueue = faulty.enqueue
    calls: list[int] = []

    async def hang(submissions: Sequence[Any]) -> Any:
        calls.append(len(submissions))
        await ends.wait()
        raise TimeoutError

    await queue.submit([job()])
    await queue.request(KEYS, confirm=False, wait=5)
    faulty.enqueue = hang  # type: ignore[method-assign]
    with caplog.at_level("WARNING"):
        first = [asyncio.ensure_future(queue.submit([job()]))]
        await turns(5)
        first += [asyncio.ensure_future(queue.submit([job()])) for _ in range(2 * MAX_ITEMS)]
        await turns(5)
        ends.set()
        answers = await asyncio.gather(*first, return_exceptions=True)
    tried = 1 + (2 if faulty.capabilities.coalesces else 1) * MAX_ITEMS
    assert [type(one) for one in answers] == [OutcomeUnknown] * tried + [Unavailable] * (len(answers) - tried)
    assert sum(calls) == tried
    assert caplog.messages == [
        f"{BEGINS}; enqueue failed: memory: enqueue: the storage took too long",
    ]
    caplog.clear()
    faulty.enqueue = enqueue  # type: ignore[method-assign]
    with caplog.at_level("WARNING"):
        await queue.submit([job()])
    (message,) = caplog.messages
    assert re.fullmatch(rf"the storage answers again after [0-9.]+ s; failed calls: {len(calls)}", message)


async def test_a_storage_that_never_answers(queue: JobQueue, faulty: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers of a driver that never answers get an error; what it does later stands, and a late job is released."""
    monkeypatch.setattr(jobqueue, "ANSWER_WITHIN", 2.0)
    goes_on = asyncio.Event()
    found = {name: getattr(faulty, name) for name in ("enqueue", "claim")}

    def hanging(name: str) -> Any:
        async def call(items: Sequence[Any], *more: Any, **named: Any) -> Any:
            await goes_on.wait()
            return await found[name](items, *more, **named)

        return call

    ready = (await queue.submit([job()])).jobs[0]
    new = job()
    faulty.enqueue = hanging("enqueue")  # type: ignore[method-assign]
    faulty.claim = hanging("claim")  # type: ignore[method-assign]
    submitting = asyncio.ensure_future(queue.submit([new]))
    requesting = asyncio.ensure_future(queue.request(KEYS, confirm=False, wait=None))
    await turns(10)
    later = asyncio.ensure_future(queue.submit([job()]))
    await turns(10)
    assert queue.oldest_write == 0.0
    for _ in range(2):
        queue._pulse.beats += 1
        queue._pulse._on_beat()
    assert queue.oldest_write == 2.0
    answers = await asyncio.gather(submitting, requesting, later, return_exceptions=True)
    unknown = OutcomeUnknown if faulty.capabilities.coalesces else Unavailable
    assert [type(one) for one in answers] == [OutcomeUnknown, Unavailable, unknown]
    goes_on.set()
    del faulty.enqueue
    await queue.submit([job()])
    await turns(100)
    for job_id in (new.id, ready.id):
        assert (await queue.get(Lookup(job_id, None))).state is JobState.READY
    assert (await queue.get(Lookup(ready.id, None))).retries == 0


async def test_leases_that_could_not_be_renewed(
    queue: JobQueue, faulty: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a heartbeat failed or hangs, `grace` is called before `advance`; not because a read took too long."""
    called: asyncio.Queue[str] = asyncio.Queue()
    advance = faulty.advance

    async def recorded_grace() -> None:
        called.put_nowait("grace")

    async def recorded_advance(limit: int) -> Any:
        called.put_nowait("advance")
        return await advance(limit)

    monkeypatch.setattr(faulty, "grace", recorded_grace)
    monkeypatch.setattr(faulty, "advance", recorded_advance)
    await queue.submit([job()])
    claimed = await queue.request(KEYS, confirm=False, wait=5)
    assert claimed is not None

    async def calls() -> list[str]:
        while not called.empty():
            called.get_nowait()
        return [await called.get() for _ in range(2)]

    assert await calls() == ["advance", "advance"]
    faulty.before = times(2, "touch", Unavailable("away"))
    with pytest.raises(Unavailable):
        await queue.touch(claimed.token)
    assert sorted(await calls()) == ["advance", "grace"]
    assert await calls() == ["advance", "advance"]
    monkeypatch.setattr(jobqueue, "HANGS_AFTER", -1.0)
    assert sorted(await calls()) == ["advance", "grace"]

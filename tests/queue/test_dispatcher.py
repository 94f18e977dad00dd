"""The dispatcher: rounds of claims, answers to waiters, and what happens to those that leave."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from uuid import UUID

import pytest

from composerd.driver import Batch
from composerd.errors import ComposerdError, DriverTimeout, Unavailable
from composerd.gate import Gate
from composerd.ids import new_id
from composerd.models import Claim, Claimed, Key, News
from composerd.queue import Account, keys_for
from composerd.queue import dispatcher as dispatcher_module
from composerd.queue.batcher import MAX_BYTES
from composerd.queue.dispatcher import Dispatcher
from composerd.queue.pulse import Pulse
from composerd_fs import MemoryDriver

X, Y = Key("", "x", None), Key("", "y", None)

ROOM = 4 * MAX_BYTES
"""Bytes of args that may be in memory."""


class Jobs(MemoryDriver):
    """A driver that hands out jobs by key, pauses, fails, and answers as few claims as a test says."""

    def __init__(self) -> None:
        super().__init__()
        self.ready: list[Key] = []
        self.calls: list[list[UUID]] = []
        self.called = asyncio.Event()
        self.let_go = asyncio.Event()
        self.let_go.set()
        self.errors: list[ComposerdError] = []
        self.most = 1000
        self.args: bytes | None = None
        self.news = News()

    async def claim(self, requests: Sequence[Claim], max_bytes: int) -> Batch[Claimed | None]:
        """Decide the claims, and answer when the test lets go."""
        assert 0 < max_bytes <= MAX_BYTES
        self.calls.append([request.token for request in requests])
        outcomes = [self._claim(request) for request in requests[: self.most]] if not self.errors else []
        self.called.set()
        await self.let_go.wait()
        if self.errors:
            raise self.errors.pop(0)
        return Batch(outcomes, self.news)

    def _claim(self, request: Claim) -> Claimed | None:
        for key in self.ready:
            if key in request.keys:
                self.ready.remove(key)
                return Claimed(request.token, new_id(), key, self.args, (), 1)
        return None


class Waiters:
    """A dispatcher over such a driver, and what it released and published."""

    def __init__(self) -> None:
        self.driver = Jobs()
        self.released: list[UUID] = []
        self.news: list[News] = []
        self.account = Account("jobs", ROOM, 1)
        self.pulse = Pulse(lambda: None)
        self.dispatcher = Dispatcher(
            self.driver,
            self.account,
            Gate(),
            lambda waiter: self.released.append(waiter.claim.token),
            self.news.append,
            self.pulse,
        )
        self.claims: list[Claim] = []

    def wait(self, *keys: Key, wait: float | None = None, client: str = "") -> "asyncio.Task[Claimed | None]":
        """Begin to wait for a job of the keys."""
        claim = Claim(new_id(), keys or (X,), 60.0)
        self.claims.append(claim)
        return asyncio.create_task(self.dispatcher.wait_for_job(self.dispatcher.waiter(claim, client), wait))

    async def sleeping(self, *keys: Key, wait: float | None = None) -> "asyncio.Task[Claimed | None]":
        """Begin to wait, and return when it is known that there is no job."""
        waiting = self.wait(*keys, wait=wait)
        token = self.claims[-1].token
        await until(lambda: any(one.claim.token == token and one.asleep for one in self.dispatcher._list.everyone()))
        await self.idle()
        return waiting

    async def idle(self) -> None:
        """Wait until no round of claims is under way."""
        await until(lambda: self.dispatcher._task is None)

    def submit(self, *keys: Key) -> None:
        """Let jobs become ready, and publish that."""
        self.driver.ready.extend(keys)
        self.dispatcher.heat(News(ready={key: keys.count(key) for key in keys}))


async def until(true: Callable[[], bool]) -> None:
    """Let the loop run until something is true."""
    while not true():  # noqa: ASYNC110  # what is waited for sets no event
        await asyncio.sleep(0)


@pytest.fixture
async def waiters(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Waiters]:
    """Return a dispatcher without waiters; a storage that failed is tried again soon."""
    monkeypatch.setattr(dispatcher_module, "RETRY_AFTER", 0.01)
    waiters = Waiters()
    yield waiters
    waiters.driver.let_go.set()
    await waiters.dispatcher.close()


async def test_a_ready_job_is_handed_out_at_once(waiters: Waiters) -> None:
    """A waiter whose first claim finds a job gets it, and the news of the claim is published."""
    waiters.driver.ready = [X]
    waiters.driver.news = News(due_in=7.0)
    claimed = await waiters.wait(X)
    assert claimed is not None
    assert (claimed.token, claimed.key) == (waiters.claims[0].token, X)
    assert waiters.news == [News(due_in=7.0)]
    assert waiters.released == []


async def test_a_waiter_without_patience_makes_one_claim(waiters: Waiters) -> None:
    """A wait of no length finds a job that is ready, and ends with None if there is none."""
    assert await waiters.wait(X, wait=0) is None
    waiters.driver.ready = [X]
    assert await waiters.wait(X, wait=0) is not None


async def test_a_wait_ends_when_its_time_is_up(waiters: Waiters) -> None:
    """A waiter that found nothing is answered with None after its time, without another claim."""
    waiting = await waiters.sleeping(X, wait=0.05)
    assert await waiting is None
    assert len(waiters.driver.calls) == 1
    assert not waiters.dispatcher._list


async def test_time_that_is_up_during_a_claim(waiters: Waiters) -> None:
    """If the time is up while a claim is under way, its outcome is the answer."""
    waiters.driver.ready = [X]
    waiters.driver.let_go.clear()
    found, in_vain = waiters.wait(X, wait=0.01), waiters.wait(X, wait=0.01)
    await until(lambda: all(waiter.expired for waiter in waiters.dispatcher._list.everyone()))
    assert not found.done()
    waiters.driver.let_go.set()
    assert await found is not None
    assert await in_vain is None


async def test_time_that_is_up_during_a_later_claim(waiters: Waiters) -> None:
    """A waiter that was woken gets the job of its claim, although its time is up before the claim is answered."""
    waiting = await waiters.sleeping(X, wait=0.05)
    waiters.driver.let_go.clear()
    waiters.submit(X)
    await until(lambda: all(waiter.expired for waiter in waiters.dispatcher._list.everyone()))
    assert not waiting.done()
    waiters.driver.let_go.set()
    assert await waiting is not None
    assert waiters.released == []


async def test_news_wakes_the_newest_waiter(waiters: Waiters) -> None:
    """One job that becomes ready wakes one waiter of its key."""
    older = await waiters.sleeping(X)
    newer = await waiters.sleeping(X)
    other = await waiters.sleeping(Y)
    waiters.driver.calls.clear()
    waiters.submit(X)
    claimed = await newer
    assert claimed is not None
    assert waiters.driver.calls == [[waiters.claims[1].token]]
    assert not older.done()
    assert not other.done()


async def test_lost_news_is_made_up_for(waiters: Waiters) -> None:
    """A recheck, by itself or in news, lets a waiter of each key claim."""
    first = await waiters.sleeping(X)
    waiters.driver.ready = [X]
    waiters.dispatcher.recheck()
    assert await first is not None
    second = await waiters.sleeping(X)
    waiters.driver.ready = [X]
    waiters.dispatcher.heat(News(recheck=True))
    assert await second is not None


async def test_no_claim_without_waiters(waiters: Waiters) -> None:
    """News and rechecks make no claim while nobody waits."""
    waiters.submit(X)
    waiters.dispatcher.recheck()
    assert waiters.dispatcher._task is None
    assert waiters.driver.calls == []


async def test_requests_that_come_together_claim_together(waiters: Waiters) -> None:
    """Requests of one turn of the loop share a call of the driver, the oldest first; later ones join the next."""
    waiters.driver.ready = [X, X]
    waiters.driver.let_go.clear()
    first = [waiters.wait(X) for _ in range(3)]
    await waiters.driver.called.wait()
    later = waiters.wait(X)
    await until(lambda: len(waiters.dispatcher._list) == 4)
    waiters.driver.let_go.set()
    assert [await one is not None for one in first[:2]] == [True, True]
    tokens = [claim.token for claim in waiters.claims]
    await waiters.idle()
    assert waiters.driver.calls == [tokens[:3], tokens[3:]]
    assert not later.done()


async def test_claims_that_were_not_answered_are_made_again(waiters: Waiters) -> None:
    """If the driver answers a part of a round, the rest is claimed again, with the same tokens in the same order."""
    waiters.driver.ready = [X, X, X]
    waiters.driver.most = 1
    claimed = await asyncio.gather(*[waiters.wait(X) for _ in range(3)])
    tokens = [claim.token for claim in waiters.claims]
    assert [one.token for one in claimed if one is not None] == tokens
    assert waiters.driver.calls == [tokens, tokens[1:], tokens[2:]]


async def test_a_job_of_a_waiter_that_left_is_released(waiters: Waiters) -> None:
    """A waiter that is canceled during its claim gets no job: the job is released when the claim is answered."""
    waiters.driver.ready = [X]
    waiters.driver.let_go.clear()
    leaving = waiters.wait(X)
    await waiters.driver.called.wait()
    leaving.cancel()
    await asyncio.wait([leaving])
    assert waiters.released == []
    waiters.driver.let_go.set()
    await waiters.idle()
    assert waiters.released == [waiters.claims[0].token]


async def test_a_job_that_was_on_its_way_is_released(waiters: Waiters) -> None:
    """A waiter that is canceled after its claim was answered, before it could run, has its job released."""
    waiters.driver.ready = [X]
    leaving = waiters.wait(X)
    await until(lambda: len(waiters.driver.calls) == 1)
    while not leaving.done():
        if waiters.dispatcher._list:
            await asyncio.sleep(0)
            continue
        leaving.cancel()
        await asyncio.wait([leaving])
    assert leaving.cancelled()
    assert waiters.released == [waiters.claims[0].token]


async def test_a_waiter_that_leaves_without_a_job(waiters: Waiters) -> None:
    """A waiter that is canceled while it sleeps leaves nothing behind."""
    leaving = await waiters.sleeping(X)
    leaving.cancel()
    await asyncio.wait([leaving])
    assert not waiters.dispatcher._list
    assert waiters.released == []


async def test_a_new_waiter_gets_the_error_of_the_storage(waiters: Waiters) -> None:
    """If its first claim fails twice, a waiter gets the error, and what the claim may have done is released."""
    waiters.driver.errors = [Unavailable("away")] * 2
    with pytest.raises(Unavailable, match="away"):
        await waiters.wait(X)
    assert waiters.released == [waiters.claims[0].token]
    assert not waiters.dispatcher._list


async def test_a_waiter_outlives_an_outage(waiters: Waiters) -> None:
    """A waiter whose later claim fails claims again with the same token, after a pause."""
    waiting = await waiters.sleeping(X)
    waiters.driver.errors = [Unavailable("away")] * 4
    waiters.submit(X)
    claimed = await waiting
    assert claimed is not None
    assert claimed.token == waiters.claims[0].token
    assert len(waiters.driver.calls) == 1 + 4 + 1
    assert waiters.released == []


async def test_a_slow_storage_is_no_error(waiters: Waiters) -> None:
    """A new waiter stays if the storage took too long, and is answered with None if its time is up meanwhile."""
    waiters.driver.errors = [DriverTimeout("slow")] * 2
    waiters.driver.ready = [X]
    assert await waiters.wait(X) is not None
    waiters.driver.errors = [DriverTimeout("slow")] * 2
    waiters.driver.let_go.clear()
    waiting = waiters.wait(X, wait=0)
    await until(lambda: any(waiter.expired for waiter in waiters.dispatcher._list.everyone()))
    waiters.driver.let_go.set()
    assert await waiting is None
    assert waiters.released == [waiters.claims[1].token]


async def test_a_waiter_that_left_during_a_failed_claim(waiters: Waiters) -> None:
    """A job that a failed claim may have taken for a waiter that left is released."""
    await waiters.sleeping(Y)
    waiters.driver.errors = [DriverTimeout("slow")] * 2
    waiters.driver.let_go.clear()
    waiters.driver.called.clear()
    leaving = waiters.wait(X)
    await waiters.driver.called.wait()
    leaving.cancel()
    await asyncio.wait([leaving])
    waiters.driver.let_go.set()
    await until(lambda: bool(waiters.released))
    assert waiters.released == [waiters.claims[1].token]


@pytest.mark.parametrize("end", ["deadline", "share", "gone"])
async def test_a_wait_that_ends_before_a_claim_is_repeated(
    waiters: Waiters, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """A job that a failed claim may have taken is released if the wait ends before the claim is made again."""
    monkeypatch.setattr(dispatcher_module, "RETRY_AFTER", 0.1)
    waiting = await waiters.sleeping(X)
    waiters.driver.errors = [DriverTimeout("slow")] * 2
    waiters.submit(X)
    (waiter,) = waiters.dispatcher._list.everyone()
    await until(lambda: waiter.unknown and not waiter.claiming)
    if end == "deadline":
        waiters.dispatcher.expire(waiter)
        assert await waiting is None
    elif end == "share":
        waiters.account.hold("", ROOM // 2)
        with pytest.raises(Unavailable):
            await waiting
    else:
        waiting.cancel()
        await asyncio.wait([waiting])
    assert waiters.released == [waiter.claim.token]


async def test_no_claims_while_too_much_is_in_memory(waiters: Waiters) -> None:
    """While the budget is used up no job is claimed, because its args need memory; a job is claimed after that."""
    waiters.driver.ready = [X]
    waiters.account.hold("other", ROOM)
    waiting = waiters.wait(X)
    await until(lambda: waiters.account._freed is not None)
    assert waiters.driver.calls == []
    waiters.account.free("other", 1)
    assert await waiting is not None


async def test_waits_end_while_too_much_is_in_memory(waiters: Waiters) -> None:
    """While there is no room for args a wait ends at its deadline, whether it began before or after that."""
    waiters.account.hold("other", ROOM)
    waiting = [waiters.wait(X, wait=0.01)]
    await until(lambda: waiters.account._freed is not None)
    waiting.append(waiters.wait(X, wait=0.01))
    assert await asyncio.wait_for(asyncio.gather(*waiting), 60) == [None, None]
    assert waiters.driver.calls == []


async def test_a_client_beyond_its_share_gets_no_job(waiters: Waiters) -> None:
    """A client whose jobs in memory fill its share is refused another job, and other clients get jobs."""
    waiters.driver.ready = [X, X]
    waiters.account.hold("greedy", ROOM // 2)
    refused = waiters.wait(X, client="greedy")
    served = waiters.wait(X, client="other")
    with pytest.raises(Unavailable):
        await refused
    assert await served is not None
    waiters.account.free("greedy", ROOM // 2)
    assert await waiters.wait(X, client="greedy") is not None


async def test_args_count_until_they_are_delivered(waiters: Waiters) -> None:
    """Args that are not small count for the client from the claim on until they are delivered."""
    waiters.driver.args = b"x" * 20_000
    waiters.driver.ready = [X]
    claimed = await waiters.wait(X, client="one")
    assert waiters.account.of("one") == 20_000
    assert claimed is not None
    waiters.dispatcher.delivered(claimed, "one")
    assert waiters.account.used == 0


async def test_draining_answers_every_waiter(waiters: Waiters) -> None:
    """Waiters that sleep are answered with None, one that claims gets its outcome, and no request waits any more."""
    sleeping = await waiters.sleeping(Y)
    waiters.driver.let_go.clear()
    waiters.driver.called.clear()
    found, in_vain = waiters.wait(X), waiters.wait(X)
    waiters.driver.ready = [X]
    await waiters.driver.called.wait()
    waiters.dispatcher.drain()
    assert await sleeping is None
    assert not found.done()
    assert await waiters.wait(X) is None
    closing = asyncio.create_task(waiters.dispatcher.close())
    await asyncio.sleep(0)
    assert not closing.done()
    waiters.driver.let_go.set()
    await closing
    assert await found is not None
    assert await in_vain is None


async def test_draining_during_a_claim_that_is_not_answered(waiters: Waiters) -> None:
    """A waiter whose claim was not looked at, or failed, is answered with None when the dispatcher drains."""
    waiting = await waiters.sleeping(Y)
    waiters.driver.let_go.clear()
    waiters.driver.called.clear()
    waiters.driver.most = 1
    waiters.driver.ready = [X]
    found, not_looked_at = waiters.wait(X), waiters.wait(X)
    await waiters.driver.called.wait()
    waiters.dispatcher.drain()
    waiters.driver.let_go.set()
    assert await found is not None
    assert await not_looked_at is None
    assert await waiting is None


async def test_closing_does_not_wait_for_a_pause(waiters: Waiters, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dispatcher that leaves a failing storage alone for a while closes at once."""
    monkeypatch.setattr(dispatcher_module, "RETRY_AFTER", 3600)
    waiting = await waiters.sleeping(X)
    waiters.driver.errors = [Unavailable("away")] * 2
    waiters.submit(X)
    await until(lambda: not waiters.driver.errors and not waiters.dispatcher._claiming)
    await asyncio.wait_for(waiters.dispatcher.close(), 60)
    assert await waiting is None
    assert waiters.dispatcher._task is None


async def test_closing_does_not_wait_for_room(waiters: Waiters) -> None:
    """A dispatcher that waits until there is room in memory for another job closes at once."""
    waiters.account.hold("other", ROOM)
    waiting = waiters.wait(X)
    await until(lambda: waiters.account._freed is not None)
    await asyncio.wait_for(waiters.dispatcher.close(), 60)
    assert await waiting is None
    assert waiters.driver.calls == []


def test_the_keys_of_a_worker() -> None:
    """For each type, once, a worker takes jobs of its arch and jobs without one."""
    assert keys_for("c", ["a", "b", "a"], "x86_64") == (
        Key("c", "a", "x86_64"),
        Key("c", "a", None),
        Key("c", "b", "x86_64"),
        Key("c", "b", None),
    )

"""Tests of news: whom a call wakes, and when `advance` is needed."""

import asyncio
from collections.abc import Callable

import pytest

from composerd.driver import Driver
from composerd.models import Claim, Key, News, OnDependencyFailure, Outcome
from composerd.testing.kit.clause import clause
from composerd.testing.kit.instance import BUILD, LEASE, PLENTY, Instance, due_within

ARRIVES_WITHIN = 10.0
"""The longest that news may take to reach another server, in seconds."""


class NewsOfCalls:
    """News: whom a call wakes, and when `advance` is needed."""

    @clause("N1", "N4")
    async def test_news_of_a_submission(self, instance: Instance) -> None:
        """The news says how many jobs of each key became ready, and when a delayed one does."""
        first = instance.new()
        jobs = [
            first,
            instance.new(),
            instance.new(first.id),
            instance.new(arch="x86_64"),
            instance.new(not_before=50.0),
        ]
        news = (await instance.driver.enqueue([jobs])).news
        assert news.ready.get(BUILD, 0) >= 2
        assert news.ready.get(Key("", "build", "x86_64"), 0) >= 1
        assert due_within(news.due_in, 50.0)

    @clause("N1", "N2")
    @pytest.mark.parametrize("failed", [False, True])
    async def test_news_of_an_end(self, instance: Instance, failed: bool) -> None:
        """The news says which jobs ended, those that failed with a dependency included, and which became ready."""
        job_id = await instance.add(type="first")
        strict = await instance.add(job_id, on_dependency_failure=OnDependencyFailure.FAIL)
        await instance.add(job_id, type="other")
        token = await instance.take(keys=(Key("", "first", None),))
        news = await instance.advance_until_idle((await instance.driver.finish([Outcome(token, b"1", failed)])).news)
        assert set(news.ended) == ({job_id, strict} if failed else {job_id})
        assert set(news.ready) >= ({Key("", "other", None)} if failed else {Key("", "other", None), BUILD})

    @clause("N2")
    async def test_news_of_a_cancel(self, instance: Instance) -> None:
        """The news says which jobs ended, dependents included."""
        job_id = await instance.add()
        near = await instance.add(job_id)
        far = await instance.add(near)
        news = await instance.advance_until_idle((await instance.driver.cancel([job_id])).news)
        assert set(news.ended) == {job_id, near, far}

    @clause("N2")
    async def test_news_of_a_lost_job(self, instance: Instance) -> None:
        """The news of `advance` says which job failed because its last lease expired."""
        job_id = await instance.add(max_retries=0)
        await instance.take_confirmed()
        await instance.shift(610.0)
        assert job_id in (await instance.advance_until_idle((await instance.driver.advance(10)).news)).ended

    @clause("N1", "N3")
    async def test_news_of_a_release(self, instance: Instance) -> None:
        """The news says that the job was requeued and is ready."""
        job_id = await instance.add()
        news = (await instance.driver.release([await instance.take()])).news
        assert news.requeued == (job_id,)
        assert news.ready.get(BUILD, 0) >= 1

    @clause("N3", "N4")
    async def test_news_of_a_retry(self, instance: Instance) -> None:
        """The news says that the job was requeued, not that it ended, and when its backoff is over."""
        job_id = await instance.add(retry_on_failure=1, retry_backoff=100.0)
        news = (await instance.driver.finish([Outcome(await instance.take(), b"1", failed=True)])).news
        assert (news.requeued, news.ended) == ((job_id,), ())
        assert due_within(news.due_in, 100.0)

    @clause("N1", "N3", "N4")
    async def test_news_of_an_expired_lease(self, instance: Instance) -> None:
        """The news of `advance` says what was requeued and became ready, and when `advance` is needed next."""
        job_id = await instance.add()
        await instance.take()
        assert due_within((await instance.driver.advance(10)).news.due_in, LEASE)
        await instance.shift(LEASE + 10.0)
        news = (await instance.driver.advance(10)).news
        assert news.requeued == (job_id,)
        assert news.ready.get(BUILD, 0) >= 1
        assert news.due_in != 0

    @clause("N6")
    async def test_news_of_what_nobody_answered(self, instance: Instance) -> None:
        """The news of `advance` says which attempts have ended because no worker called, and names no others."""
        answered, unanswered = await instance.add(), await instance.add(max_retries=0)
        await instance.touch(await instance.take(answered))
        await instance.take(unanswered)
        await instance.shift(LEASE + 10.0)
        news = await instance.advance_until_idle((await instance.driver.advance(10)).news)
        assert news.unanswered == (unanswered,)
        assert set(news.requeued) == {answered, unanswered}
        released = (await instance.driver.release([await instance.take()])).news
        assert released.unanswered == ()

    @clause("N1", "N4")
    async def test_news_of_a_delay(self, instance: Instance) -> None:
        """The news of `advance` says that a delayed job became ready, and before that when it does."""
        await instance.add(not_before=100.0)
        assert due_within((await instance.driver.advance(10)).news.due_in, 100.0)
        await instance.shift(110.0)
        assert (await instance.driver.advance(10)).news.ready.get(BUILD, 0) >= 1

    @clause("N4")
    @pytest.mark.parametrize(
        ("timeout", "handover", "due"),
        [(None, None, LEASE), (None, 50.0, 50.0), (20.0, None, 20.0), (20.0, 50.0, 20.0)],
        ids=["lease", "handover", "timeout", "timeout and handover"],
    )
    async def test_news_of_a_claim(
        self, instance: Instance, timeout: float | None, handover: float | None, due: float
    ) -> None:
        """The news says when the lease, the handover or the job's timeout is over, whichever is first."""
        await instance.add(timeout=timeout)
        batch = await instance.driver.claim([Claim(instance.id(), (BUILD,), LEASE, handover)], PLENTY)
        assert due_within(batch.news.due_in, due)

    @clause("N5", needs="shared")
    async def test_news_of_another_server(self, instance: Instance) -> None:
        """`watch` reports what another server made ready and ended, or that everything has to be checked again."""
        other = await instance.another()
        await other.start()
        begun = asyncio.Event()
        arrived: list[News] = []
        watching = asyncio.create_task(_listen(other, arrived, begun))
        try:
            await begun.wait()
            async with asyncio.timeout(ARRIVES_WITHIN):
                await instance.add(channel="before")  # repeated until the other server listens
                while not await _arrived(
                    arrived, lambda news: news.recheck or any(key.channel == "before" for key in news.ready)
                ):
                    await instance.add(channel="before")
                arrived.clear()
                job_id = await instance.add()
                await instance.end(job_id)
                while not await _arrived(arrived, lambda news: news.recheck or job_id in news.ended):
                    pass
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


async def _listen(driver: Driver, arrived: list[News], begun: asyncio.Event) -> None:
    watch = driver.watch()
    begun.set()
    async for news in watch:
        arrived.append(news)  # noqa: PERF401  # each is noticed when it arrives


async def _arrived(arrived: list[News], wanted: Callable[[News], bool]) -> bool:
    """Return True if matching news has arrived; let other tasks run first."""
    await asyncio.sleep(0.01)
    return any(wanted(news) for news in arrived)

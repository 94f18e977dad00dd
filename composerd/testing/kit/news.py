"""News: who is to be woken, and when time is to be looked at."""

import asyncio
from collections.abc import Callable

import pytest

from composerd.driver import Driver
from composerd.models import Claim, Key, News, OnDependencyFailure, Outcome
from composerd.testing.kit.clause import clause
from composerd.testing.kit.instance import ANY, LEASE, PLENTY, Instance, due_within

ARRIVES_WITHIN = 10.0
"""How long news may take to another server, in seconds."""


class NewsOfCalls:
    """News: who is to be woken, and when time is to be looked at."""

    @clause("N1", "N4")
    async def test_a_submission_is_told(self, instance: Instance) -> None:
        """How many jobs of each key became ready, and when a delayed one does."""
        first = instance.new()
        jobs = [
            first,
            instance.new(),
            instance.new(first.id),
            instance.new(arch="x86_64"),
            instance.new(not_before=50.0),
        ]
        news = (await instance.driver.enqueue([jobs])).news
        assert news.ready.get(ANY, 0) >= 2
        assert news.ready.get(Key("", "build", "x86_64"), 0) >= 1
        assert due_within(news.due_in, 50.0)

    @clause("N1", "N2")
    @pytest.mark.parametrize("failed", [False, True])
    async def test_an_end_is_told(self, instance: Instance, failed: bool) -> None:
        """Which jobs ended, those that failed with it included, and which became ready by it."""
        job_id = await instance.add(type="first")
        strict = await instance.add(job_id, on_dependency_failure=OnDependencyFailure.FAIL)
        await instance.add(job_id, type="other")
        token = await instance.take(keys=(Key("", "first", None),))
        news = await instance.advance_until_idle((await instance.driver.finish([Outcome(token, b"1", failed)])).news)
        assert set(news.ended) == ({job_id, strict} if failed else {job_id})
        assert set(news.ready) >= ({Key("", "other", None)} if failed else {Key("", "other", None), ANY})

    @clause("N2")
    async def test_a_cancel_is_told(self, instance: Instance) -> None:
        """Which jobs ended, those that depend on it included."""
        job_id = await instance.add()
        near = await instance.add(job_id)
        far = await instance.add(near)
        news = await instance.advance_until_idle((await instance.driver.cancel([job_id])).news)
        assert set(news.ended) == {job_id, near, far}

    @clause("N2")
    async def test_an_end_by_time_is_told(self, instance: Instance) -> None:
        """Which job failed by its last lease."""
        job_id = await instance.add(max_retries=0)
        await instance.take()
        await instance.shift(610.0)
        assert job_id in (await instance.advance_until_idle((await instance.driver.advance(10)).news)).ended

    @clause("N1", "N3")
    async def test_a_release_is_told(self, instance: Instance) -> None:
        """Which job returned, and that it is ready."""
        job_id = await instance.add()
        news = (await instance.driver.release([await instance.take()])).news
        assert news.requeued == (job_id,)
        assert news.ready.get(ANY, 0) >= 1

    @clause("N3", "N4")
    async def test_a_retry_is_told(self, instance: Instance) -> None:
        """Which job returned after a failure, and when its backoff is over; it has not ended."""
        job_id = await instance.add(retry_on_failure=1, retry_backoff=100.0)
        news = (await instance.driver.finish([Outcome(await instance.take(), b"1", failed=True)])).news
        assert (news.requeued, news.ended) == ((job_id,), ())
        assert due_within(news.due_in, 100.0)

    @clause("N1", "N3", "N4")
    async def test_the_end_of_a_lease_is_told(self, instance: Instance) -> None:
        """What returned and what became ready by `advance`, and when that is next needed."""
        job_id = await instance.add()
        await instance.take()
        assert due_within((await instance.driver.advance(10)).news.due_in, LEASE)
        await instance.shift(LEASE + 10.0)
        news = (await instance.driver.advance(10)).news
        assert news.requeued == (job_id,)
        assert news.ready.get(ANY, 0) >= 1
        assert news.due_in != 0

    @clause("N1", "N4")
    async def test_a_delay_is_told(self, instance: Instance) -> None:
        """A job whose time has come is told as ready; until then `advance` says when."""
        await instance.add(not_before=100.0)
        assert due_within((await instance.driver.advance(10)).news.due_in, 100.0)
        await instance.shift(110.0)
        assert (await instance.driver.advance(10)).news.ready.get(ANY, 0) >= 1

    @clause("N4")
    @pytest.mark.parametrize(
        ("timeout", "handover", "due"),
        [(None, None, LEASE), (None, 50.0, 50.0), (20.0, None, 20.0), (20.0, 50.0, 20.0)],
        ids=["lease", "handover", "timeout", "timeout and handover"],
    )
    async def test_the_end_of_a_claim_is_told(
        self, instance: Instance, timeout: float | None, handover: float | None, due: float
    ) -> None:
        """A claim says when its hand-over or lease ends, or its job's timeout, whatever is first."""
        await instance.add(timeout=timeout)
        batch = await instance.driver.claim([Claim(instance.id(), (ANY,), LEASE, handover)], PLENTY)
        assert due_within(batch.news.due_in, due)

    @clause("N5", needs="shared")
    async def test_what_another_server_did_is_told(self, instance: Instance) -> None:
        """What one server made ready and ended, `watch` tells another; or that it is to look for itself."""
        other = await instance.another()
        await other.start()
        begun = asyncio.Event()
        heard: list[News] = []
        watching = asyncio.create_task(_listen(other, heard, begun))
        try:
            await begun.wait()
            async with asyncio.timeout(ARRIVES_WITHIN):
                await instance.add(channel="before")  # until the other listens, again and again
                while not await _heard(
                    heard, lambda news: news.recheck or any(key.channel == "before" for key in news.ready)
                ):
                    await instance.add(channel="before")
                heard.clear()
                job_id = await instance.add()
                await instance.end(job_id)
                while not await _heard(heard, lambda news: news.recheck or job_id in news.ended):
                    pass
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


async def _listen(driver: Driver, heard: list[News], begun: asyncio.Event) -> None:
    watch = driver.watch()
    begun.set()
    async for news in watch:
        heard.append(news)  # noqa: PERF401  # each is heard as it comes


async def _heard(heard: list[News], wanted: Callable[[News], bool]) -> bool:
    """Whether it was heard by now; somebody else gets a turn first."""
    await asyncio.sleep(0.01)
    return any(wanted(news) for news in heard)

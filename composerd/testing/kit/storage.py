"""The storage itself: made, opened, owned, closed; what it says of itself."""

import asyncio

import pytest

from composerd.driver import Driver
from composerd.errors import StorageUnusable, StorageURLError
from composerd.models import JobState
from composerd.testing.kit.clause import clause
from composerd.testing.kit.instance import ANY, PLENTY, Store

LEAST_SUBMISSION = 1000
LEAST_PAYLOAD = 32 * 1024 * 1024


class Storages:
    """The storage itself: made, opened, owned, closed; what it says of itself."""

    @clause("S1", opened=False)
    async def test_an_unknown_option(self, store: Store) -> None:
        """An option that nobody knows is an error that names it."""
        driver = type(store.driver)
        with pytest.raises(StorageURLError, match="no-such-option"):
            driver.from_url(f"{driver.name}:///tmp/nowhere?no-such-option=1")

    @clause("S2", opened=False)
    async def test_a_storage_that_is_not_there(self, store: Store) -> None:
        """Without `create` a storage that is not there is unusable, and is not made by looking."""
        for _ in range(2):
            driver = await store.another()
            with pytest.raises(StorageUnusable):
                await driver.start(create=False)
            await driver.close()
        await store.driver.start()
        assert await store.dump() == []

    @clause("S2", needs="durable")
    async def test_a_storage_that_is_there(self, store: Store) -> None:
        """Without `create` a storage that is there is opened as with it."""
        job_id = await store.add()
        await store.driver.close()
        store.driver = store.again()
        await store.driver.start(create=False)
        assert await store.state(job_id) is JobState.READY

    @clause("S3", opened=False)
    async def test_closing_twice(self, store: Store) -> None:
        """Close is fine twice, on a driver that never started, and after a start that failed."""
        driver = await store.another()
        await driver.close()
        driver = await store.another()
        with pytest.raises(StorageUnusable):
            await driver.start(create=False)
        await store.driver.start()
        await store.add()
        for one in (driver, store.driver):
            await one.close()
            await one.close()

    @clause("S4", needs="durable", opened=False)
    async def test_migrated_again(self, store: Store) -> None:
        """A storage can be brought up to date as often as one likes, before it is there and after, and what is in it stays."""
        for _ in range(2):
            await (await _closed_after_migrating(store)).close()
        await store.driver.start()
        job_id = await store.add()
        await store.driver.close()
        await (await _closed_after_migrating(store)).close()
        store.driver = store.again()
        await store.driver.start()
        assert await store.state(job_id) is JobState.READY

    @clause("S4", needs="shared", opened=False)
    async def test_migrated_by_two_at_once(self, store: Store) -> None:
        """Two servers may start on a new storage at once."""
        other = await store.another()
        await asyncio.gather(store.driver.start(), other.start())
        job_id = await store.add()
        assert [one and one.id for one in await other.get([job_id])] == [job_id]

    @clause("S5")
    async def test_a_ping(self, store: Store) -> None:
        """A storage that takes writes says so; one that cannot be reached any more does not."""
        await store.driver.ping()
        await store.add()
        await store.driver.ping()

    @clause("S6")
    async def test_info_counts(self, store: Store) -> None:
        """How many jobs are in each state."""
        await store.add(not_before=50.0)
        await store.add()
        await store.end((await store.submit(store.new(priority=1))).jobs[0].id)
        canceled = await store.add()
        await store.cancel(canceled)
        await store.delete(canceled)
        info = await store.driver.info()
        assert {state: count for state, count in info.jobs.items() if count} == {
            "waiting": 1,
            "ready": 1,
            "finished": 1,
        }
        assert info.description

    @clause("S7", needs="durable", opened=False)
    async def test_a_whole_storage(self, store: Store) -> None:
        """A whole storage has no problems, its jobs are counted, and it is as it was."""
        with pytest.raises(StorageUnusable):
            await (await store.another()).check()
        await store.driver.start()
        await store.add()
        await store.end((await store.submit(store.new(priority=1))).jobs[0].id)
        running = await store.take(await store.add(priority=1))
        before = await store.dump()
        await store.driver.close()
        unopened = await store.another()
        found = await unopened.check()
        await unopened.close()
        assert found.problems == ()
        assert {state: n for state, n in found.jobs.items() if n} == {"ready": 1, "running": 1, "finished": 1}
        store.driver = store.again()
        await store.driver.start()
        assert await store.dump() == before
        assert (await store.release(running)).state == "running"

    @clause("S8", needs="durable")
    async def test_one_owner(self, store: Store) -> None:
        """While a storage that is not shared is open nobody else opens it; its owner goes on undisturbed."""
        job_id = await store.add()
        other = await store.another()
        if store.driver.capabilities.shared:
            await other.start()
            assert [one and one.id for one in await other.get([job_id])] == [job_id]
            return
        with pytest.raises(StorageUnusable):
            await other.start()
        await other.close()
        assert await store.state(job_id) is JobState.READY
        await store.add()
        await store.driver.close()
        store.driver = store.again()
        await store.driver.start()
        assert len(await store.dump()) == 2

    @clause("S9")
    async def test_the_clock_runs_ahead(self, store: Store) -> None:
        """The clock runs ahead by what it is told, all at once, and goes on from there."""
        first = await store.get(await store.add())
        await store.shift(1000.0)
        second = await store.get(await store.add())
        third = await store.get(await store.add())
        assert 1000.0 <= (second.queued_at - first.queued_at).total_seconds() < 1060.0
        assert second.queued_at <= third.queued_at

    @clause("S9", needs="durable")
    async def test_time_does_not_go_back(self, store: Store) -> None:
        """A start whose clock is behind begins no earlier than what is stored."""
        await store.shift(5000.0)
        first = await store.get(await store.add())
        await store.driver.close()
        store.driver = store.again()
        await store.driver.start()
        assert (await store.get(await store.add())).queued_at >= first.queued_at

    @clause("G8")
    async def test_a_large_submission(self, store: Store) -> None:
        """A submission of 1,000 jobs is taken, whole, and 1,000 of what it named are claimed at once."""
        assert store.driver.capabilities.max_submission >= LEAST_SUBMISSION
        root = store.new()
        jobs = [root, *[store.new(root.id) for _ in range(LEAST_SUBMISSION - 1)]]
        answer = await store.submit(*jobs)
        assert [job.id for job in answer.jobs] == [job.id for job in jobs]
        await store.end(root.id)
        assert [await store.state(job.id) for job in (jobs[1], jobs[-1])] == [JobState.READY] * 2

    @clause("G8")
    async def test_a_large_payload(self, store: Store) -> None:
        """Args and a result of 32 MiB are taken and come back."""
        assert store.driver.capabilities.max_payload >= LEAST_PAYLOAD
        payload = b'"' + b"x" * (LEAST_PAYLOAD - 2) + b'"'
        job_id = await store.add(args=payload)
        claimed = await store.claim(ANY)
        assert claimed is not None
        assert claimed.args == payload
        await store.finish(claimed.token, payload[::-1])
        assert await store.result(job_id) == payload[::-1]
        assert len((await store.driver.claim([], PLENTY)).items) == 0

    @clause("G1")
    async def test_empty_batches(self, store: Store) -> None:
        """Nothing asked, nothing answered."""
        driver = store.driver
        for batch in [
            await driver.enqueue([]),
            await driver.claim([], PLENTY),
            await driver.touch([]),
            await driver.attach([]),
            await driver.finish([]),
            await driver.release([]),
            await driver.cancel([]),
            await driver.delete([]),
            await driver.advance(10),
            await driver.purge(10),
        ]:
            assert list(batch.items) == []
        assert list(await driver.get([])) == []
        assert list(await driver.payload([])) == []
        assert list(await driver.artifacts([])) == []


async def _closed_after_migrating(store: Store) -> Driver:
    driver = await store.another()
    await driver.migrate()
    await driver.close()
    return driver

"""Tests of the storage itself: URLs, opening, ownership, closing, migrating, checking, the limits."""

import asyncio
from collections.abc import Sequence

import pytest

from composerd.errors import StorageUnusable, StorageURLError
from composerd.models import Artifact, JobFilter, JobState
from composerd.testing.kit.clause import clause
from composerd.testing.kit.instance import BUILD, PLENTY, Instance, add_jobs_in_every_state

LEAST_SUBMISSION = 1000
"""The number of jobs that every driver has to take in one submission."""

LEAST_PAYLOAD = 32 * 1024 * 1024
"""The size of args and results, in bytes, that every driver has to take."""


class Storage:
    """The storage itself: URLs, opening, ownership, closing, migrating, checking, the limits."""

    @clause("S1", opened=False)
    async def test_an_unknown_option(self, instance: Instance) -> None:
        """An unknown option in the URL is an error that names the option."""
        driver = type(instance.driver)
        with pytest.raises(StorageURLError, match="no-such-option"):
            driver.from_url(f"{driver.name}:///tmp/nowhere?no-such-option=1")

    @clause("S2", opened=False)
    async def test_opening_a_missing_storage(self, instance: Instance) -> None:
        """With `create` false, `start` refuses a storage that does not exist, and does not create it."""
        for _ in range(2):
            driver = await instance.another()
            with pytest.raises(StorageUnusable):
                await driver.start(create=False)
            await driver.close()
        await instance.driver.start()
        assert await instance.dump() == []

    @clause("S2", needs="durable")
    async def test_opening_an_existing_storage(self, instance: Instance) -> None:
        """With `create` false, `start` opens a storage that exists."""
        job_id = await instance.add()
        await instance.driver.close()
        instance.driver = instance.make_driver()
        await instance.driver.start(create=False)
        assert await instance.state(job_id) is JobState.READY

    @clause("S3", opened=False)
    async def test_closing_twice(self, instance: Instance) -> None:
        """A driver can be closed twice, also if it was never started and if its start failed."""
        driver = await instance.another()
        await driver.close()
        driver = await instance.another()
        with pytest.raises(StorageUnusable):
            await driver.start(create=False)
        await instance.driver.start()
        await instance.add()
        for one in (driver, instance.driver):
            await one.close()
            await one.close()

    @clause("S4", needs="durable", opened=False)
    async def test_migrated_again(self, instance: Instance) -> None:
        """`migrate` can be repeated, says that there is nothing to do, and keeps what is stored."""
        await instance.driver.start()
        job_id = await instance.add()
        await instance.driver.close()
        for _ in range(2):
            driver = await instance.another()
            assert await driver.migrate() is None
            await driver.close()
        instance.driver = instance.make_driver()
        await instance.driver.start()
        assert await instance.state(job_id) is JobState.READY

    @clause("S4", needs="durable", opened=False)
    async def test_migrating_a_missing_storage(self, instance: Instance) -> None:
        """`migrate` refuses a storage that does not exist, and does not create it."""
        for _ in range(2):
            driver = await instance.another()
            with pytest.raises(StorageUnusable):
                await driver.migrate()
            await driver.close()
        await instance.driver.start()
        assert await instance.dump() == []

    @clause("S4", needs="shared", opened=False)
    async def test_migrated_by_two_at_once(self, instance: Instance) -> None:
        """Two servers can start on a new storage at the same time."""
        other = await instance.another()
        await asyncio.gather(instance.driver.start(), other.start())
        job_id = await instance.add()
        assert [one and one.id for one in await other.get([job_id])] == [job_id]

    @clause("S5")
    async def test_a_ping(self, instance: Instance) -> None:
        """`ping` returns while the storage takes writes."""
        await instance.driver.ping()
        await instance.add()
        await instance.driver.ping()

    @clause("S11")
    async def test_free_space(self, instance: Instance) -> None:
        """`free_space` says how much of the file system is free, not more than its size, or that nobody knows it."""
        space = await instance.driver.free_space()
        assert space is None or 0 <= space.free <= space.size

    @clause("S13")
    async def test_a_secret(self, instance: Instance) -> None:
        """`secret` returns 32 bytes, the same at every call."""
        secret = await instance.driver.secret()
        assert len(secret) == 32
        assert len(set(secret)) > 8
        await instance.add()
        assert await instance.driver.secret() == secret

    @clause("S13", needs="durable")
    async def test_a_secret_is_kept(self, instance: Instance) -> None:
        """The secret is the same after a restart."""
        secret = await instance.driver.secret()
        await instance.reopen()
        assert await instance.driver.secret() == secret

    @clause("S13", needs="shared", opened=False)
    async def test_a_secret_of_servers_that_start_at_one_moment(self, instance: Instance) -> None:
        """Servers that start on a new storage at one moment have the same secret."""
        drivers = [instance.driver, *[await instance.another() for _ in range(4)]]
        await asyncio.gather(*[one.start() for one in drivers])
        secrets = await asyncio.gather(*[one.secret() for one in drivers])
        assert len(set(secrets)) == 1

    @clause("S6")
    async def test_info_counts(self, instance: Instance) -> None:
        """`info` says how many jobs are in each state, and describes the storage."""
        await instance.add(not_before=50.0)
        await instance.add()
        await instance.end((await instance.submit(instance.new(priority=1))).jobs[0].id)
        canceled = await instance.add()
        await instance.cancel(canceled)
        await instance.delete(canceled)
        info = await instance.driver.info()
        assert {state: count for state, count in info.jobs.items() if count} == {
            "waiting": 1,
            "ready": 1,
            "finished": 1,
        }
        assert info.description

    @clause("S7", needs="durable", opened=False)
    async def test_checking_an_intact_storage(self, instance: Instance) -> None:
        """`check` finds no problem in an intact storage, counts its jobs, and changes nothing."""
        with pytest.raises(StorageUnusable):
            await (await instance.another()).check()
        await instance.driver.start()
        await instance.add()
        await instance.end((await instance.submit(instance.new(priority=1))).jobs[0].id)
        running = await instance.take(await instance.add(priority=1))
        before = await instance.dump()
        await instance.driver.close()
        unopened = await instance.another()
        found = await unopened.check()
        await unopened.close()
        assert found.problems == ()
        assert {state: n for state, n in found.jobs.items() if n} == {"ready": 1, "running": 1, "finished": 1}
        instance.driver = instance.make_driver()
        await instance.driver.start()
        assert await instance.dump() == before
        assert (await instance.release(running)).state == "running"

    @clause("S12", needs="durable", opened=False)
    async def test_reading(self, instance: Instance) -> None:
        """`start_reading` opens a storage that exists for `info` and the queries, and creates none."""
        for _ in range(2):
            driver = await instance.another()
            with pytest.raises(StorageUnusable):
                await driver.start_reading()
            await driver.close()
        await instance.driver.start()
        assert await instance.dump() == []
        await add_jobs_in_every_state(instance)
        before, counted = await instance.dump(), (await instance.driver.info()).jobs
        await instance.driver.close()
        reader = await instance.another()
        await instance.set_clock(reader)
        assert list(await reader.start_reading(alone=True)) == []
        assert [job async for job in reader.dump()] == before
        assert (await reader.info()).jobs == counted
        ids = [one.new.id for one in reversed(before)]
        assert [job.id for job in (await reader.list(JobFilter(), None, 1000)).jobs] == ids
        assert list(await reader.artifacts(ids)) == [_by_name(one.artifacts) for one in reversed(before)]
        await reader.close()

    @clause("S12", needs="durable")
    async def test_a_reader_is_no_server(self, instance: Instance) -> None:
        """After a storage was only read, a start finds the clock as the last server has left it."""
        job_id = await instance.add(retention=5000.0)
        await instance.end(job_id)
        await instance.driver.close()
        instance.jumped += 3000.0
        reader = await instance.another()
        await instance.set_clock(reader)
        await reader.start_reading()
        await reader.info()
        await reader.close()
        instance.jumped += 3000.0
        instance.driver = instance.make_driver()
        await instance.set_clock(instance.driver)
        await instance.driver.start()
        await instance.pass_time(70.0)
        assert list((await instance.driver.purge(10)).items) == []

    @clause("S8", needs="durable")
    async def test_one_owner(self, instance: Instance) -> None:
        """While a storage that is not shared is open, it cannot be opened again, and its owner is not disturbed."""
        job_id = await instance.add()
        other = await instance.another()
        if instance.driver.capabilities.shared:
            await other.start()
            assert [one and one.id for one in await other.get([job_id])] == [job_id]
            return
        with pytest.raises(StorageUnusable):
            await other.start()
        await other.close()
        assert await instance.state(job_id) is JobState.READY
        await instance.add()
        await instance.driver.close()
        instance.driver = instance.make_driver()
        await instance.driver.start()
        assert len(await instance.dump()) == 2

    @clause("G8")
    async def test_a_large_submission(self, instance: Instance) -> None:
        """A submission of 1,000 jobs is stored whole, and all its jobs become ready."""
        assert instance.driver.capabilities.max_submission >= LEAST_SUBMISSION
        root = instance.new()
        jobs = [root, *[instance.new(root.id) for _ in range(LEAST_SUBMISSION - 1)]]
        answer = await instance.submit(*jobs)
        assert [job.id for job in answer.jobs] == [job.id for job in jobs]
        await instance.end(root.id)
        assert [await instance.state(job.id) for job in (jobs[1], jobs[-1])] == [JobState.READY] * 2

    @clause("G8")
    async def test_a_large_payload(self, instance: Instance) -> None:
        """Args and a result of 32 MiB are stored and come back."""
        assert instance.driver.capabilities.max_payload >= LEAST_PAYLOAD
        payload = b'"' + b"x" * (LEAST_PAYLOAD - 2) + b'"'
        job_id = await instance.add(args=payload)
        claimed = await instance.claim(BUILD)
        assert claimed is not None
        assert claimed.args == payload
        await instance.finish(claimed.token, payload[::-1])
        assert await instance.result(job_id) == payload[::-1]
        assert len((await instance.driver.claim([], PLENTY)).items) == 0

    @clause("G1")
    async def test_empty_batches(self, instance: Instance) -> None:
        """A call with an empty sequence is answered with an empty sequence."""
        driver = instance.driver
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


def _by_name(artifacts: Sequence[Artifact]) -> tuple[Artifact, ...]:
    return tuple(sorted(artifacts, key=lambda one: one.name))

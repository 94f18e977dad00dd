"""Tests of what a driver counts of the jobs of each channel: jobs, payloads and artifacts."""

import asyncio
from uuid import UUID

from composerd.driver import Usage
from composerd.models import Artifact, Attachment, JobState, Key, OnDependencyFailure, Outcome
from composerd.testing.kit.clause import clause
from composerd.testing.kit.instance import Instance

NEEDS = "counts_usage"

OWN = "own"
"""The channel of the jobs."""

KEY = Key(OWN, "build", None)


async def used(instance: Instance, channel: str = OWN) -> Usage:
    """Return what the jobs of a channel use."""
    (found,) = await instance.driver.usage([channel])
    return found


async def attach(instance: Instance, token: UUID, name: str, size: int) -> None:
    """Attach a file of some size."""
    await instance.driver.attach([Attachment(token, Artifact(name, size, "ab" * 32, f"{name}{size}"))])


async def some_of_each_kind(instance: Instance) -> Usage:
    """Let one job finish, one run and one wait, the first two with a file, and return what they use."""
    job_id = await instance.add(channel=OWN, args=b"1234")
    token = await instance.take(job_id, (KEY,))
    await attach(instance, token, "a", 8)
    await instance.finish(token, b"56")
    await instance.add(channel=OWN, args=b"7")
    token = await instance.take(keys=(KEY,), lease=1000.0)
    await attach(instance, token, "b", 9)
    await instance.add(channel=OWN, args=None)
    found = await used(instance)
    assert found == Usage(1, 1, 7, 17)
    return found


class UsageOfChannels:
    """Use of the storage: what is counted for each channel, and that it stays right."""

    @clause("Q1", needs=NEEDS)
    async def test_jobs_are_counted(self, instance: Instance) -> None:
        """Jobs that wait or are ready count as waiting, jobs that run as running, and ended ones as neither."""
        first = await instance.add(channel=OWN, args=None)
        await instance.add(first, channel=OWN, args=None)
        await instance.add(channel=OWN, args=None, not_before=1000.0)
        assert await used(instance) == Usage(waiting=3)
        token = await instance.take(first, (KEY,))
        assert await used(instance) == Usage(waiting=2, running=1)
        await instance.finish(token, b"")
        assert await used(instance) == Usage(waiting=2)

    @clause("Q1", needs=NEEDS)
    async def test_channels_are_counted_apart(self, instance: Instance) -> None:
        """Each channel is answered with its own jobs, in the order of the call, and one without jobs with nothing."""
        await instance.add(channel=OWN, args=b"1234")
        for _ in range(2):
            await instance.add(args=b"12")
        answers = await instance.driver.usage(["", "unused", OWN, ""])
        assert answers == [Usage(2, 0, 4, 0), Usage(), Usage(1, 0, 4, 0), Usage(2, 0, 4, 0)]
        assert await instance.driver.usage([]) == []

    @clause("Q1", needs=NEEDS)
    async def test_requeued_jobs_are_counted_once(self, instance: Instance) -> None:
        """A job that is released, whose lease expires, or whose failed outcome is retried, waits again."""
        job_id = await instance.add(channel=OWN, args=b"1", retry_on_failure=1)
        await instance.release(await instance.take(job_id, (KEY,)))
        assert await used(instance) == Usage(1, 0, 1, 0)
        await instance.take(job_id, (KEY,), lease=50.0)
        await instance.pass_time(60.0)
        assert await used(instance) == Usage(1, 0, 1, 0)
        await instance.finish(await instance.take(job_id, (KEY,)), b"not kept", failed=True)
        assert await used(instance) == Usage(1, 0, 1, 0)

    @clause("Q1", "Q2", needs=NEEDS)
    async def test_dependents_that_end_are_counted(self, instance: Instance) -> None:
        """Dependents that fail or are canceled with a job count as waiting no more, and their results count."""
        first = await instance.add(channel=OWN, args=None)
        failing = await instance.add(first, channel=OWN, args=b"123", on_dependency_failure=OnDependencyFailure.FAIL)
        await instance.add(failing, channel=OWN, args=None)
        await instance.finish(await instance.take(first, (KEY,)), b"", failed=True)
        result = await instance.result(failing)
        assert result is not None
        assert await used(instance) == Usage(waiting=1, payloads=3 + len(result))
        last = await instance.add(channel=OWN, args=None)
        await instance.add(last, channel=OWN, args=None)
        await instance.cancel(last)
        assert await used(instance) == Usage(waiting=1, payloads=3 + len(result))

    @clause("Q2", needs=NEEDS)
    async def test_payloads_are_counted(self, instance: Instance) -> None:
        """Args and results count with their sizes, small and large, until their job is deleted; progress does not."""
        large = b'"' + b"x" * 100_000 + b'"'
        job_id = await instance.add(channel=OWN, args=large)
        token = await instance.take(job_id, (KEY,))
        await instance.touch(token, b'"half"')
        assert (await used(instance)).payloads == len(large)
        for _ in range(2):
            await instance.finish(token, b"12")
            assert await used(instance) == Usage(payloads=len(large) + 2)
        small = await instance.add(channel=OWN, args=b"123")
        await instance.finish(await instance.take(small, (KEY,)), large)
        assert await used(instance) == Usage(payloads=2 * len(large) + 5)
        await instance.delete(job_id)
        assert await used(instance) == Usage(payloads=len(large) + 3)

    @clause("Q2", "Q3", needs=NEEDS)
    async def test_purged_jobs_are_counted_no_more(self, instance: Instance) -> None:
        """A job that is purged gives back what its payloads and its files had."""
        job_id = await instance.add(channel=OWN, args=b"123", retention=100.0)
        token = await instance.take(job_id, (KEY,))
        await attach(instance, token, "a", 1000)
        await instance.finish(token, b"4567")
        assert await used(instance) == Usage(0, 0, 7, 1000)
        await instance.pass_time(1000.0)
        assert (await instance.driver.purge(10)).items == [job_id]
        assert await used(instance) == Usage()

    @clause("Q3", needs=NEEDS)
    async def test_artifacts_are_counted(self, instance: Instance) -> None:
        """Files count from when they are attached, a replaced one no more, and go on to count when the job ends."""
        job_id = await instance.add(channel=OWN, args=None)
        token = await instance.take(job_id, (KEY,))
        for name, size, total in [("a", 5, 5), ("b", 2**40, 2**40 + 5), ("a", 3, 2**40 + 3), ("a", 3, 2**40 + 3)]:
            await attach(instance, token, name, size)
            assert await used(instance) == Usage(0, 1, 0, total)
        await instance.finish(token, b"")
        assert await used(instance) == Usage(artifacts=2**40 + 3)
        await instance.delete(job_id)
        assert await used(instance) == Usage()

    @clause("Q3", needs=NEEDS)
    async def test_files_of_attempts_that_end_without_their_job(self, instance: Instance) -> None:
        """Files of an attempt that is released, expires, fails and is retried, or is canceled count no more."""
        job_id = await instance.add(channel=OWN, args=None, retry_on_failure=1)
        for end in ("released", "expired", "retried", "canceled"):
            token = await instance.take(job_id, (KEY,), lease=50.0)
            await attach(instance, token, "a", 9)
            assert (await used(instance)).artifacts == 9
            if end == "released":
                await instance.release(token)
            elif end == "expired":
                await instance.pass_time(60.0)
            elif end == "retried":
                await instance.finish(token, b"", failed=True)
                await instance.pass_time(60.0)
            else:
                await instance.cancel(job_id)
            assert await used(instance) == Usage(waiting=0 if end == "canceled" else 1)

    @clause("Q4", needs=NEEDS)
    async def test_refused_submissions_are_not_counted(self, instance: Instance) -> None:
        """Submissions that are refused, and repetitions, count nothing."""
        job = instance.new(channel=OWN, idempotency_key="k", fingerprint=b"f")
        for _ in range(2):
            await instance.submit(job)
        again = instance.new(channel=OWN, idempotency_key="k", fingerprint=b"f")
        await instance.submit(again)
        await instance.driver.enqueue([[instance.new(channel=OWN), instance.new(instance.id(), channel=OWN)]])
        assert await used(instance) == Usage(waiting=1, payloads=len(job.args or b""))

    @clause("Q4", needs=NEEDS)
    async def test_many_calls_at_once_are_counted(self, instance: Instance) -> None:
        """Of concurrent calls, each is counted once."""
        ids = await asyncio.gather(*[instance.add(channel=OWN, args=b"12") for _ in range(30)])
        tokens = await asyncio.gather(*[instance.take(keys=(KEY,)) for _ in range(20)])
        await asyncio.gather(
            *[instance.finish(token, b"345") for token in tokens[:10]],
            *[instance.driver.cancel([job_id]) for job_id in ids[::3]],
            *[instance.driver.finish([Outcome(token, b"345")]) for token in tokens[:10]],
        )
        states = [one.job.state for one in await instance.dump()]
        waiting, running = states.count(JobState.READY), states.count(JobState.RUNNING)
        assert await used(instance) == Usage(waiting, running, 60 + 3 * states.count(JobState.FINISHED))

    @clause("Q4", needs=NEEDS)
    async def test_loaded_jobs_are_counted(self, instance: Instance) -> None:
        """Jobs that are loaded from another storage count, and count once if the load is repeated."""
        before = await some_of_each_kind(instance)
        dumped = await instance.dump()
        await instance.empty()
        assert await used(instance) == Usage()
        for _ in range(2):
            await instance.driver.load(dumped)
            assert await used(instance) == before


class UsageOfOpenedStorages:
    """Use of the storage: the counts after a restart, and with several servers."""

    @clause("Q4", needs=f"{NEEDS} durable")
    async def test_counts_are_kept(self, instance: Instance) -> None:
        """The counts are the same after a restart."""
        before = await some_of_each_kind(instance)
        await instance.reopen()
        assert await used(instance) == before

    @clause("Q4", needs=f"{NEEDS} shared")
    async def test_every_server_counts(self, instance: Instance) -> None:
        """A server counts what others have answered."""
        other = await instance.another_server()
        await instance.add(channel=OWN, args=b"1234")
        assert await used(other) == Usage(1, 0, 4, 0)
        await other.take(keys=(KEY,))
        assert await used(instance) == Usage(0, 1, 4, 0)

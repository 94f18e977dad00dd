"""Tests of submissions: all or nothing, repeatable, with idempotency keys, every field stored."""

import asyncio
from datetime import timedelta

import msgspec
import pytest

from composerd.errors import CanceledDependency, IdempotencyConflict, UnknownDependency
from composerd.models import Enqueued, JobState, OnDependencyFailure
from composerd.testing.kit.clause import clause
from composerd.testing.kit.instance import BUILD, Instance

FAIL = OnDependencyFailure.FAIL


class Submissions:
    """Submissions: all or nothing, repeatable, with idempotency keys, every field stored."""

    @clause("E2")
    async def test_a_job_is_ready_at_once(self, instance: Instance) -> None:
        """A job without dependencies and without `not_before` is ready as soon as it is stored (J2)."""
        job = (await instance.submit(instance.new(priority=3, arch="x86_64", channel="org"))).jobs[0]
        assert job.state is JobState.READY
        assert (job.priority, job.arch, job.channel, job.attempt, job.retries) == (3, "x86_64", "org", 0, 0)
        assert job.started_at is None
        assert job.finished_at is None

    @clause("E2")
    async def test_not_before_may_be_a_time(self, instance: Instance) -> None:
        """`not_before` may be a time on the storage's clock; a time in the past does not delay the job (J1)."""
        queued_at = (await instance.get(await instance.add())).queued_at
        ahead = await instance.add(not_before=queued_at + timedelta(hours=1))
        past = await instance.add(not_before=queued_at - timedelta(hours=1))
        assert (await instance.state(ahead), await instance.state(past)) == (JobState.WAITING, JobState.READY)

    @clause("E1", "E3")
    async def test_unknown_dependency(self, instance: Instance) -> None:
        """A dependency that does not exist is an error that names it, and nothing of the submission is stored."""
        fine, missing = instance.new(), instance.id()
        bad = instance.new(fine.id, missing)
        (error,) = (await instance.driver.enqueue([[fine, bad]])).items
        assert isinstance(error, UnknownDependency)
        assert error.details == {"index": 1, "id": str(missing)}
        assert await instance.driver.get([fine.id, bad.id]) == [None, None]

    @clause("E3")
    async def test_a_dependency_must_come_earlier(self, instance: Instance) -> None:
        """A dependency that comes later in the same submission is unknown."""
        later = instance.new()
        with pytest.raises(UnknownDependency):
            await instance.submit(instance.new(later.id), later)

    @clause("E1", "E4")
    async def test_canceled_dependency(self, instance: Instance) -> None:
        """A canceled dependency is an error that names it, and nothing of the submission is stored."""
        canceled = await instance.add()
        await instance.cancel(canceled)
        fine, bad = instance.new(), instance.new(canceled)
        (error,) = (await instance.driver.enqueue([[fine, bad]])).items
        assert isinstance(error, CanceledDependency)
        assert error.details == {"index": 1, "id": str(canceled)}
        assert await instance.driver.get([fine.id, bad.id]) == [None, None]

    @pytest.mark.parametrize("state", [None, JobState.READY, JobState.FINISHED, JobState.CANCELED])
    @clause("E12")
    async def test_a_dependency_of_another_channel(self, instance: Instance, state: JobState | None) -> None:
        """A dependency of another channel is unknown, whatever its state, and nothing of the submission is stored."""
        foreign = instance.new(channel="other")
        if state is not None:
            await instance.submit(foreign)
        if state is JobState.FINISHED:
            await instance.finish(await instance.take(foreign.id, (BUILD._replace(channel="other"),)))
        if state is JobState.CANCELED:
            await instance.cancel(foreign.id)
        fine, bad = instance.new(), instance.new(foreign.id)
        for jobs in ([fine, bad], [foreign, bad]):
            (error,) = (await instance.driver.enqueue([jobs])).items
            assert isinstance(error, UnknownDependency)
            assert error.details == {"index": 1, "id": str(foreign.id)}
        assert await instance.driver.get([fine.id, bad.id]) == [None, None]

    @clause("E12")
    async def test_a_dependency_that_replaces_one_of_another_channel(self, instance: Instance) -> None:
        """A job that stands for another one by its key may be a dependency in its own channel only."""
        existing = await instance.add(channel="other", idempotency_key="k", fingerprint=b"f")
        again = instance.new(channel="other", idempotency_key="k", fingerprint=b"f")
        (error,) = (await instance.driver.enqueue([[again, instance.new(again.id)]])).items
        assert isinstance(error, UnknownDependency)
        own = instance.new(again.id, channel="other")
        await instance.submit(again, own)
        assert (await instance.get(own.id)).dependencies == (existing,)

    @clause("E12", "M2")
    async def test_old_dependencies_of_another_channel_stay(self, instance: Instance) -> None:
        """Dependencies across channels that a storage has from before the rule are loaded, and ends reach them."""
        first = await instance.add()
        await instance.add(first)
        stored = await instance.dump()
        await instance.empty()
        moved = msgspec.structs.replace(stored[1].new, channel="other")
        job = msgspec.structs.replace(stored[1].job, channel="other")
        await instance.driver.load([stored[0], msgspec.structs.replace(stored[1], new=moved, job=job)])
        assert (await instance.get(moved.id)).dependencies == (first,)
        assert (await instance.get(first)).dependents == (moved.id,)
        await instance.end(first)
        assert await instance.state(moved.id) is JobState.READY

    @clause("G2")
    async def test_submissions_are_independent(self, instance: Instance) -> None:
        """An error in one submission does not affect the others; a later one may depend on an earlier one."""
        first, lost = instance.new(), instance.new(instance.id())
        third = instance.new(first.id)
        answers = (await instance.driver.enqueue([[first], [lost], [third]])).items
        assert [type(answer) for answer in answers] == [Enqueued, UnknownDependency, Enqueued]
        assert (await instance.get(third.id)).dependencies == (first.id,)

    @clause("E6", "G3")
    async def test_a_repetition_is_answered_as_the_first_time(self, instance: Instance) -> None:
        """Submitting the same jobs again stores nothing and gives the same answer."""
        first = instance.new(idempotency_key="k", fingerprint=b"f")
        jobs = [first, instance.new(first.id)]
        answer = await instance.submit(*jobs)
        assert await instance.submit(*jobs) == answer
        assert answer.created == (True, True)
        assert len(await instance.dump()) == 2

    @clause("E6")
    async def test_a_repetition_after_the_end(self, instance: Instance) -> None:
        """Submitting a job again after its end answers that it was created, in its present state, without a change."""
        job = instance.new()
        await instance.submit(job)
        await instance.end(job.id)
        answer = await instance.submit(job)
        assert answer.created == (True,)
        assert answer.jobs[0].state is JobState.FINISHED
        assert await instance.claim() is None

    @clause("E6")
    async def test_a_half_stored_submission_is_completed(self, instance: Instance) -> None:
        """If some jobs of a submission are stored already, the others are stored."""
        first, second = instance.new(), instance.new()
        await instance.submit(first)
        assert (await instance.submit(first, second)).created == (True, True)
        assert len(await instance.dump()) == 2

    @clause("E7")
    async def test_key_across_submissions(self, instance: Instance) -> None:
        """The second use of a key with equal fingerprint and dependencies is answered with the existing job."""
        first = await instance.add(idempotency_key="k", fingerprint=b"f")
        await instance.end(first)
        again = instance.new(idempotency_key="k", fingerprint=b"f")
        for _ in range(2):
            answer = await instance.submit(again)
            assert answer.jobs[0].id == first
            assert answer.jobs[0].state is JobState.FINISHED
            assert answer.created == (False,)
        assert await instance.driver.get([again.id]) == [None]

    @clause("E7")
    async def test_key_within_a_submission(self, instance: Instance) -> None:
        """Two jobs of one submission with the same key are one job."""
        one, two = (instance.new(idempotency_key="k", fingerprint=b"f") for _ in range(2))
        answer = await instance.submit(one, two)
        assert [job.id for job in answer.jobs] == [one.id, one.id]
        assert answer.created == (True, False)

    @pytest.mark.parametrize("same_submission", [False, True])
    @clause("E1", "E8")
    async def test_key_conflict(self, instance: Instance, same_submission: bool) -> None:
        """A key with another fingerprint is a conflict that names the index; nothing of the submission is stored."""
        first = instance.new(idempotency_key="k", fingerprint=b"f")
        fine, other = instance.new(), instance.new(idempotency_key="k", fingerprint=b"g")
        if not same_submission:
            await instance.submit(first)
        jobs = [first, fine, other] if same_submission else [fine, other]
        (error,) = (await instance.driver.enqueue([jobs])).items
        assert isinstance(error, IdempotencyConflict)
        assert error.details == {"index": len(jobs) - 1}
        assert await instance.driver.get([fine.id, other.id]) == [None, None]

    @clause("E8")
    async def test_key_conflict_of_dependencies(self, instance: Instance) -> None:
        """The second use of a key with other dependencies is a conflict."""
        one, two = await instance.add(), await instance.add()
        await instance.add(one, idempotency_key="k", fingerprint=b"f")
        with pytest.raises(IdempotencyConflict):
            await instance.add(two, idempotency_key="k", fingerprint=b"f")

    @clause("E10")
    async def test_keys_belong_to_a_channel(self, instance: Instance) -> None:
        """An idempotency key that is used in two channels stands for two jobs."""
        ids = {await instance.add(idempotency_key="k", fingerprint=b"f", channel=channel) for channel in ("", "a", "b")}
        assert len(ids) == 3
        assert len(await instance.dump()) == 3

    @clause("E9")
    async def test_an_existing_job_replaces_the_new_one(self, instance: Instance) -> None:
        """A dependency on a job whose key exists is on the existing job, also when keys are compared."""
        graph = [instance.new(idempotency_key="root", fingerprint=b"r")]
        graph.append(instance.new(graph[0].id, idempotency_key="leaf", fingerprint=b"l"))
        await instance.submit(*graph)
        root = instance.new(idempotency_key="root", fingerprint=b"r")
        leaf = instance.new(root.id, idempotency_key="leaf", fingerprint=b"l")
        fresh = instance.new(root.id, leaf.id)
        answer = await instance.submit(root, leaf, fresh)
        assert [job.id for job in answer.jobs] == [graph[0].id, graph[1].id, fresh.id]
        assert answer.created == (False, False, True)
        assert answer.jobs[2].dependencies == (graph[0].id, graph[1].id)
        assert (await instance.get(graph[0].id)).dependents == (graph[1].id, fresh.id)

    @clause("E10")
    async def test_a_key_is_free_after_a_delete(self, instance: Instance) -> None:
        """The key of a deleted job may be used for another job."""
        first = await instance.add(idempotency_key="k", fingerprint=b"f")
        await instance.end(first)
        await instance.delete(first)
        assert (await instance.submit(instance.new(idempotency_key="k", fingerprint=b"other"))).created == (True,)

    @clause("E11")
    async def test_repeated_dependencies(self, instance: Instance) -> None:
        """Dependencies are stored as named, repetitions included, and each is waited for once."""
        first = await instance.add()
        job_id = await instance.add(first, first)
        assert (await instance.get(job_id)).dependencies == (first, first)
        await instance.end(first)
        assert await instance.state(job_id) is JobState.READY
        assert (await instance.get(first)).dependents == (job_id,)

    @clause("E11")
    async def test_dependents_are_in_the_order_of_submission(self, instance: Instance) -> None:
        """`dependents` lists a job's dependents in the order of their submission."""
        first = await instance.add()
        ids = tuple([await instance.add(first, priority=n % 2) for n in range(5)])
        assert (await instance.get(first)).dependents == ids

    @clause("E2")
    async def test_every_field_is_stored(self, instance: Instance) -> None:
        """Every field of a job comes back as it was submitted: in the answer, from `get`, and from `dump`."""
        first = instance.new(channel="c")
        job = instance.new(
            first.id,
            type="t",
            arch="a",
            channel="c",
            args=b"[]",
            priority=-7,
            not_before=1000.0,
            timeout=30.0,
            max_retries=5,
            retry_on_failure=2,
            retry_backoff=15.0,
            on_dependency_failure=FAIL,
            idempotency_key="k",
            fingerprint=b"f",
            retention=99.0,
        )
        answer = await instance.submit(first, job)
        found = await instance.get(job.id)
        assert answer.jobs == (msgspec.structs.replace(await instance.get(first.id), dependents=()), found)
        assert (found.type, found.arch, found.channel, found.priority) == ("t", "a", "c", -7)
        assert (found.dependencies, found.idempotency_key) == ((first.id,), "k")
        assert found.not_before is not None
        assert (found.not_before - found.queued_at).total_seconds() == 1000.0
        dumped = (await instance.dump())[1].new
        assert msgspec.structs.replace(dumped, not_before=1000.0) == job

    @clause("E1")
    async def test_a_submission_is_seen_whole(self, instance: Instance) -> None:
        """A reader sees either all jobs of a submission that is being stored, or none."""
        jobs = [instance.new() for _ in range(200)]
        ids = [job.id for job in jobs]
        storing = asyncio.create_task(instance.submit(*jobs))
        seen = set()
        while not storing.done():
            seen.add(sum(one is not None for one in await instance.driver.get(ids)))
        await storing
        seen.add(sum(one is not None for one in await instance.driver.get(ids)))
        assert seen <= {0, 200}
        assert 200 in seen

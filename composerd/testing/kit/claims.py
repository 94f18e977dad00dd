"""Tests of claims: which job a claim gets, only once, and how a repetition is answered."""

from uuid import UUID

import pytest

from composerd.models import AttemptState, Claim, JobState, Key, Touch
from composerd.testing.kit.clause import clause
from composerd.testing.kit.instance import BUILD, LEASE, PLENTY, Instance


class Claims:
    """Claims: which job a claim gets, only once, and how a repetition is answered."""

    @clause("C1")
    async def test_an_attempt_begins(self, instance: Instance) -> None:
        """A claim gets the job with its args; the job is running, with start, attempt and worker (J6, A1)."""
        key = Key("org", "build", "x86_64")
        first = await instance.add(arch=key.arch, channel=key.channel)
        await instance.finish(await instance.take(first, (key,)))
        job_id = await instance.add(first, args=b'{"a": "\\u00e4"}', arch=key.arch, channel=key.channel)
        worker = instance.id()
        (claimed,) = (
            await instance.driver.claim([Claim(instance.id(), (key,), LEASE, worker_id=worker)], PLENTY)
        ).items
        assert claimed is not None
        assert (claimed.job_id, claimed.key, claimed.args) == (job_id, key, b'{"a": "\\u00e4"}')
        assert (claimed.dependencies, claimed.attempt) == ((first,), 1)
        job = await instance.get(job_id)
        assert (job.state, job.worker_id, job.attempt) == (JobState.RUNNING, worker, 1)
        assert job.started_at is not None
        assert job.started_at >= job.queued_at

    @clause("C2")
    async def test_no_ready_job(self, instance: Instance) -> None:
        """If no job of its keys is ready, a claim is answered at once with None."""
        await instance.add(not_before=1000.0)
        assert await instance.claim() is None

    @pytest.mark.parametrize(
        "key",
        [Key("", "other", None), Key("", "build", "x86_64"), Key("org", "build", None)],
        ids=["type", "arch", "channel"],
    )
    @clause("C3")
    async def test_keys_are_exact(self, instance: Instance, key: Key) -> None:
        """A claim gets jobs of its keys only; no key stands for another."""
        await instance.add()
        assert await instance.claim(key) is None
        assert await instance.claim(key, BUILD) is not None

    @clause("C4")
    async def test_priority_then_position(self, instance: Instance) -> None:
        """A claim gets the ready job of highest priority, and of those the one submitted first, whatever its key."""
        other = Key("", "build", "x86_64")
        low = await instance.add(priority=-1)
        ids = [await instance.add(arch="x86_64" if n % 2 else None) for n in range(4)]
        high = await instance.add(priority=2, arch="x86_64")
        assert [await _next(instance, other, BUILD) for _ in range(6)] == [high, *ids, low]

    @clause("C4")
    async def test_the_order_of_submission_counts(self, instance: Instance) -> None:
        """A job keeps the position of its submission while it waits, whenever it becomes ready."""
        first = await instance.add(priority=1)
        waits = await instance.add(first)
        later = await instance.add()
        await instance.end(first)
        assert [await _next(instance, BUILD) for _ in range(2)] == [waits, later]

    @clause("C5")
    async def test_a_requeued_job_is_last_of_its_priority(self, instance: Instance) -> None:
        """A requeued job gets a new position, behind the jobs of its priority and before those of a lower one (J10)."""
        first = await instance.add(priority=1)
        token = await instance.take(first)
        equal, lower = await instance.add(priority=1), await instance.add()
        await instance.release(token)
        assert [await _next(instance, BUILD) for _ in range(3)] == [equal, first, lower]

    @clause("C6", "G1")
    async def test_claims_are_answered_in_order(self, instance: Instance) -> None:
        """The claims of one call are answered in order, each with a different job, or None if there is none."""
        ids = [await instance.add() for _ in range(2)]
        requests = [
            Claim(instance.id(), (Key("", "other", None),), LEASE),
            *[Claim(instance.id(), (BUILD,), LEASE) for _ in range(3)],
        ]
        answers = (await instance.driver.claim(requests, PLENTY)).items
        assert [None if one is None else (one.token, one.job_id) for one in answers] == [
            None,
            (requests[1].token, ids[0]),
            (requests[2].token, ids[1]),
            None,
        ]

    @clause("C7", "G3")
    async def test_a_repetition_is_the_same_job(self, instance: Instance) -> None:
        """A claim with a token whose attempt is running gets the same answer again and takes no second job."""
        await instance.add()
        await instance.add()
        claimed = await instance.claim(token=UUID(int=99))
        assert await instance.claim(token=UUID(int=99)) == claimed
        assert await instance.claim(Key("", "other", None), token=UUID(int=99)) == claimed
        assert len([job for job in await instance.dump() if job.job.state is JobState.RUNNING]) == 1

    @clause("C9")
    async def test_a_repetition_says_if_the_attempt_is_confirmed(self, instance: Instance) -> None:
        """A claim says whether the worker of its attempt has called: not when the attempt begins."""
        for confirms in (False, True):
            await instance.add()
            token = instance.id()
            begun = await instance.claim(token=token)
            assert begun is not None
            assert not begun.confirmed
            if confirms:
                await instance.touch(token)
            else:
                await instance.driver.touch([Touch(token, confirm=False)])
            again = await instance.claim(token=token)
            assert again is not None
            assert again.confirmed is confirms

    @pytest.mark.parametrize(("most", "answered"), [(0, 1), (1, 1), (10, 1), (11, 2), (30, 3), (31, 4)])
    @clause("C8")
    async def test_a_prefix_is_answered(self, instance: Instance, most: int, answered: int) -> None:
        """Once the args of the claimed jobs reach `max_bytes`, no further claims are answered; at least one is."""
        for _ in range(4):
            await instance.add(args=b"1234567890")
        requests = [Claim(instance.id(), (BUILD,), LEASE) for _ in range(4)]
        answers = (await instance.driver.claim(requests, most)).items
        assert len(answers) == answered
        assert None not in answers
        assert len([job for job in await instance.dump() if job.job.state is JobState.READY]) == 4 - answered

    @clause("C8")
    async def test_jobs_without_args_count_nothing(self, instance: Instance) -> None:
        """Jobs without args do not count towards `max_bytes`."""
        for _ in range(3):
            await instance.add(args=None)
        answers = (await instance.driver.claim([Claim(instance.id(), (BUILD,), LEASE) for _ in range(3)], 1)).items
        assert [one is not None and one.args is None for one in answers] == [True] * 3

    @clause("L10")
    async def test_sixteen_tokens_are_remembered(self, instance: Instance) -> None:
        """A token becomes unknown when 16 later attempts at its job have begun, and not before (A7)."""
        await instance.add(max_retries=100)
        tokens = []
        for _ in range(16):
            tokens.append(await instance.take())
            await instance.release(tokens[-1])
        assert await instance.touch(tokens[0]) is AttemptState.SUPERSEDED
        last = await instance.take()
        assert await instance.touch(tokens[0]) is AttemptState.UNKNOWN
        assert await instance.touch(tokens[1]) is AttemptState.SUPERSEDED
        assert await instance.touch(last) is AttemptState.RUNNING

    @clause("C7")
    async def test_an_ended_token_gets_nothing(self, instance: Instance) -> None:
        """A claim with a token whose attempt has ended, for whatever reason, gets None and takes no job."""
        for _ in range(3):
            await instance.add()
        released, finished, canceled = instance.id(), instance.id(), instance.id()
        for token in (released, finished, canceled):
            await instance.claim(token=token)
        await instance.release(released)
        await instance.finish(finished)
        running = [one for one in await instance.dump() if one.job.state is JobState.RUNNING]
        await instance.cancel(running[0].new.id)
        assert [await instance.claim(token=token) for token in (released, finished, canceled)] == [None] * 3
        assert [one for one in await instance.dump() if one.job.state is JobState.RUNNING] == []

    @clause("C3")
    async def test_a_claim_with_many_keys(self, instance: Instance) -> None:
        """A claim with many keys gets the jobs of all of them, and of no others."""
        keys = [Key(channel, kind, arch) for channel in ("", "c") for kind in ("a", "b") for arch in (None, "x", "y")]
        ids = {key: await instance.add(channel=key.channel, type=key.type, arch=key.arch) for key in keys}
        claimed = keys[::2]
        got = [await instance.claim(*claimed) for _ in keys]
        assert {one.job_id: one.key for one in got if one is not None} == {ids[key]: key for key in claimed}

    @clause("C1")
    async def test_a_claim_is_whole(self, instance: Instance) -> None:
        """A claimed job is running and its attempt can be touched at once, until its lease expires."""
        ids = [await instance.add() for _ in range(3)]
        claims = [Claim(instance.id(), (BUILD,), LEASE, worker_id=instance.id()) for _ in range(3)]
        answers = (await instance.driver.claim(claims, PLENTY)).items
        assert [one and one.job_id for one in answers] == ids
        for job_id, claim in zip(ids, claims, strict=True):
            job = await instance.get(job_id)
            assert (job.state, job.worker_id, job.attempt) == (JobState.RUNNING, claim.worker_id, 1)
            assert await instance.touch(claim.token) is AttemptState.RUNNING
        assert set(await instance.pass_time(LEASE + 10.0)) == set(ids)


async def _next(instance: Instance, *keys: Key) -> UUID:
    claimed = await instance.claim(*keys)
    assert claimed is not None
    return claimed.job_id

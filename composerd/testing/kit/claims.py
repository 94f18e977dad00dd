"""Claims: which job, to whom, once; and the repetition of a claim."""

from uuid import UUID

import pytest

from composerd.models import AttemptState, Claim, JobState, Key
from composerd.testing.kit.clause import clause
from composerd.testing.kit.instance import ANY, LEASE, PLENTY, Store


class Claims:
    """Claims: which job, to whom, once; and the repetition of a claim."""

    @clause("C1")
    async def test_an_attempt_begins(self, store: Store) -> None:
        """J6, A1: a claim gets the job with its args; the job runs, and says since when and with whom."""
        first = await store.add()
        await store.end(first)
        job_id = await store.add(first, args=b'{"a": "\\u00e4"}', arch="x86_64", channel="org")
        worker, key = store.id(), Key("org", "build", "x86_64")
        (claimed,) = (await store.driver.claim([Claim(store.id(), (key,), LEASE, worker_id=worker)], PLENTY)).items
        assert claimed is not None
        assert (claimed.job_id, claimed.key, claimed.args) == (job_id, key, b'{"a": "\\u00e4"}')
        assert (claimed.dependencies, claimed.attempt) == ((first,), 1)
        job = await store.get(job_id)
        assert (job.state, job.worker_id, job.attempt) == (JobState.RUNNING, worker, 1)
        assert job.started_at is not None
        assert job.started_at >= job.queued_at

    @clause("C2")
    async def test_nothing_is_nothing(self, store: Store) -> None:
        """Claim: without a ready job of its keys a request is answered at once, with None."""
        await store.add(not_before=1000.0)
        assert await store.claim() is None

    @pytest.mark.parametrize(
        "key",
        [Key("", "other", None), Key("", "build", "x86_64"), Key("org", "build", None)],
        ids=["type", "arch", "channel"],
    )
    @clause("C3")
    async def test_keys_are_exact(self, store: Store, key: Key) -> None:
        """Claim: a request gets jobs of its keys only; no key stands for another."""
        await store.add()
        assert await store.claim(key) is None
        assert await store.claim(key, ANY) is not None

    @clause("C4")
    async def test_priority_then_place(self, store: Store) -> None:
        """Ready order: the highest priority first; among equals who was submitted first, whatever its key."""
        other = Key("", "build", "x86_64")
        low = await store.add(priority=-1)
        ids = [await store.add(arch="x86_64" if n % 2 else None) for n in range(4)]
        high = await store.add(priority=2, arch="x86_64")
        assert [await _next(store, other, ANY) for _ in range(6)] == [high, *ids, low]

    @clause("C4")
    async def test_the_order_of_submission_counts_not_that_of_readiness(self, store: Store) -> None:
        """Ready order: a job keeps the place of its submission while it waits."""
        first = await store.add(priority=1)
        waits = await store.add(first)
        later = await store.add()
        await store.end(first)
        assert [await _next(store, ANY) for _ in range(2)] == [waits, later]

    @clause("C5")
    async def test_what_comes_back_is_behind(self, store: Store) -> None:
        """J10, ready order: a returned job gets a new place, behind those of its priority but before lower ones."""
        first = await store.add(priority=1)
        token = await store.take(first)
        equal, lower = await store.add(priority=1), await store.add()
        await store.release(token)
        assert [await _next(store, ANY) for _ in range(3)] == [equal, first, lower]

    @clause("C6", "G1")
    async def test_a_batch_is_served_in_order(self, store: Store) -> None:
        """Claim: requests of one call are answered in their order, each with another job, None where there is none."""
        ids = [await store.add() for _ in range(2)]
        requests = [
            Claim(store.id(), (Key("", "other", None),), LEASE),
            *[Claim(store.id(), (ANY,), LEASE) for _ in range(3)],
        ]
        answers = (await store.driver.claim(requests, PLENTY)).items
        assert [None if one is None else (one.token, one.job_id) for one in answers] == [
            None,
            (requests[1].token, ids[0]),
            (requests[2].token, ids[1]),
            None,
        ]

    @clause("C7", "G3")
    async def test_a_repetition_is_the_same_job(self, store: Store) -> None:
        """Claim: a token whose attempt runs gets the same answer again, and takes no second job."""
        await store.add()
        await store.add()
        claimed = await store.claim(token=UUID(int=99))
        assert await store.claim(token=UUID(int=99)) == claimed
        assert await store.claim(Key("", "other", None), token=UUID(int=99)) == claimed
        assert len([job for job in await store.dump() if job.job.state is JobState.RUNNING]) == 1

    @pytest.mark.parametrize(("most", "answered"), [(0, 1), (1, 1), (10, 1), (11, 2), (30, 3), (31, 4)])
    @clause("C8")
    async def test_a_prefix_is_answered(self, store: Store, most: int, answered: int) -> None:
        """Claim: once the args reach `max_bytes` the rest of the requests is not looked at; at least one is answered."""
        for _ in range(4):
            await store.add(args=b"1234567890")
        requests = [Claim(store.id(), (ANY,), LEASE) for _ in range(4)]
        answers = (await store.driver.claim(requests, most)).items
        assert len(answers) == answered
        assert None not in answers
        assert len([job for job in await store.dump() if job.job.state is JobState.READY]) == 4 - answered

    @clause("C8")
    async def test_no_args_weigh_nothing(self, store: Store) -> None:
        """Claim: jobs without args do not use up `max_bytes`."""
        for _ in range(3):
            await store.add(args=None)
        answers = (await store.driver.claim([Claim(store.id(), (ANY,), LEASE) for _ in range(3)], 1)).items
        assert [one is not None and one.args is None for one in answers] == [True] * 3

    @clause("L10")
    async def test_sixteen_tokens_are_remembered(self, store: Store) -> None:
        """A7: a token is unknown once 16 later attempts at its job have begun, and not before."""
        await store.add(max_retries=100)
        tokens = []
        for _ in range(16):
            tokens.append(await store.take())
            await store.release(tokens[-1])
        assert await store.touch(tokens[0]) is AttemptState.SUPERSEDED
        last = await store.take()
        assert await store.touch(tokens[0]) is AttemptState.UNKNOWN
        assert await store.touch(tokens[1]) is AttemptState.SUPERSEDED
        assert await store.touch(last) is AttemptState.RUNNING

    @clause("C7")
    async def test_an_ended_token_gets_nothing(self, store: Store) -> None:
        """A token whose attempt has ended, however it did, gets None, and no second job."""
        for _ in range(3):
            await store.add()
        released, finished, canceled = store.id(), store.id(), store.id()
        for token in (released, finished, canceled):
            await store.claim(token=token)
        await store.release(released)
        await store.finish(finished)
        running = [one for one in await store.dump() if one.job.state is JobState.RUNNING]
        await store.cancel(running[0].new.id)
        assert [await store.claim(token=token) for token in (released, finished, canceled)] == [None] * 3
        assert [one for one in await store.dump() if one.job.state is JobState.RUNNING] == []

    @clause("C3")
    async def test_each_key_has_its_jobs(self, store: Store) -> None:
        """A request with many keys gets the jobs of all of them, and of no others."""
        keys = [Key(channel, kind, arch) for channel in ("", "c") for kind in ("a", "b") for arch in (None, "x", "y")]
        ids = {key: await store.add(channel=key.channel, type=key.type, arch=key.arch) for key in keys}
        asked = keys[::2]
        got = [await store.claim(*asked) for _ in keys]
        assert {one.job_id: one.key for one in got if one is not None} == {ids[key]: key for key in asked}

    @clause("C1")
    async def test_a_claim_is_whole(self, store: Store) -> None:
        """What a claim answered is what is stored: the job runs, and its attempt can be touched at once, until it ends."""
        ids = [await store.add() for _ in range(3)]
        claims = [Claim(store.id(), (ANY,), LEASE, worker_id=store.id()) for _ in range(3)]
        answers = (await store.driver.claim(claims, PLENTY)).items
        assert [one and one.job_id for one in answers] == ids
        for job_id, claim in zip(ids, claims, strict=True):
            job = await store.get(job_id)
            assert (job.state, job.worker_id, job.attempt) == (JobState.RUNNING, claim.worker_id, 1)
            assert await store.touch(claim.token) is AttemptState.RUNNING
        assert set(await store.pass_time(LEASE + 10.0)) == set(ids)


async def _next(store: Store, *keys: Key) -> UUID:
    claimed = await store.claim(*keys)
    assert claimed is not None
    return claimed.job_id

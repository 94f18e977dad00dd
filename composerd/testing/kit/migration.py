"""Tests of moving everything from one storage to another."""

import msgspec

from composerd.driver.guard import Guard
from composerd.driver.tokens import hashed
from composerd.models import Artifact, AttemptState, JobFilter, JobState, OnDependencyFailure, Outcome, Touch, Verdict
from composerd.testing.kit.clause import clause
from composerd.testing.kit.instance import Instance, add_jobs_in_every_state


class Migration:
    """Moving everything from one storage to another."""

    @clause("M1")
    async def test_everything_is_dumped(self, instance: Instance) -> None:
        """`dump` returns every job with everything that is stored of it, the oldest submission first."""
        await add_jobs_in_every_state(instance)
        dumped = await instance.dump()
        page = await instance.driver.list(JobFilter(), None, 1000)
        assert [one.new.id for one in dumped] == [job.id for job in reversed(page.jobs)]
        for one in dumped:
            assert one.job == await instance.get(one.new.id)
            assert (one.new.args, one.result) == (await instance.args(one.new.id), await instance.result(one.new.id))
            assert sorted(one.artifacts, key=_name) == list(await instance.artifacts(one.new.id))
            assert [attempt.number for attempt in one.attempts] == list(range(1, one.job.attempt + 1))[-16:]

    @clause("M2")
    async def test_a_loaded_dump_is_dumped_again(self, instance: Instance) -> None:
        """A dump that is loaded into an empty storage is dumped there as it was."""
        await add_jobs_in_every_state(instance)
        dumped = await instance.dump()
        assert {one.job.state for one in dumped} == set(JobState)
        await instance.empty()
        assert await instance.dump() == []
        await instance.driver.load(dumped)
        assert await instance.dump() == dumped

    @clause("M2")
    async def test_loaded_jobs_go_on(self, instance: Instance) -> None:
        """After a load running attempts go on with a full lease, and delays, keys and repetitions still work."""
        await add_jobs_in_every_state(instance)
        dumped = await instance.dump()
        await instance.empty()
        await instance.shift(400.0)
        await instance.driver.load(dumped)
        assert await instance.pass_time(590.0) == []
        states = [one.job.state for one in dumped]
        for one in dumped:
            if one.job.state is JobState.RUNNING:
                token = instance.token_of(one.attempts[-1])
                assert await instance.touch(token) is AttemptState.RUNNING
                assert await instance.finish(token, b"late") is Verdict.ACCEPTED
                assert list(await instance.artifacts(one.new.id)) == list(one.artifacts)
            elif one.attempts and one.attempts[-1].state is AttemptState.FINISHED and one.result is not None:
                token = instance.token_of(one.attempts[-1])
                assert await instance.finish(token, one.result) is Verdict.ACCEPTED
                assert await instance.finish(token, b"another") is Verdict.CONFLICT
            if one.new.idempotency_key is not None:
                assert (await instance.submit(instance.new(idempotency_key="k", fingerprint=b"f"))).jobs[
                    0
                ].id == one.new.id
        ready = states.count(JobState.READY)
        assert len([await instance.take() for _ in range(ready)]) == ready
        assert await instance.claim() is None
        assert len(await instance.pass_time(10_000.0)) >= states.count(JobState.WAITING)

    @clause("M2")
    async def test_hashes_of_tokens(self, instance: Instance) -> None:
        """An attempt that is loaded with the hash of its token is found by the token, and not by the hash."""
        token = await instance.take(await instance.add())
        (dumped,) = await instance.dump()
        attempts = tuple(msgspec.structs.replace(one, token=hashed(token)) for one in dumped.attempts)
        await instance.empty()
        await instance.driver.load([msgspec.structs.replace(dumped, attempts=attempts)])
        (loaded,) = await instance.dump()
        assert loaded.attempts[-1].token == hashed(token)
        server = Guard(instance.driver)
        answers = (await server.touch([Touch(hashed(token)), Touch(token), Touch(instance.id())])).items
        assert [one.state for one in answers] == [AttemptState.UNKNOWN, AttemptState.RUNNING, AttemptState.UNKNOWN]
        outcomes = [Outcome(hashed(token), b"1"), Outcome(token, b"1")]
        verdicts = [one.verdict for one in (await server.finish(outcomes)).items]
        assert verdicts == [Verdict.UNKNOWN, Verdict.ACCEPTED]

    @clause("M3")
    async def test_loaded_twice(self, instance: Instance) -> None:
        """`load` leaves jobs that exist as they are and adds the missing ones."""
        await add_jobs_in_every_state(instance)
        dumped = await instance.dump()
        await instance.empty()
        await instance.driver.load(dumped[: len(dumped) // 2])
        for _ in range(2):
            await instance.driver.load(dumped)
            assert await instance.dump() == dumped
        running = [one for one in dumped if one.job.state is JobState.RUNNING]
        await instance.finish(instance.token_of(running[0].attempts[-1]))
        await instance.driver.load(dumped)
        assert await instance.state(running[0].new.id) is JobState.FINISHED

    @clause("M2")
    async def test_dumped_before_an_end_was_propagated(self, instance: Instance) -> None:
        """An end that had not been propagated when its jobs were dumped is propagated where they are loaded."""
        root = instance.new()
        near = instance.new(root.id)
        strict = instance.new(root.id, on_dependency_failure=OnDependencyFailure.FAIL)
        far = instance.new(strict.id)
        await instance.submit(root, near, strict, far)
        before = {one.new.id: one for one in await instance.dump()}
        await instance.end(root.id, failed=True)
        after = {one.new.id: one for one in await instance.dump()}
        await instance.empty()
        await instance.driver.load([after[root.id], before[near.id], before[strict.id], before[far.id]])
        await instance.advance_until_idle((await instance.driver.advance(10)).news)
        states = [await instance.state(job.id) for job in (near, strict, far)]
        assert states == [JobState.READY, JobState.FAILED, JobState.READY]


def _name(artifact: Artifact) -> str:
    return artifact.name

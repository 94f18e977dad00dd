"""Moving everything out of a storage, and into it."""

from composerd.models import Artifact, AttemptState, JobFilter, JobState, OnDependencyFailure, Verdict
from composerd.testing.kit.clause import clause
from composerd.testing.kit.instance import Store, everything


class Moving:
    """Moving everything out of a storage, and into it."""

    @clause("M1")
    async def test_everything_is_dumped(self, store: Store) -> None:
        """Every job is dumped with all that it has, oldest submission first."""
        await everything(store)
        dumped = await store.dump()
        page = await store.driver.list(JobFilter(), None, 1000)
        assert [one.new.id for one in dumped] == [job.id for job in reversed(page.jobs)]
        for one in dumped:
            assert one.job == await store.get(one.new.id)
            assert (one.new.args, one.result) == (await store.args(one.new.id), await store.result(one.new.id))
            assert sorted(one.artifacts, key=_name) == list(await store.artifacts(one.new.id))
            assert [attempt.number for attempt in one.attempts] == list(range(1, one.job.attempt + 1))[-16:]

    @clause("M2")
    async def test_loaded_as_it_was(self, store: Store) -> None:
        """What was dumped is loaded into an empty storage, and dumps the same."""
        await everything(store)
        dumped = await store.dump()
        assert {one.job.state for one in dumped} == set(JobState)
        await store.empty()
        assert await store.dump() == []
        await store.driver.load(dumped)
        assert await store.dump() == dumped

    @clause("M2")
    async def test_loaded_and_alive(self, store: Store) -> None:
        """In the storage that it was loaded into, everything goes on: running attempts with a full lease, delays, keys."""
        await everything(store)
        dumped = await store.dump()
        await store.empty()
        await store.shift(400.0)
        await store.driver.load(dumped)
        assert await store.pass_time(590.0) == []
        states = [one.job.state for one in dumped]
        for one in dumped:
            if one.job.state is JobState.RUNNING:
                token = one.attempts[-1].token
                assert await store.touch(token) is AttemptState.RUNNING
                assert await store.finish(token, b"late") is Verdict.ACCEPTED
                assert list(await store.artifacts(one.new.id)) == list(one.artifacts)
            elif one.attempts and one.attempts[-1].state is AttemptState.FINISHED and one.result is not None:
                assert await store.finish(one.attempts[-1].token, one.result) is Verdict.ACCEPTED
                assert await store.finish(one.attempts[-1].token, b"another") is Verdict.CONFLICT
            if one.new.idempotency_key is not None:
                assert (await store.submit(store.new(idempotency_key="k", fingerprint=b"f"))).jobs[0].id == one.new.id
        ready = states.count(JobState.READY)
        assert len([await store.take() for _ in range(ready)]) == ready
        assert await store.claim() is None
        assert len(await store.pass_time(10_000.0)) >= states.count(JobState.WAITING)

    @clause("M3")
    async def test_loaded_twice(self, store: Store) -> None:
        """What is there already is left as it is, whatever became of it; what is missing comes."""
        await everything(store)
        dumped = await store.dump()
        await store.empty()
        await store.driver.load(dumped[: len(dumped) // 2])
        for _ in range(2):
            await store.driver.load(dumped)
            assert await store.dump() == dumped
        running = [one for one in dumped if one.job.state is JobState.RUNNING]
        await store.finish(running[0].attempts[-1].token)
        await store.driver.load(dumped)
        assert await store.state(running[0].new.id) is JobState.FINISHED

    @clause("M2")
    async def test_dumped_while_dependents_are_pending(self, store: Store) -> None:
        """What follows from an end that was dumped follows where it is loaded, though the dump was made in between."""
        root = store.new()
        near = store.new(root.id)
        strict = store.new(root.id, on_dependency_failure=OnDependencyFailure.FAIL)
        far = store.new(strict.id)
        await store.submit(root, near, strict, far)
        before = {one.new.id: one for one in await store.dump()}
        await store.end(root.id, failed=True)
        after = {one.new.id: one for one in await store.dump()}
        await store.empty()
        await store.driver.load([after[root.id], before[near.id], before[strict.id], before[far.id]])
        await store.told((await store.driver.advance(10)).news)
        states = [await store.state(job.id) for job in (near, strict, far)]
        assert states == [JobState.READY, JobState.FAILED, JobState.READY]


def _name(artifact: Artifact) -> str:
    return artifact.name

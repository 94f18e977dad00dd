"""Tests of artifacts: files that are attached to an attempt and become the job's when the attempt ends it."""

import asyncio
from uuid import UUID

import pytest

from composerd.artifact_values import Exceeded
from composerd.models import Artifact, Attached, Attachment, AttemptState
from composerd.testing.kit.clause import clause
from composerd.testing.kit.instance import Instance

ERROR = b'{"job_error":{"id":1}}'


class Artifacts:
    """Artifacts: files that are attached to an attempt and become the job's when the attempt ends it."""

    @clause("U1")
    async def test_artifacts_become_the_jobs(self, instance: Instance) -> None:
        """The files that are attached when an attempt ends its job become the job's artifacts, sorted by name (J7)."""
        job_id = await instance.add()
        token = await instance.take()
        for name in ("b", "a"):
            assert await instance.attach(token, name) == (AttemptState.RUNNING, None)
        assert [one.name for one in await instance.artifacts(job_id)] == ["a", "b"]
        await instance.finish(token)
        assert [one.name for one in await instance.artifacts(job_id)] == ["a", "b"]

    @clause("U1")
    async def test_artifacts_of_a_failed_job(self, instance: Instance) -> None:
        """A failed outcome that ends the job makes the attached files its artifacts too (J8)."""
        job_id = await instance.add()
        token = await instance.take()
        await instance.attach(token, "log")
        await instance.finish(token, ERROR, failed=True)
        assert [one.name for one in await instance.artifacts(job_id)] == ["log"]

    @pytest.mark.parametrize("how", ["released", "expired", "canceled", "retried"])
    @clause("U2")
    async def test_artifacts_are_dropped(self, instance: Instance, how: str) -> None:
        """An attempt that ends without an outcome that ends its job leaves no artifacts (J9 to J12)."""
        job_id = await instance.add(retry_on_failure=1)
        token = await instance.take()
        await instance.attach(token, "log")
        if how == "released":
            await instance.release(token)
        elif how == "expired":
            await instance.pass_time(610.0)
        elif how == "canceled":
            await instance.cancel(job_id)
        else:
            await instance.finish(token, ERROR, failed=True)
            await instance.pass_time(110.0)
        assert await instance.artifacts(job_id) == ()
        if how != "canceled":
            await instance.end(job_id)
            assert await instance.artifacts(job_id) == ()

    @clause("U3")
    async def test_an_artifact_is_replaced(self, instance: Instance) -> None:
        """A file replaces an attached one of the same name, and the answer names the location of the replaced one."""
        job_id = await instance.add()
        token = await instance.take()
        await instance.attach(token, "a", "one")
        assert await instance.attach(token, "a", "two") == (AttemptState.RUNNING, "one")
        assert await instance.attach(token, "a", "two") == (AttemptState.RUNNING, None)
        assert [one.location for one in await instance.artifacts(job_id)] == ["two"]

    @clause("U4")
    async def test_an_artifact_is_refused(self, instance: Instance) -> None:
        """A file is refused unless the attempt is running, and the answer says what became of the attempt."""
        job_id = await instance.add()
        first = await instance.take()
        await instance.release(first)
        second = await instance.take()
        assert await instance.attach(first, "a") == (AttemptState.SUPERSEDED, None)
        await instance.finish(second)
        assert await instance.attach(second, "a") == (AttemptState.FINISHED, None)
        assert await instance.attach(instance.id(), "a") == (AttemptState.UNKNOWN, None)
        assert await instance.artifacts(job_id) == ()

    @clause("U5")
    async def test_attaching_renews(self, instance: Instance) -> None:
        """Attaching a file confirms the attempt and gives it a full lease (A2)."""
        await instance.add()
        token = await instance.take(handover=50.0)
        await instance.attach(token, "a")
        assert await instance.pass_time(500.0) == []
        await instance.attach(token, "a")
        assert await instance.pass_time(500.0) == []

    @clause("U6")
    async def test_the_number_of_files_is_limited(self, instance: Instance) -> None:
        """A file beyond `max_files` is refused, while one can still be replaced, and the lease is renewed (A2)."""
        job_id = await instance.add()
        token = await instance.take(handover=50.0)
        for name in ("a", "b"):
            assert (await _attach(instance, token, name, max_files=2)).exceeded is None
        refused = await _attach(instance, token, "c", max_files=2)
        assert (refused.attempt.state, refused.replaced, refused.exceeded) == (
            AttemptState.RUNNING,
            None,
            Exceeded.FILES,
        )
        replacing = await _attach(instance, token, "b", location="new", max_files=2)
        assert (replacing.replaced, replacing.exceeded) == ("b", None)
        assert [one.location for one in await instance.artifacts(job_id)] == ["a", "new"]
        assert await instance.pass_time(500.0) == []
        await _attach(instance, token, "c", max_files=2)
        assert await instance.pass_time(500.0) == []

    @clause("U6", "G3")
    async def test_a_repetition_within_no_limit(self, instance: Instance) -> None:
        """A file that is attached already is accepted again, also if a lower limit has been set since then."""
        await instance.add()
        token = await instance.take()
        for name in ("a", "b"):
            await _attach(instance, token, name)
        repeated = await _attach(instance, token, "b", max_files=1, max_bytes=1)
        assert (repeated.replaced, repeated.exceeded) == (None, None)

    @clause("U6")
    async def test_files_that_race_for_the_last_place(self, instance: Instance) -> None:
        """Of many files that are attached at one time, as many as the limit allows are accepted."""
        job_id = await instance.add()
        token = await instance.take()
        answers = await asyncio.gather(*[_attach(instance, token, f"{n}", max_files=3) for n in range(8)])
        assert sorted(one.exceeded is None for one in answers) == [False] * 5 + [True] * 3
        assert len(await instance.artifacts(job_id)) == 3

    @clause("U6", needs="shared")
    async def test_files_that_race_on_two_servers(self, instance: Instance) -> None:
        """Files that two servers attach at one time count together."""
        other = await instance.another_server()
        job_id = await instance.add()
        token = await instance.take()
        calls = [_attach((instance, other)[n % 2], token, f"{n}", max_files=3) for n in range(8)]
        assert sum(one.exceeded is None for one in await asyncio.gather(*calls)) == 3
        assert len(await instance.artifacts(job_id)) == 3

    @clause("U7")
    async def test_the_size_of_all_files_is_limited(self, instance: Instance) -> None:
        """A file is refused if all files together would exceed `max_bytes`; what it replaces does not count."""
        job_id = await instance.add()
        token = await instance.take()
        for name, size in (("a", 60), ("b", 40)):
            assert (await _attach(instance, token, name, size, max_bytes=100)).exceeded is None
        assert (await _attach(instance, token, "c", 1, max_bytes=100)).exceeded is Exceeded.BYTES
        assert (await _attach(instance, token, "b", 41, location="new", max_bytes=100)).exceeded is Exceeded.BYTES
        assert (await _attach(instance, token, "a", 50, location="new", max_bytes=100)).replaced == "a"
        assert (await _attach(instance, token, "c", 10, max_bytes=100)).exceeded is None
        assert [(one.name, one.size) for one in await instance.artifacts(job_id)] == [("a", 50), ("b", 40), ("c", 10)]

    @clause("U8")
    async def test_a_file_that_may_lack_a_part(self, instance: Instance) -> None:
        """A file that may lack a part replaces none that is longer, and one that is known to be whole does."""
        job_id = await instance.add()
        token = await instance.take(handover=50.0)
        assert (await _attach(instance, token, "a", 5, known_whole=False)).exceeded is None
        refused = await _attach(instance, token, "a", 4, location="new", known_whole=False)
        assert (refused.attempt.state, refused.replaced, refused.exceeded) == (
            AttemptState.RUNNING,
            None,
            Exceeded.SHORTER,
        )
        assert [one.size for one in await instance.artifacts(job_id)] == [5]
        assert await instance.pass_time(500.0) == []
        for size, whole in ((5, False), (6, False), (0, True)):
            answer = await _attach(instance, token, "a", size, location=f"{size}", known_whole=whole)
            assert (answer.exceeded, answer.replaced is None) == (None, False)
        assert [one.size for one in await instance.artifacts(job_id)] == [0]

    @clause("U8")
    async def test_files_that_may_lack_a_part_race(self, instance: Instance) -> None:
        """Of files of one name that may lack a part and are attached at one time, the longest stays."""
        job_id = await instance.add()
        token = await instance.take()
        sizes = (3, 8, 1, 7, 5, 2, 6, 4)
        await asyncio.gather(
            *[_attach(instance, token, "a", n, location=f"{n}", known_whole=False) for n in sizes],
        )
        assert [one.size for one in await instance.artifacts(job_id)] == [8]

    @clause("U8", needs="shared")
    async def test_files_that_may_lack_a_part_race_on_two_servers(self, instance: Instance) -> None:
        """Of files that may lack a part and that two servers attach at one time, the longest stays."""
        other = await instance.another_server()
        job_id = await instance.add()
        token = await instance.take()
        calls = [
            _attach((instance, other)[n % 2], token, "a", n, location=f"{n}", known_whole=False)
            for n in (3, 8, 1, 7, 5, 2, 6, 4)
        ]
        await asyncio.gather(*calls)
        assert [one.size for one in await instance.artifacts(job_id)] == [8]


async def _attach(
    instance: Instance,
    token: UUID,
    name: str,
    size: int = 1,
    *,
    location: str = "",
    max_files: int | None = None,
    max_bytes: int | None = None,
    known_whole: bool = True,
) -> Attached:
    """Attach a file under limits, and return the answer. Its location is its name unless another one is given."""
    artifact = Artifact(name, size, "ab" * 32, location or name)
    batch = await instance.driver.attach([Attachment(token, artifact, max_files, max_bytes, known_whole)])
    await instance.advance_until_idle(batch.news)
    (attached,) = batch.items
    return attached

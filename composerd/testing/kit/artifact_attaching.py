"""Tests of artifacts: files that are attached to an attempt and become the job's when the attempt ends it."""

import pytest

from composerd.models import AttemptState
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

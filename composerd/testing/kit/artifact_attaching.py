"""Files: attached to an attempt, published by its end."""

import pytest

from composerd.models import AttemptState
from composerd.testing.kit.clause import clause
from composerd.testing.kit.instance import Instance

ERROR = b'{"job_error":{"id":1}}'


class Artifacts:
    """Files: attached to an attempt, published by its end."""

    @clause("U1")
    async def test_artifacts_become_the_jobs(self, instance: Instance) -> None:
        """J7, Artifacts: what is attached when the attempt ends the job is the job's, by name."""
        job_id = await instance.add()
        token = await instance.take()
        for name in ("b", "a"):
            assert await instance.attach(token, name) == (AttemptState.RUNNING, None)
        assert [one.name for one in await instance.artifacts(job_id)] == ["a", "b"]
        await instance.finish(token)
        assert [one.name for one in await instance.artifacts(job_id)] == ["a", "b"]

    @clause("U1")
    async def test_artifacts_of_a_failed_job(self, instance: Instance) -> None:
        """J8, Artifacts: a failed outcome that ends the job publishes too."""
        job_id = await instance.add()
        token = await instance.take()
        await instance.attach(token, "log")
        await instance.finish(token, ERROR, failed=True)
        assert [one.name for one in await instance.artifacts(job_id)] == ["log"]

    @pytest.mark.parametrize("how", ["released", "expired", "canceled", "retried"])
    @clause("U2")
    async def test_artifacts_of_no_use(self, instance: Instance, how: str) -> None:
        """J9 to J12, Artifacts: an attempt that ends without ending its job leaves no artifacts, to the next attempt neither."""
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
        """Attach: the same name again takes the former's place, which is answered; the same file again replaces nothing."""
        job_id = await instance.add()
        token = await instance.take()
        await instance.attach(token, "a", "one")
        assert await instance.attach(token, "a", "two") == (AttemptState.RUNNING, "one")
        assert await instance.attach(token, "a", "two") == (AttemptState.RUNNING, None)
        assert [one.location for one in await instance.artifacts(job_id)] == ["two"]

    @clause("U4")
    async def test_an_artifact_is_refused(self, instance: Instance) -> None:
        """Attach: refused unless the attempt runs; the answer says what became of it."""
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
        """A2: a file attached confirms the attempt and begins its lease anew."""
        await instance.add()
        token = await instance.take(handover=50.0)
        await instance.attach(token, "a")
        assert await instance.pass_time(500.0) == []
        await instance.attach(token, "a")
        assert await instance.pass_time(500.0) == []

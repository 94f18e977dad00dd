"""Files: attached to an attempt, published by its end."""

import pytest

from composerd.models import AttemptState
from composerd.testing.kit.clause import clause
from composerd.testing.kit.instance import Store

ERROR = b'{"job_error":{"id":1}}'


class Artifacts:
    """Files: attached to an attempt, published by its end."""

    @clause("U1")
    async def test_artifacts_become_the_jobs(self, store: Store) -> None:
        """J7, Artifacts: what is attached when the attempt ends the job is the job's, by name."""
        job_id = await store.add()
        token = await store.take()
        for name in ("b", "a"):
            assert await store.attach(token, name) == (AttemptState.RUNNING, None)
        assert [one.name for one in await store.artifacts(job_id)] == ["a", "b"]
        await store.finish(token)
        assert [one.name for one in await store.artifacts(job_id)] == ["a", "b"]

    @clause("U1")
    async def test_artifacts_of_a_failed_job(self, store: Store) -> None:
        """J8, Artifacts: a failed outcome that ends the job publishes too."""
        job_id = await store.add()
        token = await store.take()
        await store.attach(token, "log")
        await store.finish(token, ERROR, failed=True)
        assert [one.name for one in await store.artifacts(job_id)] == ["log"]

    @pytest.mark.parametrize("how", ["released", "lapsed", "canceled", "retried"])
    @clause("U2")
    async def test_artifacts_of_no_use(self, store: Store, how: str) -> None:
        """J9 to J12, Artifacts: an attempt that ends without ending its job leaves no artifacts, to the next attempt neither."""
        job_id = await store.add(retry_on_failure=1)
        token = await store.take()
        await store.attach(token, "log")
        if how == "released":
            await store.release(token)
        elif how == "lapsed":
            await store.pass_time(610.0)
        elif how == "canceled":
            await store.cancel(job_id)
        else:
            await store.finish(token, ERROR, failed=True)
            await store.pass_time(110.0)
        assert await store.artifacts(job_id) == ()
        if how != "canceled":
            await store.end(job_id)
            assert await store.artifacts(job_id) == ()

    @clause("U3")
    async def test_an_artifact_is_replaced(self, store: Store) -> None:
        """Attach: the same name again takes the former's place, which is answered; the same file again replaces nothing."""
        job_id = await store.add()
        token = await store.take()
        await store.attach(token, "a", "one")
        assert await store.attach(token, "a", "two") == (AttemptState.RUNNING, "one")
        assert await store.attach(token, "a", "two") == (AttemptState.RUNNING, None)
        assert [one.location for one in await store.artifacts(job_id)] == ["two"]

    @clause("U4")
    async def test_an_artifact_is_refused(self, store: Store) -> None:
        """Attach: refused unless the attempt runs; the answer says what became of it."""
        job_id = await store.add()
        first = await store.take()
        await store.release(first)
        second = await store.take()
        assert await store.attach(first, "a") == (AttemptState.SUPERSEDED, None)
        await store.finish(second)
        assert await store.attach(second, "a") == (AttemptState.FINISHED, None)
        assert await store.attach(store.id(), "a") == (AttemptState.UNKNOWN, None)
        assert await store.artifacts(job_id) == ()

    @clause("U5")
    async def test_attaching_renews(self, store: Store) -> None:
        """A2: a file attached confirms the attempt and begins its lease anew."""
        await store.add()
        token = await store.take(handover=50.0)
        await store.attach(token, "a")
        assert await store.pass_time(500.0) == []
        await store.attach(token, "a")
        assert await store.pass_time(500.0) == []

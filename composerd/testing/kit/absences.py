"""Tests of what is due after nobody could renew a lease: the storage was closed, or its server stood still."""

import pytest

from composerd.models import AttemptState
from composerd.testing.kit.clause import clause
from composerd.testing.kit.instance import LEASE, Instance


class Absences:
    """Leases after the storage was closed, or after its server stood still."""

    @pytest.mark.parametrize("handover", [None, 50.0], ids=["lease", "handover"])
    @clause("L11", "L20", needs="durable")
    async def test_running_attempts_have_a_full_lease(self, instance: Instance, handover: float | None) -> None:
        """After the storage was closed for more than half a lease, running attempts have a full lease, unconfirmed."""
        job_id = await instance.add()
        token = await instance.take(handover=handover)
        instance.shifted += LEASE - 100.0
        await instance.reopen()
        assert await instance.pass_time(LEASE - 10.0) == []
        assert await instance.pass_time(20.0) == [job_id]
        assert (await instance.get(job_id)).retries == 0
        assert await instance.touch(token) is AttemptState.SUPERSEDED

    @clause("L20", needs="durable")
    async def test_a_start_ends_the_handover(self, instance: Instance) -> None:
        """After a start of a storage that is not shared, a touch that does not confirm leaves the full lease."""
        if instance.driver.capabilities.shared:
            return
        job_id = await instance.add()
        token = await instance.take(handover=50.0)
        await instance.reopen()
        assert await instance.touch(token, confirm=False) is AttemptState.RUNNING
        assert await instance.pass_time(LEASE - 10.0) == []
        assert await instance.pass_time(20.0) == [job_id]

    @clause("L20", needs="shared")
    async def test_a_confirmation_lasts(self, instance: Instance) -> None:
        """An attempt that was confirmed before the storage was closed ends counted after it."""
        job_id = await instance.add()
        await instance.take_confirmed()
        instance.shifted += LEASE - 100.0
        await instance.reopen()
        assert await instance.pass_time(LEASE + 10.0) == [job_id]
        assert (await instance.get(job_id)).retries == 1

    @clause("L11", needs="durable")
    async def test_an_expired_attempt_gets_another_lease(self, instance: Instance) -> None:
        """An attempt whose lease and whose job's timeout ended while the storage was closed has a full lease."""
        job_id = await instance.add(timeout=100.0)
        token = await instance.take()
        instance.shifted += 5000.0
        await instance.reopen()
        assert await instance.pass_time(0.0) == []
        assert await instance.touch(token, confirm=False) is AttemptState.RUNNING
        assert await instance.pass_time(LEASE - 10.0) == []
        assert await instance.pass_time(20.0) == [job_id]

    @clause("L11", needs="shared")
    async def test_a_lease_stands_still(self, instance: Instance) -> None:
        """If a shared storage was closed for less than half a lease, an attempt ends that much later."""
        job_id = await instance.add()
        await instance.take()
        assert await instance.pass_time(LEASE - 100.0) == []
        instance.shifted += LEASE / 3
        await instance.reopen()
        assert await instance.pass_time(50.0) == []
        assert await instance.pass_time(60.0) == [job_id]

    @clause("L15")
    async def test_grace(self, instance: Instance) -> None:
        """After a server stood still, running attempts have a full lease, and end after it."""
        job_id = await instance.add()
        token = await instance.take_confirmed()
        await instance.driver.advance(10)
        await instance.freeze(LEASE + 100.0)
        assert await instance.pass_time(LEASE - 50.0) == []
        assert await instance.touch(token, confirm=False) is AttemptState.RUNNING
        assert await instance.pass_time(100.0) == [job_id]
        assert (await instance.get(job_id)).retries == 1

    @clause("L15")
    async def test_grace_and_a_timeout(self, instance: Instance) -> None:
        """After a server stood still, an attempt whose job's timeout is over has a full lease."""
        job_id = await instance.add(timeout=100.0)
        token = await instance.take()
        await instance.driver.advance(10)
        await instance.freeze(LEASE)
        assert await instance.pass_time(LEASE - 50.0) == []
        await instance.touch(token)
        assert await instance.pass_time(100.0) == [job_id]

    @clause("L15")
    async def test_grace_confirms_nothing(self, instance: Instance) -> None:
        """An attempt that is not confirmed ends uncounted after the full lease."""
        job_id = await instance.add()
        await instance.take(handover=50.0)
        await instance.driver.advance(10)
        await instance.freeze(LEASE)
        assert await instance.pass_time(LEASE - 50.0) == []
        assert await instance.pass_time(100.0) == [job_id]
        assert (await instance.get(job_id)).retries == 0

    @clause("L16", needs="shared")
    async def test_grace_beside_another_server(self, instance: Instance) -> None:
        """`grace` renews nothing if another server had the storage open."""
        other = await instance.another_server()
        job_id = await instance.add()
        await instance.take()
        await _pass_for_both(instance, other, LEASE - 50.0)
        await instance.driver.grace()
        await other.shift(100.0)
        await instance.shift(100.0)
        assert (await instance.driver.advance(10)).items == [job_id]

    @clause("L16", needs="shared")
    async def test_a_start_beside_another_server(self, instance: Instance) -> None:
        """Starts of one server keep no lost job of another one, which had the storage open all the time."""
        other = await instance.another_server()
        job_id = await other.add()
        await other.take()
        for _ in range(5):
            await _pass_for_both(instance, other, LEASE / 5 - 10.0)
            await instance.reopen()
        assert await instance.pass_time(100.0) == [job_id]


async def _pass_for_both(instance: Instance, other: Instance, seconds: float) -> None:
    """Let time pass for two servers that both work meanwhile."""
    for one in (instance, other):
        assert await one.pass_time(seconds) == []

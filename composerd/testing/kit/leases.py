"""Tests of heartbeats, leases, handovers and the time limit of a job."""

import pytest

from composerd.models import Attempt, AttemptState, Claim, JobFilter, JobState, Touch, Verdict
from composerd.testing.kit.clause import clause
from composerd.testing.kit.instance import BUILD, LEASE, PLENTY, Instance


class Leases:
    """Heartbeats, leases, handovers, and the time limit of a job."""

    @clause("L2")
    async def test_a_lease_expires(self, instance: Instance) -> None:
        """An attempt that is not touched again is superseded when its lease expires, and that is counted (J10, A6)."""
        job_id = await instance.add()
        token = await instance.take_confirmed()
        assert await instance.pass_time(590.0) == []
        assert await instance.touch(token, confirm=False) is AttemptState.RUNNING
        assert await instance.pass_time(15.0) == [job_id]
        job = await instance.get(job_id)
        assert (job.state, job.retries) == (JobState.READY, 1)
        assert await instance.touch(token) is AttemptState.SUPERSEDED

    @clause("L1")
    async def test_a_touch_renews(self, instance: Instance) -> None:
        """Each touch gives the attempt a full lease (A2)."""
        await instance.add()
        token = await instance.take()
        for _ in range(3):
            assert await instance.pass_time(500.0) == []
            assert await instance.touch(token) is AttemptState.RUNNING
        assert len(await instance.pass_time(610.0)) == 1

    @clause("L3")
    async def test_an_attempt_runs_until_advance_ends_it(self, instance: Instance) -> None:
        """An attempt whose lease has expired can be renewed, and can finish, until `advance` has ended it."""
        await instance.add()
        token = await instance.take()
        await instance.shift(1000.0)
        assert await instance.touch(token) is AttemptState.RUNNING
        assert await instance.pass_time(0) == []
        await instance.shift(1000.0)
        assert await instance.finish(token) is Verdict.ACCEPTED

    @clause("L12")
    async def test_advance_is_bounded(self, instance: Instance) -> None:
        """`advance` does up to `limit` of what is due, and asks to be called again at once while there is more."""
        for _ in range(5):
            await instance.add(not_before=50.0)
        await instance.shift(60.0)
        counts = []
        for _ in range(3):
            batch = await instance.driver.advance(2)
            counts.append((len(batch.items), batch.news.due_in == 0))
        assert counts == [(2, True), (2, True), (1, False)]

    @clause("L4")
    async def test_a_handover_expires(self, instance: Instance) -> None:
        """An attempt that is never confirmed ends with its handover time, and the requeue is not counted (J10, A1)."""
        job_id = await instance.add()
        token = await instance.take(handover=50.0)
        assert await instance.pass_time(40.0) == []
        assert await instance.pass_time(15.0) == [job_id]
        job = await instance.get(job_id)
        assert (job.state, job.retries) == (JobState.READY, 0)
        assert await instance.touch(token) is AttemptState.SUPERSEDED

    @clause("L18")
    async def test_nobody_asks_about_an_attempt(self, instance: Instance) -> None:
        """An attempt without a handover that is never touched has its full lease, and the requeue is not counted."""
        job_id = await instance.add(max_retries=0)
        for _ in range(3):
            token = await instance.take()
            assert await instance.pass_time(590.0) == []
            assert await instance.pass_time(15.0) == [job_id]
            job = await instance.get(job_id)
            assert (job.state, job.retries) == (JobState.READY, 0)
            assert await instance.touch(token) is AttemptState.SUPERSEDED
        await instance.take_confirmed()
        assert await instance.pass_time(605.0) == [job_id]
        assert await instance.state(job_id) is JobState.FAILED

    @clause("L4")
    async def test_a_confirmed_handover_has_a_lease(self, instance: Instance) -> None:
        """The first touch confirms an attempt; from then on its lease decides when it ends (A2)."""
        job_id = await instance.add()
        token = await instance.take(handover=50.0)
        await instance.touch(token)
        assert await instance.pass_time(590.0) == []
        assert await instance.pass_time(15.0) == [job_id]
        assert (await instance.get(job_id)).retries == 1

    @clause("L4")
    async def test_a_lease_shorter_than_the_handover(self, instance: Instance) -> None:
        """After the confirmation the lease decides, even if the handover time would have been longer (A2)."""
        job_id = await instance.add()
        token = await instance.take(handover=1000.0, lease=100.0)
        await instance.touch(token)
        assert await instance.pass_time(105.0) == [job_id]
        assert (await instance.get(job_id)).retries == 1

    @clause("L5")
    async def test_touched_without_confirming(self, instance: Instance) -> None:
        """A touch that does not confirm gives an unconfirmed attempt its full handover time again (A3)."""
        job_id = await instance.add()
        token = await instance.take(handover=50.0)
        for _ in range(3):
            assert await instance.pass_time(40.0) == []
            assert await instance.touch(token, confirm=False) is AttemptState.RUNNING
        assert await instance.pass_time(55.0) == [job_id]
        assert (await instance.get(job_id)).retries == 0

    @clause("L21")
    async def test_touched_without_a_handover(self, instance: Instance) -> None:
        """A touch that does not confirm changes nothing about an attempt that has no handover time (A3)."""
        job_id = await instance.add()
        token = await instance.take(lease=100.0)
        assert await instance.pass_time(50.0) == []
        assert await instance.touch(token, confirm=False) is AttemptState.RUNNING
        assert await instance.pass_time(40.0) == []
        assert await instance.pass_time(20.0) == [job_id]
        assert (await instance.get(job_id)).retries == 0

    @pytest.mark.parametrize("handover", [10.0, 1000.0], ids=["shorter", "longer"])
    @clause("L5")
    async def test_a_confirmed_lease_is_not_changed(self, instance: Instance, handover: float) -> None:
        """A touch that does not confirm leaves the lease of a confirmed attempt as it is (A3)."""
        job_id = await instance.add()
        token = await instance.take(handover=handover, lease=100.0)
        await instance.touch(token)
        assert await instance.pass_time(50.0) == []
        await instance.touch(token, confirm=False)
        assert await instance.pass_time(40.0) == []
        assert await instance.pass_time(20.0) == [job_id]

    @clause("L8")
    async def test_an_attempt_says_if_it_must_be_confirmed(self, instance: Instance) -> None:
        """`confirm` of an attempt is true if a handover was promised; `number` counts the attempts at the job."""
        await instance.add()
        first = await instance.take(handover=50.0)
        released = await instance.release(first)
        assert (released.confirm, released.number) == (True, 1)
        released = await instance.release(await instance.take())
        assert (released.confirm, released.number) == (False, 2)

    @clause("L22")
    async def test_an_attempt_says_if_it_is_confirmed(self, instance: Instance) -> None:
        """A touch says whether the worker of a running attempt had called before, and a repeated claim says it too."""
        for handover in (50.0, None):
            await instance.add()
            token = await instance.take(handover=handover)
            touches = [Touch(token, confirm=False), Touch(token), Touch(token, confirm=False), Touch(token)]
            said = [(await instance.driver.touch([one])).items[0].confirmed for one in touches]
            assert said == [False, False, True, True]
            await instance.finish(token)
        assert not (await instance.driver.touch([Touch(instance.id())])).items[0].confirmed

    @clause("L7")
    async def test_progress(self, instance: Instance) -> None:
        """Progress is stored, left as it is by a touch without progress, and dropped when the attempt ends."""
        job_id = await instance.add()
        token = await instance.take()
        await instance.touch(token, b'{"done":1}')
        await instance.touch(token)
        assert (await instance.get(job_id)).partial == b'{"done":1}'
        page = await instance.driver.list(JobFilter(), None, 10)
        assert page.jobs[0].partial is None
        await instance.release(token)
        assert (await instance.get(job_id)).partial is None

    @clause("L6")
    async def test_a_timeout(self, instance: Instance) -> None:
        """An attempt that exceeds its job's timeout ends although it was touched, counted; the result says so (J11)."""
        job_id = await instance.add(timeout=200.0, max_retries=1)
        for expected in (JobState.READY, JobState.FAILED):
            token = await instance.take()
            for _ in range(2):
                assert await instance.pass_time(90.0) == []
                await instance.touch(token)
            assert await instance.pass_time(30.0) == [job_id]
            assert await instance.state(job_id) is expected
        assert await instance.result(job_id) == (
            b'{"job_error":{"id":27,'
            b'"reason":"Workers ran this job for longer than its timeout more than 1 times.","details":null}}'
        )

    @pytest.mark.parametrize("handover", [None, 300.0], ids=["lease", "handover"])
    @clause("L19")
    async def test_a_timeout_of_what_nobody_asks_about(self, instance: Instance, handover: float | None) -> None:
        """An attempt that is never touched ends with its job's timeout too, and the requeue is not counted."""
        job_id = await instance.add(timeout=200.0, max_retries=0)
        token = await instance.take(handover=handover)
        assert await instance.pass_time(190.0) == []
        assert await instance.pass_time(15.0) == [job_id]
        job = await instance.get(job_id)
        assert (job.state, job.retries) == (JobState.READY, 0)
        assert await instance.touch(token) is AttemptState.SUPERSEDED

    @clause("L13")
    async def test_waits_for_its_time(self, instance: Instance) -> None:
        """A job with `not_before` in the future waits until `advance` finds that its time has come (J1, J4)."""
        job_id = await instance.add(not_before=100.0)
        assert await instance.state(job_id) is JobState.WAITING
        assert await instance.pass_time(90.0) == []
        assert await instance.pass_time(15.0) == [job_id]
        assert await instance.state(job_id) is JobState.READY

    @clause("L8")
    async def test_an_attempt_is_described(self, instance: Instance) -> None:
        """An answer about a token has state, job, number, promise and worker of the attempt; none of it if unknown."""
        job_id, worker, token = await instance.add(), instance.id(), instance.id()
        await instance.driver.claim([Claim(token, (BUILD,), LEASE, 50.0, worker)], PLENTY)
        (running,) = (await instance.driver.touch([Touch(token)])).items
        assert running == Attempt(AttemptState.RUNNING, job_id, 1, confirm=True, worker_id=worker)
        await instance.cancel(job_id)
        (canceled,) = (await instance.driver.touch([Touch(token)])).items
        assert canceled == Attempt(AttemptState.CANCELED, job_id, 1, confirm=True, worker_id=worker)
        assert (await instance.driver.touch([Touch(instance.id())])).items[0] == Attempt(AttemptState.UNKNOWN)

    @clause("L9")
    async def test_an_ended_attempt_changes_nothing(self, instance: Instance) -> None:
        """Calls with the token of an ended attempt change neither the job nor the running attempt and its lease."""
        job_id = await instance.add()
        first = await instance.take()
        await instance.release(first)
        second = await instance.take(handover=50.0)
        before = await instance.dump()
        assert await instance.touch(first, b"late") is AttemptState.SUPERSEDED
        assert (await instance.attach(first, "late"))[0] is AttemptState.SUPERSEDED
        assert await instance.finish(first, b"late") is Verdict.SUPERSEDED
        assert (await instance.release(first)).state is AttemptState.SUPERSEDED
        assert await instance.dump() == before
        assert (await instance.get(job_id)).partial is None
        await instance.shift(30.0)
        await instance.touch(first)
        assert await instance.pass_time(30.0) == [job_id]
        assert await instance.touch(second) is AttemptState.SUPERSEDED

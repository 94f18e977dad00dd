"""Signs of life, leases, hand-overs, the time that a job may take."""

from composerd.models import Attempt, AttemptState, Claim, JobFilter, JobState, Touch, Verdict
from composerd.testing.kit.clause import clause
from composerd.testing.kit.instance import ANY, LEASE, PLENTY, Instance


class Leases:
    """Signs of life, leases, hand-overs, the time that a job may take."""

    @clause("L2")
    async def test_a_lease_ends(self, instance: Instance) -> None:
        """J10, A6: an attempt that nobody touches is superseded when its lease is over; the job is ready again, counted."""
        job_id = await instance.add()
        token = await instance.take()
        assert await instance.pass_time(590.0) == []
        assert await instance.touch(token, confirm=False) is AttemptState.RUNNING
        assert await instance.pass_time(15.0) == [job_id]
        job = await instance.get(job_id)
        assert (job.state, job.retries) == (JobState.READY, 1)
        assert await instance.touch(token) is AttemptState.SUPERSEDED

    @clause("L1")
    async def test_a_touch_renews(self, instance: Instance) -> None:
        """A2: each touch begins the lease anew."""
        await instance.add()
        token = await instance.take()
        for _ in range(3):
            assert await instance.pass_time(500.0) == []
            assert await instance.touch(token) is AttemptState.RUNNING
        assert len(await instance.pass_time(610.0)) == 1

    @clause("L3")
    async def test_an_attempt_runs_until_advance_says_otherwise(self, instance: Instance) -> None:
        """A lease that has run out still runs, and may be renewed or used, until `advance` has looked."""
        await instance.add()
        token = await instance.take()
        await instance.shift(1000.0)
        assert await instance.touch(token) is AttemptState.RUNNING
        assert await instance.pass_time(0) == []
        await instance.shift(1000.0)
        assert await instance.finish(token) is Verdict.ACCEPTED

    @clause("L12")
    async def test_advance_is_bounded(self, instance: Instance) -> None:
        """Advance: does up to `limit`, and asks to be called again at once while there is more."""
        for _ in range(5):
            await instance.add(not_before=50.0)
        await instance.shift(60.0)
        counts = []
        for _ in range(3):
            batch = await instance.driver.advance(2)
            counts.append((len(batch.items), batch.news.due_in == 0))
        assert counts == [(2, True), (2, True), (1, False)]

    @clause("L4")
    async def test_a_handover_ends(self, instance: Instance) -> None:
        """J10, A1: an attempt that is never confirmed lives for its hand-over time, and its return is not counted."""
        job_id = await instance.add()
        token = await instance.take(handover=50.0)
        assert await instance.pass_time(40.0) == []
        assert await instance.pass_time(15.0) == [job_id]
        job = await instance.get(job_id)
        assert (job.state, job.retries) == (JobState.READY, 0)
        assert await instance.touch(token) is AttemptState.SUPERSEDED

    @clause("L4")
    async def test_a_confirmed_handover_has_a_lease(self, instance: Instance) -> None:
        """A2: the first touch confirms; from then on the lease counts."""
        job_id = await instance.add()
        token = await instance.take(handover=50.0)
        await instance.touch(token)
        assert await instance.pass_time(590.0) == []
        assert await instance.pass_time(15.0) == [job_id]
        assert (await instance.get(job_id)).retries == 1

    @clause("L4")
    async def test_a_lease_shorter_than_the_handover(self, instance: Instance) -> None:
        """A2: once confirmed, the lease counts, also where the hand-over would have been longer."""
        job_id = await instance.add()
        token = await instance.take(handover=1000.0, lease=100.0)
        await instance.touch(token)
        assert await instance.pass_time(105.0) == [job_id]
        assert (await instance.get(job_id)).retries == 1

    @clause("L5")
    async def test_touched_without_confirming(self, instance: Instance) -> None:
        """A3: a touch that does not confirm begins an unconfirmed hand-over anew."""
        job_id = await instance.add()
        token = await instance.take(handover=50.0)
        for _ in range(3):
            assert await instance.pass_time(40.0) == []
            assert await instance.touch(token, confirm=False) is AttemptState.RUNNING
        assert await instance.pass_time(55.0) == [job_id]
        assert (await instance.get(job_id)).retries == 0

    @clause("L5")
    async def test_a_confirmed_lease_is_left_as_it_is(self, instance: Instance) -> None:
        """A3: a touch that does not confirm leaves the lease of a confirmed attempt alone."""
        job_id = await instance.add()
        token = await instance.take(handover=50.0)
        await instance.touch(token)
        await instance.pass_time(500.0)
        await instance.touch(token, confirm=False)
        assert await instance.pass_time(110.0) == [job_id]

    @clause("L8")
    async def test_an_attempt_says_whether_it_is_to_be_confirmed(self, instance: Instance) -> None:
        """Attempt: `confirm` is whether a hand-over was promised; `number` counts the job's attempts."""
        await instance.add()
        first = await instance.take(handover=50.0)
        released = await instance.release(first)
        assert (released.confirm, released.number) == (True, 1)
        released = await instance.release(await instance.take())
        assert (released.confirm, released.number) == (False, 2)

    @clause("L7")
    async def test_progress(self, instance: Instance) -> None:
        """Touch: progress is remembered, left as it is by None, and gone with the attempt."""
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
        """J10, J11: an attempt over its job's timeout returns however often it was touched, counted; used up, the reason says so."""
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

    @clause("L13")
    async def test_waits_for_its_time(self, instance: Instance) -> None:
        """J1, J4: a job whose time is ahead waits, and is ready when `advance` finds that it has come."""
        job_id = await instance.add(not_before=100.0)
        assert await instance.state(job_id) is JobState.WAITING
        assert await instance.pass_time(90.0) == []
        assert await instance.pass_time(15.0) == [job_id]
        assert await instance.state(job_id) is JobState.READY

    @clause("L8")
    async def test_what_is_said_of_an_attempt(self, instance: Instance) -> None:
        """State, job, number, promise and worker of an attempt, while it runs and after; nothing of an unknown one."""
        job_id, worker, token = await instance.add(), instance.id(), instance.id()
        await instance.driver.claim([Claim(token, (ANY,), LEASE, 50.0, worker)], PLENTY)
        (running,) = (await instance.driver.touch([Touch(token)])).items
        assert running == Attempt(AttemptState.RUNNING, job_id, 1, confirm=True, worker_id=worker)
        await instance.cancel(job_id)
        (canceled,) = (await instance.driver.touch([Touch(token)])).items
        assert canceled == Attempt(AttemptState.CANCELED, job_id, 1, confirm=True, worker_id=worker)
        assert (await instance.driver.touch([Touch(instance.id())])).items[0] == Attempt(AttemptState.UNKNOWN)

    @clause("L9")
    async def test_an_ended_attempt_changes_nothing(self, instance: Instance) -> None:
        """Whatever an ended attempt still says, the job and the attempt that runs now are as they were, and so is its lease."""
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

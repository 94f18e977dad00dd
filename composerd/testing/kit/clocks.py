"""Tests of the clock: it is shifted, it jumps while the storage is open and while it is closed, and retention waits."""

import pytest

from composerd.models import AttemptState, JobState
from composerd.testing.kit.clause import clause
from composerd.testing.kit.instance import LEASE, Instance, due_within

HOURS = 8 * 3600.0
"""The size of a jump, in seconds, which is longer than every lease and every delay."""

DAYS = 400 * 86_400.0
"""The size of a jump in seconds after which every retention seems to be over."""

DAY = 86_400.0
"""Time in seconds after which a clock that has not jumped again is trusted."""

MONTH = 30 * 86_400.0
"""A retention, in seconds."""

jumps = pytest.mark.parametrize("jump", [HOURS, -HOURS], ids=["forward", "back"])


class Clocks:
    """The clock: it is shifted, it jumps while the storage is open and while it is closed, and retention waits."""

    @clause("S9")
    async def test_time_passes(self, instance: Instance) -> None:
        """`shift_clock` lets that time pass on the clock, which goes on from there."""
        first = await instance.get(await instance.add())
        await instance.shift(1000.0)
        second = await instance.get(await instance.add())
        third = await instance.get(await instance.add())
        assert 1000.0 <= (second.queued_at - first.queued_at).total_seconds() < 1060.0
        assert second.queued_at <= third.queued_at

    @jumps
    @clause("S9", "S10")
    async def test_the_clock_is_followed(self, instance: Instance, jump: float) -> None:
        """After a jump, forward or back, what happens has the new time at once."""
        first = await instance.get(await instance.add())
        await instance.jump(jump)
        second = await instance.get(await instance.add())
        assert abs((second.queued_at - first.queued_at).total_seconds() - jump) < 60.0
        await instance.driver.advance(10)
        third = await instance.get(await instance.add())
        assert abs((third.queued_at - first.queued_at).total_seconds() - jump) < 60.0

    @clause("S10", needs="durable")
    async def test_the_clock_comes_back(self, instance: Instance) -> None:
        """A storage whose clock was ahead is at the right time after a start with the right clock."""
        right = await instance.get(await instance.add())
        await instance.driver.close()
        instance.driver = instance.make_driver()
        await instance.driver.jump_clock(DAYS)
        await instance.driver.start()
        wrong = await instance.get(await instance.add())
        assert (wrong.queued_at - right.queued_at).total_seconds() >= DAYS
        await instance.reopen()
        again = await instance.get(await instance.add(not_before=100.0))
        assert abs((again.queued_at - right.queued_at).total_seconds()) < 60.0
        assert await instance.pass_time(110.0) == [again.id]

    @jumps
    @clause("L14")
    async def test_a_jump_ends_no_attempt(self, instance: Instance, jump: float) -> None:
        """After a jump every running attempt has a full lease, and ends after it."""
        job_id = await instance.add()
        token = await instance.take_confirmed()
        await instance.pass_time(LEASE - 50.0)
        await instance.jump(jump)
        assert await instance.pass_time(0.0) == []
        assert await instance.pass_time(LEASE - 50.0) == []
        assert await instance.touch(token, confirm=False) is AttemptState.RUNNING
        assert await instance.pass_time(100.0) == [job_id]
        assert (await instance.get(job_id)).retries == 1

    @jumps
    @clause("L14")
    async def test_a_jump_does_not_change_a_timeout(self, instance: Instance, jump: float) -> None:
        """The job's timeout counts the time that passes, whatever the clock shows."""
        job_id = await instance.add(timeout=2000.0)
        token = await instance.take()
        await instance.pass_time(500.0)
        await instance.jump(jump)
        for _ in range(2):
            assert await instance.pass_time(500.0) == []
            assert await instance.touch(token) is AttemptState.RUNNING
        assert await instance.pass_time(LEASE - 50.0) == [job_id]
        assert await instance.touch(token) is AttemptState.SUPERSEDED

    @jumps
    @clause("L14", needs="durable")
    async def test_a_jump_before_a_start_does_not_change_a_timeout(self, instance: Instance, jump: float) -> None:
        """The job's timeout counts the time that passes after a restart too, if the clock has jumped before."""
        job_id = await instance.add(timeout=2000.0)
        token = await instance.take()
        await instance.pass_time(500.0)
        await instance.jump(jump)
        assert await instance.pass_time(0.0) == []
        for _ in range(2):
            await instance.reopen()
            assert await instance.pass_time(500.0) == []
            assert await instance.touch(token) is AttemptState.RUNNING
        assert await instance.pass_time(LEASE - 50.0) == [job_id]

    @jumps
    @clause("L14")
    async def test_two_jumps_of_one_size(self, instance: Instance, jump: float) -> None:
        """Each of two jumps of one size gives running attempts a full lease, and no more than that."""
        job_id = await instance.add()
        await instance.take()
        for _ in range(2):
            await instance.pass_time(LEASE - 50.0)
            await instance.jump(jump)
            assert await instance.pass_time(0.0) == []
        assert await instance.pass_time(LEASE + 10.0) == [job_id]

    @clause("L14")
    async def test_a_jump_that_purge_notices(self, instance: Instance) -> None:
        """If `purge` is the first to notice a jump, no attempt ends either."""
        await instance.add()
        await instance.take()
        await instance.jump(HOURS)
        await instance.driver.purge(10)
        assert await instance.pass_time(LEASE - 50.0) == []

    @clause("L17")
    async def test_the_clock_jumps_over_a_start(self, instance: Instance) -> None:
        """A delayed job is ready after a jump forward to its time."""
        job_id = await instance.add(not_before=HOURS - 100.0)
        await instance.driver.advance(10)
        await instance.jump(HOURS)
        assert await instance.pass_time(0.0) == [job_id]

    @clause("L17")
    async def test_the_clock_is_set_back_before_a_start(self, instance: Instance) -> None:
        """After a jump back a delayed job waits until the clock shows its time."""
        job_id = await instance.add(not_before=100.0)
        await instance.jump(-HOURS)
        assert await instance.pass_time(110.0) == []
        assert await instance.state(job_id) is JobState.WAITING
        assert await instance.pass_time(HOURS) == [job_id]

    @clause("L17")
    async def test_the_clock_is_set_back_during_a_backoff(self, instance: Instance) -> None:
        """A job that waits for its backoff waits no longer than that after a jump back."""
        job_id = await instance.add(retry_on_failure=1, retry_backoff=100.0)
        await instance.finish(await instance.take(), b"1", failed=True)
        await instance.jump(-HOURS)
        assert await instance.pass_time(0.0) == []
        assert await instance.pass_time(110.0) == [job_id]

    @clause("L17", needs="durable")
    async def test_a_backoff_on_a_clock_that_was_ahead(self, instance: Instance) -> None:
        """A backoff that began on a clock that was ahead is not longer after starts with the right clock."""
        await instance.jump(DAYS)
        await instance.driver.advance(10)
        job_id = await instance.add(retry_on_failure=1, retry_backoff=100.0)
        await instance.finish(await instance.take(), b"1", failed=True)
        instance.jumped -= DAYS
        for _ in range(2):
            await instance.reopen()
            assert await instance.pass_time(10.0) == []
        await instance.pass_time(110.0)
        assert await instance.state(job_id) is JobState.READY

    @jumps
    @clause("L17", "N4")
    async def test_due_after_a_jump(self, instance: Instance, jump: float) -> None:
        """The `advance` that notices a jump says when a delayed job is due by the new time."""
        await instance.add(not_before=2 * HOURS)
        await instance.driver.advance(10)
        await instance.jump(jump)
        due_in = (await instance.driver.advance(10)).news.due_in
        assert due_within(due_in, 2 * HOURS - jump)

    @clause("P5")
    async def test_a_jump_purges_nothing(self, instance: Instance) -> None:
        """After a jump forward, jobs that ended before are kept, and jobs that end later are purged."""
        kept, later = await instance.add(retention=MONTH), await instance.add(retention=100.0)
        await instance.end(kept)
        await instance.driver.advance(10)
        await instance.jump(DAYS)
        assert await _purged(instance) == []
        await instance.end(later)
        await instance.pass_time(110.0)
        assert await _purged(instance) == [later]
        await instance.pass_time(DAY / 2)
        assert await _purged(instance) == []
        await instance.pass_time(DAY / 2)
        assert await _purged(instance) == [kept]

    @clause("P5")
    async def test_an_operator_confirms_the_clock(self, instance: Instance) -> None:
        """After `confirm_clock`, jobs that ended before a jump are purged."""
        job_id = await instance.add(retention=MONTH)
        await instance.end(job_id)
        await instance.driver.advance(10)
        await instance.jump(DAYS)
        assert await _purged(instance) == []
        await instance.driver.confirm_clock()
        await instance.pass_time(70.0)
        assert await _purged(instance) == [job_id]

    @clause("P5")
    async def test_a_clock_that_was_wrong_for_a_while(self, instance: Instance) -> None:
        """A clock that jumped forward and was set back has purged nothing, and then purges in time."""
        job_id = await instance.add(retention=1000.0)
        await instance.end(job_id)
        await instance.driver.advance(10)
        await instance.jump(DAYS)
        assert await _purged(instance) == []
        await instance.pass_time(100.0)
        await instance.jump(-DAYS)
        assert await _purged(instance) == []
        await instance.pass_time(800.0)
        assert await _purged(instance) == []
        await instance.pass_time(110.0)
        assert await _purged(instance) == [job_id]

    @clause("P5", needs="durable")
    async def test_opened_with_a_wrong_clock(self, instance: Instance) -> None:
        """A start with a clock that is far ahead purges nothing, and neither does the next start, a minute later."""
        job_id = await instance.add(retention=MONTH)
        await instance.end(job_id)
        instance.jumped += DAYS
        for _ in range(2):
            await instance.reopen()
            assert await _purged(instance) == []
            await instance.pass_time(70.0)
            assert await _purged(instance) == []
        await instance.driver.confirm_clock()
        await instance.reopen()
        await instance.pass_time(70.0)
        assert await _purged(instance) == [job_id]

    @clause("P5", needs="durable")
    async def test_opened_after_a_wrong_clock(self, instance: Instance) -> None:
        """Nothing is purged early or late after a start with a wrong clock and then one with the right clock."""
        job_id = await instance.add(retention=1000.0)
        await instance.end(job_id)
        for jump in (DAYS, -DAYS):
            instance.jumped += jump
            await instance.reopen()
            await instance.pass_time(70.0)
            assert await _purged(instance) == []
        await instance.pass_time(1000.0)
        assert await _purged(instance) == [job_id]

    @clause("P6", needs="durable")
    async def test_the_first_minute(self, instance: Instance) -> None:
        """Within a minute of a start only jobs that ended after it are purged."""
        before = await instance.add(retention=10.0)
        await instance.end(before)
        await instance.reopen()
        after = await instance.add(retention=10.0)
        await instance.end(after)
        await instance.pass_time(20.0)
        assert await _purged(instance) == [after]
        await instance.pass_time(50.0)
        assert await _purged(instance) == [before]

    @jumps
    @clause("P6")
    async def test_the_minute_after_a_jump(self, instance: Instance, jump: float) -> None:
        """Within a minute of a jump, however small, only jobs that ended after it are purged."""
        before = await instance.add(retention=10.0)
        await instance.end(before)
        await instance.driver.advance(10)
        await instance.jump(jump / 10)  # less than an hour
        await instance.driver.advance(10)
        after = await instance.add(retention=10.0)
        await instance.end(after)
        await instance.pass_time(20.0)
        assert await _purged(instance) == [after]
        await instance.pass_time(50.0 - min(jump / 10, 0.0))
        assert await _purged(instance) == [before]


async def _purged(instance: Instance) -> list[object]:
    return list((await instance.driver.purge(10)).items)

"""The pauses of a process and the jumps of its wall clock, told from two clocks."""

import time

import pytest

from composerd.ids import new_id
from composerd.models import NewJob
from composerd.queue.pauses import Pauses
from composerd_fs import MemoryDriver

from .conftest import LONG, running


class Clocks:
    """Two clocks, and the number of jumps that were reported."""

    def __init__(self) -> None:
        self.elapsed = 100.0
        self.now = 1.8e9
        self.jumps = 0
        self.pauses = Pauses(self.jumped, lambda: self.elapsed, lambda: self.now)

    def jumped(self) -> None:
        """Count a jump."""
        self.jumps += 1

    def pass_by(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        self.elapsed += seconds
        self.now += seconds


@pytest.fixture
def clocks() -> Clocks:
    """Return clocks that have just been looked at."""
    return Clocks()


def test_a_pause(clocks: Clocks, caplog: pytest.LogCaptureFixture) -> None:
    """A long time between two looks is a pause, which is reported once and logged with its length."""
    clocks.pass_by(61.5)
    clocks.pauses.look()
    clocks.pass_by(1.0)
    clocks.pauses.look()
    assert clocks.pauses.stood_still()
    assert not clocks.pauses.stood_still()
    assert caplog.messages == [
        "this server stood still for 61.5 s; leases that nobody could renew are extended",
    ]
    assert clocks.jumps == 0


def test_a_pause_that_nobody_has_noticed(clocks: Clocks) -> None:
    """A pause is noticed even if the question is the first thing that happens after it."""
    clocks.pass_by(3.0)
    assert clocks.pauses.stood_still()


@pytest.mark.parametrize("seconds", [0.0, 0.5, 1.0, 1.9])
def test_no_pause(clocks: Clocks, seconds: float) -> None:
    """A short time between two looks is none."""
    clocks.pass_by(seconds)
    assert not clocks.pauses.stood_still()


@pytest.mark.parametrize(("jump", "jumps"), [(1.5, 1), (-1.5, 1), (3600.0, 1), (0.5, 0), (-0.5, 0)])
def test_a_jump(clocks: Clocks, jump: float, jumps: int) -> None:
    """A step of the wall clock of more than a second is reported once, and is no pause."""
    clocks.pass_by(0.5)
    clocks.now += jump
    clocks.pauses.look()
    clocks.pass_by(0.5)
    assert not clocks.pauses.stood_still()
    assert clocks.jumps == jumps


async def test_a_jump_wakes_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a jump of the wall clock a delayed job starts when the clock shows its time, and not hours later."""
    ahead = 0.0
    monkeypatch.setattr("composerd.queue.pulse.BEAT", 0.01)
    clock = "composerd.queue.jobqueue.Pauses"
    monkeypatch.setattr(clock, lambda on_jump: Pauses(on_jump, now=lambda: time.monotonic() + ahead))
    driver = MemoryDriver()
    await driver.start()
    async with running(driver) as queue:
        delayed = NewJob(id=new_id(), type="build", not_before=7200.0)
        await queue.submit([delayed])
        await driver.jump_clock(7300.0)
        ahead = 7300.0
        claimed = await queue.request((delayed.key,), confirm=False, wait=LONG)
    assert claimed is not None
    assert claimed.job_id == delayed.id

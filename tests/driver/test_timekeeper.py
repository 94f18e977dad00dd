"""Tests of the timekeeper: jumps of the clock, and the ended jobs that are kept because of them."""

import logging

import pytest

from composerd.driver import timekeeper
from composerd.driver.clock import Clock, microseconds
from composerd.driver.timekeeper import ClockState, Timekeeper, dispute

SECOND = 1_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR
NOW = 1_800_000_000 * SECOND


def opened(seen: int = NOW, disputed_since: int = 0, *, now: int = NOW) -> Timekeeper:
    """Return a timekeeper of a storage that was last open at `seen` and is opened at `now`."""
    keeper = Timekeeper()
    keeper.open(ClockState(seen, disputed_since), now, 0)
    return keeper


@pytest.mark.parametrize(
    ("now", "jump"),
    [(NOW + 5 * SECOND, 0), (NOW + 6 * SECOND, 0), (NOW + 4 * SECOND, 0), (NOW + 7 * SECOND, 2), (NOW, -5)],
)
def test_jumps(now: int, jump: int) -> None:
    """A difference of more than a second between the clock and the time that has passed is a jump."""
    assert opened().observe(now, 5 * SECOND) == jump * SECOND


def test_a_jump_is_noticed_once() -> None:
    """After a jump the clock is compared with the time that passes from there."""
    keeper = opened()
    assert keeper.observe(NOW + 100 * SECOND, 0) == 100 * SECOND
    assert keeper.observe(NOW + 110 * SECOND, 10 * SECOND) == 0
    assert keeper.observe(NOW, 10 * SECOND) == -110 * SECOND


@pytest.mark.parametrize(
    ("seen", "jump"),
    [(0, 0), (NOW, 0), (NOW - 50 * 60 * SECOND, 0), (NOW - 2 * HOUR, 2 * HOUR), (NOW + HOUR, -HOUR)],
    ids=["new", "just closed", "closed for less than an hour", "closed for longer", "was ahead"],
)
def test_jumps_while_closed(seen: int, jump: int) -> None:
    """A storage that was closed for more than an hour, or that was open later than now, may have had a jump."""
    assert Timekeeper().open(ClockState(seen), NOW, 0) == jump


@pytest.mark.parametrize(
    ("jump", "logged"),
    [
        (8 * HOUR, "the clock jumped forward by 8.0 hours"),
        (-400 * DAY, "the clock jumped back by 400.0 days"),
        (61 * SECOND, "the clock jumped forward by 61.0 s"),
    ],
)
def test_a_jump_is_logged_with_its_size(jump: int, logged: str, caplog: pytest.LogCaptureFixture) -> None:
    """The log says how far the clock jumped, and in which direction."""
    opened().observe(NOW + jump, 0)
    assert logged in caplog.text


def test_a_start_after_a_day_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A start with a clock that is far from the time at which the storage was last open is logged, either way."""
    opened(NOW - 3 * DAY)
    opened(NOW + 2 * HOUR)
    assert "the clock is 3.0 days ahead" in caplog.text
    assert "the clock is 2.0 hours behind" in caplog.text


def test_kept_in_the_first_minute() -> None:
    """Jobs that ended before a start or a jump are kept for a minute after it."""
    keeper = opened()
    assert keeper.kept_before(NOW + 59 * SECOND) == NOW
    assert keeper.kept_before(NOW + 60 * SECOND) == 0
    keeper.observe(NOW + 100 * SECOND, 0)
    assert keeper.kept_before(NOW + 110 * SECOND) == NOW + 100 * SECOND
    assert keeper.kept_before(NOW + 160 * SECOND) == 0


def test_kept_for_a_day() -> None:
    """Jobs that ended before a jump of more than an hour are kept for a day, over a restart too."""
    keeper = opened()
    after = NOW + 2 * HOUR
    keeper.observe(after, 0)
    assert keeper.kept_before(after + HOUR) == after
    keeper = opened(after + HOUR, keeper.state.disputed_since, now=after + HOUR)
    keeper.observe(after + DAY - SECOND, DAY - HOUR - SECOND)
    assert keeper.kept_before(after + DAY - SECOND) == after
    keeper.observe(after + DAY, DAY - HOUR)
    assert keeper.kept_before(after + DAY) == 0


def test_the_day_does_not_pass_while_closed() -> None:
    """Of the day that ends a dispute, a night in which the storage was closed is no part."""
    keeper = opened(NOW, NOW - 2 * HOUR, now=NOW + 14 * HOUR)
    assert keeper.state.disputed_since == NOW + 12 * HOUR


def test_the_day_begins_again_after_a_jump_of_more_than_a_day() -> None:
    """However long a clock has been steady, that says nothing about one that is found 400 days ahead at a start."""
    keeper = opened(NOW, NOW - 23 * HOUR, now=NOW + 400 * DAY)
    keeper.observe(NOW + 400 * DAY + 2 * HOUR, 2 * HOUR)
    assert keeper.kept_before(NOW + 400 * DAY + 2 * HOUR) == NOW + 400 * DAY


def test_set_back() -> None:
    """Once the clock was set back by as much as it had jumped, jobs are only kept for a minute."""
    keeper = opened()
    keeper.observe(NOW + 400 * DAY, 0)
    keeper.observe(NOW, 0)
    assert keeper.kept_before(NOW) == NOW
    assert keeper.kept_before(NOW + 60 * SECOND) == 0


def test_confirmed() -> None:
    """A clock that an operator has confirmed keeps no jobs, and is not described as disputed."""
    keeper = opened(NOW - DAY)
    disputed = {"clock": "jumped ahead; jobs that ended before 2027-01-15 08:00:00 UTC are kept"}
    assert dispute(keeper.state.disputed_since) == disputed
    keeper.confirm()
    assert keeper.kept_before(NOW + HOUR) == 0
    assert dispute(keeper.state.disputed_since) == {}


def test_stored_now_and_then() -> None:
    """The state is to be stored once a minute, and when the clock is disputed or no longer is."""
    keeper = opened()
    assert keeper.to_store() is None
    keeper.observe(NOW + 61 * SECOND, 61 * SECOND)
    assert keeper.to_store() == ClockState(NOW + 61 * SECOND)
    assert keeper.to_store() is None
    keeper.observe(NOW + 2 * HOUR, 62 * SECOND)
    assert keeper.to_store() == ClockState(NOW + 2 * HOUR, NOW + 2 * HOUR)
    keeper.confirm()
    assert keeper.to_store() == ClockState(NOW + 2 * HOUR)


def test_the_end_of_a_dispute_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The log says when jobs are removed again."""
    keeper = opened(NOW - DAY)
    with caplog.at_level(logging.WARNING, timekeeper.__name__):
        keeper.observe(NOW + DAY, DAY)
    assert "the clock has been steady for a day" in caplog.text


def test_a_clock_that_was_stopped_between_two_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall time and the time that has passed belong to one moment, also if the process was stopped in between."""
    elapsed = iter([0, microseconds(30.0), microseconds(30.0), microseconds(30.0)])
    now = iter([NOW, NOW + microseconds(30.0)])
    monkeypatch.setattr(Clock, "elapsed", lambda _clock: next(elapsed))
    monkeypatch.setattr(Clock, "now", lambda _clock: next(now))
    assert Clock().read() == (NOW + microseconds(30.0), microseconds(30.0))

"""A clock for drivers of one process, and the conversion of times.

The clock follows the wall clock, which may jump. `composerd.driver.timekeeper` notices a jump by the time that has
passed meanwhile, which the clock tells too.
"""

import time
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

MICRO = 1_000_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_AT_ONCE = 100_000
"""Time in microseconds within which two readings belong to one moment."""


class Moment(NamedTuple):
    """A moment as a clock tells it, in microseconds."""

    now: int
    """The wall time, since the epoch."""
    elapsed: int
    """The time that has passed since some earlier moment."""


class Clock:
    """The wall clock of this machine, and the time that passes, which no step of the wall clock changes."""

    def __init__(self) -> None:
        self._shift = 0
        self._step = 0

    def now(self) -> int:
        """Return the wall time, in microseconds since the epoch. It may jump, back too."""
        return time.time_ns() // 1000 + self._shift + self._step

    def elapsed(self) -> int:
        """Return the time that has passed since some moment, in microseconds. It never goes back."""
        return time.monotonic_ns() // 1000 + self._shift

    def read(self) -> Moment:
        """Return the wall time and the time that has passed, both read at one moment."""
        while True:
            before = self.elapsed()
            moment = Moment(self.now(), self.elapsed())
            if moment.elapsed - before < _AT_ONCE:
                return moment  # else the process was stopped in between

    def shift(self, seconds: float) -> None:
        """Let this number of seconds pass, in addition to earlier calls."""
        self._shift += microseconds(seconds)

    def jump(self, seconds: float) -> None:
        """Step the wall time by this number of seconds, while no time passes."""
        self._step += microseconds(seconds)


def microseconds(seconds: float) -> int:
    """Convert a duration of the contract, in seconds, to the integer that a driver stores."""
    return round(seconds * MICRO)


def seconds(microseconds: int) -> float:
    """Convert a stored duration to the seconds of the contract."""
    return microseconds / MICRO


def to_time(microseconds: int) -> datetime:
    """Convert a stored time to the time of the contract."""
    return _EPOCH + timedelta(microseconds=microseconds)


def from_time(time: datetime) -> int:
    """Convert a time of the contract to the integer that a driver stores."""
    since = time - _EPOCH
    return (since.days * 86_400 + since.seconds) * MICRO + since.microseconds

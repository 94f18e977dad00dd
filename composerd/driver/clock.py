"""A clock for drivers of one process, and the conversion of times.

The clock follows the wall clock, which may jump. `composerd.driver.timekeeper` notices a jump by the time that has
passed meanwhile, which the clock tells too.
"""

import time
from datetime import UTC, datetime, timedelta

MICRO = 1_000_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


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

    def shift(self, seconds: float) -> None:
        """Let this number of seconds pass, in addition to earlier calls."""
        self._shift += microseconds(seconds)

    def jump(self, seconds: float) -> None:
        """Step the wall time by this number of seconds, while no time passes."""
        self._step += microseconds(seconds)

    def not_before(self, time: int) -> None:
        """Advance the clock to a stored time if it is behind, as after a start with a wall clock that was set back."""
        self._step += max(time - self.now(), 0)


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

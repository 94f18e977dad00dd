"""A clock for drivers of one process, and the conversion of times.

The clock takes the wall time when it is created and is monotonic from then on, so no step of the wall clock ends a
lease.
"""

import time
from datetime import UTC, datetime, timedelta

MICRO = 1_000_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Clock:
    """A clock in microseconds since the epoch. It never goes back while the process runs."""

    def __init__(self) -> None:
        self._offset = time.time_ns() // 1000 - time.monotonic_ns() // 1000

    def now(self) -> int:
        """Return the time, in microseconds since the epoch."""
        return time.monotonic_ns() // 1000 + self._offset

    def shift(self, seconds: float) -> None:
        """Advance the clock by this number of seconds, in addition to earlier calls."""
        self._offset += microseconds(seconds)

    def not_before(self, time: int) -> None:
        """Advance the clock to a stored time if it is behind, as after a start with a wall clock that was set back."""
        self._offset += max(time - self.now(), 0)


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

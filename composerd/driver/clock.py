"""A clock for drivers of one process: wall time at the start, then monotonic, so that no step of the wall clock ends a lease."""

import time
from datetime import UTC, datetime, timedelta

MICRO = 1_000_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Clock:
    """Microseconds since the epoch; never goes back while the process lives."""

    def __init__(self) -> None:
        self._offset = time.time_ns() // 1000 - time.monotonic_ns() // 1000

    def now(self) -> int:
        """The time."""
        return time.monotonic_ns() // 1000 + self._offset

    def shift(self, seconds: float) -> None:
        """Run that much further ahead."""
        self._offset += microseconds(seconds)

    def not_before(self, time: int) -> None:
        """Begin no earlier than a time that was given already, should the wall clock have gone back since the last start."""
        self._offset += max(time - self.now(), 0)


def microseconds(seconds: float) -> int:
    """A duration as the driver keeps it."""
    return round(seconds * MICRO)


def seconds(microseconds: int) -> float:
    """A duration as the contract has it."""
    return microseconds / MICRO


def to_time(microseconds: int) -> datetime:
    """A time as the contract has it."""
    return _EPOCH + timedelta(microseconds=microseconds)


def from_time(time: datetime) -> int:
    """A time as the driver keeps it."""
    since = time - _EPOCH
    return (since.days * 86_400 + since.seconds) * MICRO + since.microseconds

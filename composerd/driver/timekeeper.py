"""The trust of a storage in its clock: `Timekeeper` notices jumps, and keeps retention from following them.

Nothing here reads a clock. A driver passes the storage's time and the time that has passed, both in microseconds; the
second one comes from a monotonic clock of the server, and only its differences mean something.
"""

import logging

import msgspec

from composerd.driver.clock import microseconds, seconds, to_time

log = logging.getLogger(__name__)

JUMP = microseconds(1.0)
"""The largest difference between the clock and the time that has passed that is not a jump."""

STEADY_AFTER = microseconds(60.0)
"""Time for which the clock must not have jumped before jobs that ended earlier are purged."""

DISPUTED = microseconds(3600.0)
"""A jump forward of more than this suspends the purging of jobs that ended before it."""

SETTLED_AFTER = microseconds(86_400.0)
"""Time without another such jump after which that purging goes on."""

STORED_EVERY = microseconds(60.0)
"""Time after which the state is stored again although nothing else in it has changed."""


class ClockState(msgspec.Struct, frozen=True):
    """The part of a timekeeper's memory that the storage keeps across starts. Times are those of the storage."""

    seen: int = 0
    """A time at which the storage was open, not long before it was closed; 0 for a new storage."""
    disputed_since: int = 0
    """Jobs that ended before this time are not purged; 0 if the clock is not disputed."""


class Timekeeper:
    """Compares a storage's clock with the time that passes, from `open` on."""

    def __init__(self) -> None:
        self.state = ClockState()
        self._stored = ClockState()
        self._elapsed = 0
        """The time that had passed at the last observation."""
        self._steady_since = 0
        """Time of the storage at which it was opened, or at which its clock jumped last."""

    def open(self, stored: ClockState, now: int, elapsed: int) -> int:
        """Begin to compare. A storage that was last open more than an hour ago may have a clock that is wrong.

        Returns:
            The time in microseconds by which the clock may have jumped while the storage was closed, negative if it
            went back; 0 if it did not. It has been logged.
        """
        gap = _gap(stored, now)
        if gap > DISPUTED:
            log.warning(
                "the clock is %s ahead of the time at which the storage was last open; "
                "jobs that ended before are not removed until the clock has been steady for a day: "
                "if the time is right, `composerd storage confirm-clock` ends that",
                readable(gap),
            )
        elif gap < -JUMP:
            log.warning("the clock is %s behind the time at which the storage was last open", readable(-gap))
        self._stored = stored
        self._elapsed = elapsed
        self._steady_since = now
        self.state = _opened(stored, now)
        return gap if gap > DISPUTED or gap < -JUMP else 0

    def show(self, stored: ClockState, now: int) -> None:
        """Have the state that `open` would have now, of a storage that is only read. This logs nothing."""
        self.state = _opened(stored, now)

    def observe(self, now: int, elapsed: int) -> int:
        """Compare the clock with the time that has passed since the last observation.

        Returns:
            The jump of the clock in microseconds, negative if it went back; 0 if it did not jump. It has been logged.
        """
        jump = now - self.state.seen - (elapsed - self._elapsed)
        disputed = self.state.disputed_since
        self._elapsed = elapsed
        if abs(jump) <= JUMP:
            jump = 0
        else:
            self._steady_since = now
            log.warning(
                "the clock jumped %s by %s; every running attempt gets a full lease",
                "forward" if jump > 0 else "back",
                readable(abs(jump)),
            )
        if jump > DISPUTED:
            disputed = now
            log.warning(
                "jobs that ended before the clock jumped are not removed until it has been steady for a day: "
                "if the time is right, `composerd storage confirm-clock` ends that"
            )
        self.state = ClockState(now, _settled(disputed, now))
        return jump

    def kept_before(self, now: int) -> int:
        """Return a time of the storage: jobs that ended before it must not be purged now."""
        if now - self._steady_since < STEADY_AFTER:
            return max(self._steady_since, self.state.disputed_since)
        return self.state.disputed_since

    def confirm(self) -> None:
        """Trust the clock again: an operator says that it is right."""
        self.state = ClockState(self.state.seen)

    def to_store(self) -> ClockState | None:
        """Return the state if the storage should store it now, and None if what it has is good enough."""
        state, stored = self.state, self._stored
        if state.disputed_since == stored.disputed_since and abs(state.seen - stored.seen) < STORED_EVERY:
            return None
        self._stored = state
        return state


def _gap(stored: ClockState, now: int) -> int:
    """Return for how long a storage was closed, in microseconds by its clock; 0 if it was never open."""
    return now - stored.seen if stored.seen else 0


def _opened(stored: ClockState, now: int) -> ClockState:
    """Return the state of the clock when a storage is opened."""
    gap, disputed = _gap(stored, now), stored.disputed_since
    if gap > DISPUTED:
        # Time without a server does not count towards the day, but lets it go on the next day.
        disputed = disputed + gap if disputed and gap <= SETTLED_AFTER else now
    return ClockState(now, _settled(disputed, now))


def _settled(disputed_since: int, now: int) -> int:
    """Return the time since which the clock is disputed, or 0 if it no longer is."""
    if disputed_since and now - disputed_since >= SETTLED_AFTER:
        log.warning("the clock has been steady for a day; jobs whose retention is over are removed again")
        return 0
    if disputed_since > now + DISPUTED:
        log.warning("the clock was set back; jobs whose retention is over are removed again")
        return 0
    return disputed_since


def dispute(disputed_since: int) -> dict[str, str]:
    """Return what `StorageInfo.details` says about the clock: nothing unless it is disputed."""
    if not disputed_since:
        return {}
    return {"clock": f"jumped ahead; jobs that ended before {to_time(disputed_since):%F %T} UTC are kept"}


def readable(microseconds: int) -> str:
    """Return a duration for people: `400.0 days`, `8.0 hours`, `61.5 s`."""
    duration = seconds(microseconds)
    if duration >= 2 * 86_400:
        return f"{duration / 86_400:.1f} days"
    if duration >= 2 * 3600:
        return f"{duration / 3600:.1f} hours"
    return f"{duration:.1f} s"

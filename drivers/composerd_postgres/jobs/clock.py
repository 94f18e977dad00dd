"""The storage's clock, which is the database's, and the time in which no server looked after the leases.

The servers share what they know of both in the only row of the table `clock`. Each compares the database's clock with
the time that passes on its own, and notes that it looks after the leases.
"""

import logging
from collections.abc import Callable, Coroutine
from typing import Any

from composerd.driver.clock import microseconds, seconds, to_time
from composerd.driver.timekeeper import JUMP, STORED_EVERY, ClockState, Timekeeper
from composerd_postgres.db.connection import Transaction, repeated
from composerd_postgres.session import Session

log = logging.getLogger(__name__)

ATTEND_EVERY = 1.0
"""Time in seconds after which `advance` is called at the latest while attempts are running."""

ATTENDED_WITHIN = 3.0
"""Time in seconds between two notes of servers that is usual while one of them looks after the leases."""

_NOTED_EVERY = microseconds(ATTEND_EVERY / 2)
"""Time after which it is noted again that one does."""


class StorageClock:
    """The database's clock as one server sees it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._keeper = Timekeeper()
        self._elapsed = 0
        """The time that had passed here when the database's clock was read last."""
        self._written = 0
        """The time of the storage at which a write of this server was last known to work."""
        self._suspended = 0
        """The time in which this machine was suspended: its monotonic clock did not count it."""

    async def open(self) -> None:
        """Begin to compare the clocks, and give back to the leases the time in which no server was there."""
        await self._alone(self._open)

    async def grace(self) -> None:
        """Give back to the leases the time in which no server was there, if there was such a time."""
        await self._alone(self._extend_leases, 0)

    async def confirm(self) -> None:
        """See `Driver.confirm_clock`."""
        await self._session.connections.fetch(self._session.statements["save_dispute"], {"disputed_since": None})
        self._keeper.confirm()

    async def read(self) -> int:
        """Return the time, after a comparison of the clocks."""
        session = self._session
        asked = session.clock.elapsed()
        (row,) = await session.connections.fetch(session.statements["clock"], {"shift": session.shift})
        await self.observe(row, asked)
        return int(row.now)

    def kept_before(self, now: int) -> int:
        """Return a time of the storage: jobs that ended before it must not be purged now."""
        return self._keeper.kept_before(now)

    async def observe(self, row: Any, asked: int) -> bool:
        """Compare the clock with the time that has passed since the last call; let the leases follow a jump of it.

        Args:
            row: The columns of the statement `clock`.
            asked: The time that had passed here before the database was asked for them.

        Returns:
            True if the clock had jumped, so that what was read of the leases is out of date.
        """
        keeper = self._keeper
        seen, stored = keeper.state.seen, row.disputed_since or 0
        keeper.state = ClockState(seen, stored)  # another server, or an operator, may have changed it
        # The database read its clock at some time between the question and the answer: a slow answer is no jump.
        expected = self._elapsed + row.now - seen
        elapsed = min(max(expected, asked + self._suspended), self._session.clock.elapsed() + self._suspended)
        ahead = expected - elapsed
        if ahead > JUMP and row.attended > row.now - ahead + JUMP and not _is_known(row, ahead, seen):
            # Another server has looked after the leases since, and saw no jump: this machine was suspended.
            log.info("this machine was suspended for %.1f s, and other servers were not", seconds(ahead))
            self._suspended += ahead
            elapsed = expected
        self._elapsed = elapsed
        jump = keeper.observe(row.now, elapsed)
        disputed_since = keeper.state.disputed_since
        if jump:
            await self._alone(self._follow, jump, seen)
        if disputed_since != stored:
            parameters = {"disputed_since": _time(disputed_since)}
            await self._session.connections.fetch(self._session.statements["save_dispute"], parameters)
        return jump != 0

    async def attend(self, row: Any) -> bool:
        """Note that this server looked after the leases when it read this row of `find_due`.

        While there are none, this is only noted so that a later start knows how long the storage was closed.
        If the last note is older than usual, every server was stopped, or could not write: then `grace` is due.

        Returns:
            True if leases got time back, so that what was read of them is out of date.
        """
        session = self._session
        if row.running and row.now - self._attended(row) - session.worked > microseconds(ATTENDED_WITHIN):
            await self._alone(self._extend_leases, session.worked)
            return True
        if row.now - self._written >= (_NOTED_EVERY if row.running else STORED_EVERY):
            # Not the present time: a commit that hangs until its time is over may be visible later, and proves nothing.
            parameters = {"shift": session.shift, "now": to_time(self._written + session.worked)}
            await session.connections.fetch(session.statements["attend"], parameters)
            self._written, session.worked = row.now, 0
        return False

    def _attended(self, row: Any) -> int:
        """Return the last time at which a server is known to have looked after the leases: this one, or another."""
        return max(int(row.attended), self._written)

    async def _alone(self, work: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        """Call `work` in a transaction in which no other server grants time to leases."""

        async def once() -> int:
            session = self._session
            statement = session.statements.joined("lock_clock", "clock")
            async with session.connections.one() as connection:
                transaction = Transaction(connection)
                (row,) = await transaction.begin(statement, {"shift": session.shift})
                await work(transaction, row, *args)
                return int(row.now)

        self._written = await repeated(once)
        self._session.worked = 0

    async def _open(self, transaction: Transaction, row: Any) -> None:
        self._elapsed = self._session.clock.elapsed() + self._suspended
        stored = ClockState(row.attended or 0, row.disputed_since or 0)
        jump = self._keeper.open(stored, row.now, self._elapsed)
        parameters = {"disputed_since": _time(self._keeper.state.disputed_since)}
        await transaction.fetch(self._session.statements["save_dispute"], parameters)
        if jump or row.attended is None:
            await self._grant_grace(transaction, row, jump)
        else:
            await self._extend_leases(transaction, row, 0)

    async def _follow(self, transaction: Transaction, row: Any, jump: int, seen: int) -> None:
        """Let the leases follow a jump, unless another server has done so since the clock was seen before it."""
        if _is_known(row, jump, seen):
            await transaction.commit()
        else:
            await self._grant_grace(transaction, row, jump)

    async def _grant_grace(self, transaction: Transaction, row: Any, jump: int) -> None:
        parameters = {"now": to_time(row.now), "jump": seconds(jump)}
        names = ("shorten_backoffs", "grant_grace", "save_jump", "attend_now")
        await transaction.commit(self._session.statements.joined(*names), parameters)

    async def _extend_leases(self, transaction: Transaction, row: Any, worked: int) -> None:
        """Give the leases the time in which no server looked after them, except that in which this one worked."""
        gap = seconds(row.now - self._attended(row) - worked)
        parameters = {"now": to_time(row.now), "gap": gap, "attended_within": ATTENDED_WITHIN}
        names = ["extend_lease"]
        if gap > ATTENDED_WITHIN:  # else it may be the beginning of a longer one
            names.append("attend_now")
        await transaction.commit(self._session.statements.joined(*names), parameters)


def _is_known(row: Any, jump: int, seen: int) -> bool:
    """Return True if the leases have followed a jump since the clock was seen before it."""
    if row.jump is None or abs(microseconds(row.jump) - jump) > 2 * JUMP:
        return False
    return bool(seen + jump - JUMP <= row.jumped_at <= row.now + JUMP)


def _time(stored: int) -> Any:
    """Return a time of the timekeeper's as the database stores it."""
    return to_time(stored) if stored else None

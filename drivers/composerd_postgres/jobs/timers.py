"""Does what is due (`Driver.advance`): expired leases, delayed jobs, and ends that are still to be propagated."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from composerd.driver import transitions
from composerd.driver.clock import microseconds, seconds, to_time
from composerd.errors import DriverError, DriverTimeout
from composerd.models import Key
from composerd_postgres.db.connection import Transaction, repeated
from composerd_postgres.jobs.attempts import LockedAttempts, requeue
from composerd_postgres.jobs.clock import ATTEND_EVERY, StorageClock
from composerd_postgres.jobs.decisions import Decisions
from composerd_postgres.jobs.propagate import EDGES_OF_A_CALL, propagate
from composerd_postgres.jobs.records import LeaseRecord
from composerd_postgres.news.changes import Changes
from composerd_postgres.session import Session
from composerd_postgres.sql.statements import array

RESCAN = microseconds(5.0)
"""Time after which the leases are read again at the latest: other servers begin attempts too."""


class Timers:
    """The timers of one driver."""

    def __init__(self, session: Session, clock: StorageClock) -> None:
        self._session = session
        self._clock = clock

    async def advance(self, limit: int) -> tuple[list[UUID], Changes]:
        """See `Driver.advance`."""
        session = self._session
        changes = Changes()
        due = await self._find_due(limit)
        if not session.renewals_hang and await self._clock.attend(due):
            due = await self._find_due(limit)
        done: list[UUID] = []
        refused: DriverError | None = None
        if due.delayed_until is not None and due.delayed_until <= due.now:
            try:
                done += await repeated(self._start_delayed, due.now, limit, changes)
            except DriverTimeout:
                raise
            except DriverError as exc:  # one statement that is refused must not keep every lease from ending
                refused = exc
        room = limit - len(done)
        unpropagated = list(due.unpropagated)
        if due.expired and room > 0:
            decisions, requeued = await repeated(self._end_expired, due.expired[:room], due.now)
            changes.add(decisions.changes)
            done += requeued
            unpropagated += decisions.to_propagate
        # After the timers, so that they go on while a large graph ends.
        propagated = await propagate(session, unpropagated, changes, min(limit - len(done), EDGES_OF_A_CALL))
        if refused is not None:
            raise refused
        if due.unpropagated or done:
            due = await self._find_due(limit)
        if due.delayed_until is not None:
            changes.due(seconds(due.delayed_until - due.now))
        locked = bool(due.expired) and not done  # other transactions have their jobs
        if due.running:
            expiry_in = seconds(session.expiry_at - session.clock.elapsed())
            changes.due(ATTEND_EVERY if locked or session.renewals_hang else min(ATTEND_EVERY, expiry_in))
        if due.unpropagated or (due.expired and not locked) or propagated + len(done) >= limit:
            changes.due(0.0)
        return done, changes

    async def _find_due(self, limit: int) -> Any:
        """Return the row of the statement `find_due`, read again if the clock had jumped.

        While renewals hang, no lease is read, so none ends. Nor are the leases attended to: they get that time back.
        """
        due, jumped = await self._find_due_once(limit)
        return (await self._find_due_once(limit))[0] if jumped else due

    async def _find_due_once(self, limit: int) -> tuple[Any, bool]:
        """Return the row of the statement `find_due`; and True if the leases followed a jump after it was read."""
        session = self._session
        asked = session.clock.elapsed()
        expiring = session.expiry_at <= asked and not session.renewals_hang
        parameters = {"shift": session.shift, "expiring": expiring, "limit": limit}
        (due,) = await session.connections.fetch(session.statements["find_due"], parameters)
        if expiring and not due.expired:
            session.expiry_at = asked + (RESCAN if due.next_expiry is None else min(due.next_expiry - due.now, RESCAN))
        return due, await self._clock.observe(due, asked)

    async def _start_delayed(self, now: int, limit: int, changes: Changes) -> list[UUID]:
        session = self._session
        started = Changes()
        async with session.connections.one() as connection:
            transaction = Transaction(connection)
            parameters: dict[str, Any] = {"now": to_time(now), "limit": limit}
            rows = await transaction.begin(session.statements["start_delayed"], parameters)
            for row in rows:
                started.became_ready(Key(row.channel, row.type, row.arch or None), (-row.priority, row.position))
            await session.commit(transaction, (), parameters, started)
        changes.add(started)
        return [row.id for row in rows]

    async def _end_expired(self, hashes: Sequence[UUID], now: int) -> tuple[Decisions, list[UUID]]:
        """Requeue or fail the jobs of attempts whose time was over, unless they were renewed or ended meanwhile.

        A job that another transaction has locked is left for later: that transaction may hang, and no job waits for it.
        `now` is the time at which they were found: since then this process may have been stopped, or the clock jumped.
        """
        session = self._session
        async with session.connections.one() as connection:
            transaction = Transaction(connection)
            rows = await transaction.begin(session.statements["lock_free_attempts"], {"hashes": array(hashes)})
            free = array(row.token_hash for row in rows)
            parameters = {"shift": session.shift, "hashes": free, "draw_positions": True}
            locked = LockedAttempts(await transaction.fetch(session.statements["read_attempts"], parameters))
            rows = await transaction.fetch(session.statements["read_leases"], {"hashes": array(hashes)})
            leases = {row.token_hash: row for row in rows}
            decisions = Decisions(session, locked.now)
            done: list[UUID] = []
            for token_hash in hashes:
                attempt = locked.attempts.get(token_hash)
                if attempt is None or not attempt.running or token_hash not in leases:
                    continue
                cause = transitions.expiry(LeaseRecord.of(leases[token_hash]), now)
                if cause is not None:
                    requeue(decisions, locked, attempt, cause)
                    done.append(attempt.job_id)
            await decisions.commit(transaction)
        return decisions, done

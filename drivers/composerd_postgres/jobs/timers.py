"""Does what is due (`Driver.advance`): expired leases, delayed jobs, and ends that are still to be propagated."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from composerd.driver import transitions
from composerd.driver.clock import seconds, to_time
from composerd.models import Key
from composerd_postgres.db.connection import Transaction, repeated
from composerd_postgres.jobs.attempts import lock_attempts, requeue
from composerd_postgres.jobs.decisions import Decisions
from composerd_postgres.jobs.propagate import propagate
from composerd_postgres.jobs.records import LeaseRecord
from composerd_postgres.news.changes import Changes
from composerd_postgres.session import Session
from composerd_postgres.sql.statements import array


class Timers:
    """The timers of one driver. They end no attempt within one lease of its start, or of the end of an outage."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._since = 0

    async def resume(self) -> None:
        """Begin to end attempts one lease from now; let the clock not fall behind what is stored.

        Called when the storage was opened, and when it is available again after leases could not be renewed.
        """
        session = self._session
        fetch, statements = session.connections.fetch, session.statements
        await fetch(statements["advance_clock"], {"own": f"{session.own_shift} seconds"})
        (clock,) = await fetch(statements["clock"], {})
        session.follow_clock(clock.ahead)
        (now,) = await fetch(statements["now"], {"shift": session.shift})
        self._since = now.now

    async def advance(self, limit: int) -> tuple[list[UUID], Changes]:
        """See `Driver.advance`."""
        session = self._session
        changes = Changes()
        if session.connections.outage:
            await self.resume()
            session.connections.outage = False
        due = await self._find_due(limit)
        propagated = await propagate(session, due.unpropagated, changes, limit)
        done: list[UUID] = []
        if due.delayed_until is not None and due.delayed_until <= due.now and propagated < limit:
            done += await repeated(self._start_delayed, due.now, limit - propagated, changes)
        room = limit - propagated - len(done)
        if due.expired and room > 0:
            decisions, requeued = await repeated(self._end_expired, due.expired[:room])
            changes.add(decisions.changes)
            done += requeued
            await propagate(session, decisions.to_propagate, changes, limit)
        if due.unpropagated or done:
            due = await self._find_due(limit)
        for at in (due.delayed_until, due.next_expiry):
            if at is not None:
                changes.due(seconds(at - due.now))
        if due.unpropagated or due.expired or propagated + len(done) >= limit:
            changes.due(0.0)
        return done, changes

    async def _find_due(self, limit: int) -> Any:
        """Return the row of the statement `find_due`."""
        session = self._session
        parameters = {"shift": session.shift, "since": to_time(self._since), "limit": limit}
        (due,) = await session.connections.fetch(session.statements["find_due"], parameters)
        session.follow_clock(due.ahead)
        return due

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

    async def _end_expired(self, tokens: Sequence[UUID]) -> tuple[Decisions, list[UUID]]:
        """Requeue or fail the jobs of attempts whose time is over, unless they were renewed or ended meanwhile."""
        session = self._session
        async with session.connections.one() as connection:
            transaction = Transaction(connection)
            locked = await lock_attempts(session, transaction, tokens, draw_positions=True)
            rows = await transaction.fetch(session.statements["read_leases"], {"tokens": array(tokens)})
            leases = {row.token: row for row in rows}
            decisions = Decisions(session, locked.now)
            done: list[UUID] = []
            for token in tokens:
                attempt = locked.attempts.get(token)
                if attempt is None or not attempt.running or token not in leases:
                    continue
                cause = transitions.expiry(LeaseRecord.since(leases[token], self._since), locked.now)
                if cause is not None:
                    requeue(decisions, locked, attempt, cause)
                    done.append(attempt.job_id)
            await decisions.commit(transaction)
        return decisions, done

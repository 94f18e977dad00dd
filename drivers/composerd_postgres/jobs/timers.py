"""What time brings: leases that ran out, jobs whose time has come, ends whose consequences are open, retention."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from composerd.driver.transitions import RequeueCause
from composerd.models import Key
from composerd_postgres.db.connection import Transaction, repeated
from composerd_postgres.jobs.attempts import lock
from composerd_postgres.jobs.decisions import notify
from composerd_postgres.news.changes import Changes
from composerd_postgres.session import Session
from composerd_postgres.sql.statements import array

MAX_WORKERS = 100_000
"""How many workers are remembered; those not heard of for longest are forgotten first."""


class Time:
    """How time passes for one driver. No attempt that began before its start, or before an outage, lapses within one lease of that."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._since: datetime | None = None

    async def begin(self) -> None:
        """The storage has been opened, or is there again."""
        session = self._session
        await session.connections.fetch(session.statements["catch_up"], {"own": f"{session.shift} seconds"})
        ((session.ahead,),) = await session.connections.fetch(session.statements["ahead_of_clock"], {})
        ((now,),) = await self._session.connections.fetch(
            "SELECT clock_timestamp() + %(shift)s::interval", self._session.parameters()
        )
        self._since = now

    async def advance(self, limit: int) -> tuple[list[UUID], Changes]:
        """See `Driver.advance`."""
        session = self._session
        changes = Changes()
        if session.connections.lost:
            await self.begin()  # nobody could renew a lease meanwhile
            session.connections.lost = False
        now, unsettled, delayed_until, lapsed, next_lapse = await self._look(limit)
        done: list[UUID] = []
        settled = await session.settle(unsettled, changes, limit) if unsettled else 0
        if delayed_until is not None and delayed_until <= now and settled < limit:
            done += await repeated(lambda: self._release_delayed(now, limit - settled, changes))
        room = limit - settled - len(done)
        if lapsed and room > 0:
            returned, with_dependents = await repeated(lambda: self._lapse(lapsed[:room], changes))
            done += returned
            if with_dependents:
                await session.settle(with_dependents, changes, limit)
        if unsettled or done:
            now, unsettled, delayed_until, lapsed, next_lapse = await self._look(limit)
        for at in (delayed_until, next_lapse):
            if at is not None:
                changes.due((at - now).total_seconds())
        if unsettled or lapsed or settled + len(done) >= limit:
            changes.due(0.0)
        return done, changes

    async def _look(self, limit: int) -> tuple[datetime, list[UUID], datetime | None, list[UUID], datetime | None]:
        parameters = self._session.parameters(since=self._since, limit=limit)
        (seen,) = await self._session.connections.fetch(self._session.statements["look_ahead"], parameters)
        now, unsettled, delayed_until, lapsed, next_lapse, self._session.ahead = seen
        return now, unsettled, delayed_until, lapsed, next_lapse

    async def _release_delayed(self, now: datetime, limit: int, changes: Changes) -> list[UUID]:
        session = self._session
        some = Changes()
        async with session.connections.one() as connection:
            transaction = Transaction(connection)
            parameters = {"now": now, "limit": limit}
            rows = await transaction.begin(session.statements["release_delayed"], parameters)
            for _, channel, type_, arch, rank, place in rows:
                some.became_ready(Key(channel, type_, arch or None), (rank, place))
            names: list[str] = []
            notify(names, parameters, session.statements.schema, session.origin, some)
            await transaction.commit(session.statements.all(*names), parameters)
        changes.add(some)
        return [row[0] for row in rows]

    async def _lapse(self, tokens: Sequence[UUID], changes: Changes) -> tuple[list[UUID], list[UUID]]:
        session = self._session
        async with session.connections.one() as connection:
            transaction = Transaction(connection)
            locked, now = await lock(session, transaction, tokens, places=True)
            if now is None:
                await transaction.commit()
                return [], []
            parameters = session.parameters(since=self._since, now=now, tokens=array(tokens))
            leases = {
                token: (confirmed, timed_out, lapsed)
                for token, confirmed, timed_out, lapsed in await transaction.fetch(
                    session.statements["read_lapsed"], parameters
                )
            }
            work = session.work(now)
            done: list[UUID] = []
            for token in tokens:
                run = locked.runs.get(token)
                confirmed, timed_out, lapsed = leases.get(token, (False, False, False))
                if run is None or not run.running or not lapsed:
                    continue  # renewed, or over, since the look
                cause = RequeueCause.LEASE_EXPIRED if confirmed else RequeueCause.HANDOVER_EXPIRED
                work.give_back(locked.row_to_return(run), run, RequeueCause.TIMED_OUT if timed_out else cause)
                done.append(run.job_id)
            await work.commit(transaction)
        changes.add(work.changes)
        return done, work.with_dependents

    async def purge(self, limit: int) -> list[UUID]:
        """See `Driver.purge`."""
        await self._session.connections.fetch(self._session.statements["forget_workers"], {"most": MAX_WORKERS})
        return await repeated(lambda: self._purge(limit))

    async def _purge(self, limit: int) -> list[UUID]:
        session = self._session
        statements = session.statements
        parameters = session.parameters(limit=limit)
        async with session.connections.one() as connection:
            transaction = Transaction(connection)
            ids = [job_id for (job_id,) in await transaction.begin(statements["lock_expired"], parameters)]
            parameters["ids"] = array(ids)
            needed = await transaction.fetch(statements["needed"], parameters) if ids else []
            blocked = {job_id for (job_id,) in needed}
            gone = [job_id for job_id in ids if job_id not in blocked]
            parameters.update(gone=array(gone), needed=array(blocked))
            names = ["postpone"] if blocked else []
            names += ["delete_jobs"] if gone else []
            await transaction.commit(statements.all(*names), parameters)
        return gone

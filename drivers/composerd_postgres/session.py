"""What every operation of the driver works with: connections, statements, the clock's shift, the other servers' news; and settling."""

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from composerd.errors import ComposerdError
from composerd_postgres.db.connection import Transaction, repeated
from composerd_postgres.db.pool import Connections
from composerd_postgres.db.url import Options
from composerd_postgres.jobs.decisions import Work, encode
from composerd_postgres.jobs.rows import Row, locked_row_of
from composerd_postgres.news.changes import Changes
from composerd_postgres.news.claim_hints import Heads
from composerd_postgres.sql.statements import Statements, array

log = logging.getLogger(__name__)

SETTLED_AT_ONCE = 1000
"""How many dependents of ended jobs one transaction looks at."""

SETTLED_BY_A_CALL = 10_000
"""How many a call looks at before it leaves the rest to `advance`."""


class Session:
    """The database as one driver uses it."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.statements = Statements(options.schema)
        self.connections = Connections(options)
        self.heads = Heads()
        self.origin = uuid4().hex[:12]
        """Tells this driver's notifications from others'."""
        self.shift = 0.0
        """How far this driver's clock is ahead of the others', in seconds; only tests shift it."""
        self.ahead = 0.0
        """How far all drivers' clocks are ahead of the database's, in seconds."""

    def parameters(self, **more: Any) -> dict[str, Any]:
        """Parameters of a statement."""
        return {"shift": f"{self.shift + self.ahead} seconds", **more}

    def work(self, now: datetime) -> Work:
        """A unit of work at this moment."""
        return Work(self.statements, self.origin, now)

    async def settle(self, ended: Sequence[UUID], changes: Changes, limit: int = SETTLED_BY_A_CALL) -> int:
        """Draw what follows from the end of jobs for up to `limit` dependents, and what follows from that; how many it were.

        Not to be able to is no failure of the call that ended them: `advance` does it.
        """
        done = 0
        left = list(ended)
        try:
            while left and done < limit:
                most = min(limit - done, SETTLED_AT_ONCE)
                looked_at, more = await repeated(lambda: self._settle_some(left, most, changes))  # noqa: B023  # called at once
                done += looked_at
                left = [*(left if looked_at >= most else []), *more]
        except ComposerdError as exc:
            log.warning("what follows from the end of %d jobs is drawn later: %s", len(left), exc)
            changes.recheck = True  # whether the last step was done is unknown
        if left:
            changes.due(0.0)
        return done

    async def _settle_some(self, ended: Sequence[UUID], limit: int, changes: Changes) -> tuple[int, list[UUID]]:
        """One transaction: how many edges it looked at (`limit` or more: there may be others), and which jobs ended that are waited for."""
        statements = self.statements
        parameters = self.parameters(ended=array(ended), limit=limit)
        async with self.connections.one() as connection:
            transaction = Transaction(connection)
            ids = [job_id for (job_id,) in await transaction.begin(statements["lock_dependents"], parameters)]
            parameters["ids"] = array(ids)
            records = await transaction.fetch(statements["read_dependents"], parameters) if ids else []
            if not records:
                await transaction.commit(statements["mark_settled"], parameters)
                return 0, []
            work = self.work(records[0][0])
            order = {job_id: nth for nth, job_id in enumerate(ended)}
            records.sort(key=lambda record: order[record[-3]])  # as they ended; the latest dependent first
            rows: dict[UUID, Row] = {}
            for record in records:
                row = rows.setdefault(record[1], locked_row_of(record))
                work.dependency_ended(row, record[-2], record[-1])
            edges = encode([{"dependency": record[-3], "dependent": record[1]} for record in records])
            await work.commit(transaction, "close_edges", "mark_settled", **parameters, edges=edges)
        changes.add(work.changes)
        return len(records), work.with_dependents

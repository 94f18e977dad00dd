"""The sequence `places`, from which the jobs' sequences and positions are drawn, after it was left behind by the jobs.

Logical replication copies rows and no sequences. After a move by it the sequence would return numbers that jobs have.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from composerd_postgres.db.connection import Collision, Transaction, repeated
from composerd_postgres.session import Session
from composerd_postgres.sql.migrate import MIGRATION_LIMIT, begin_alone

log = logging.getLogger(__name__)

T = TypeVar("T")
P = ParamSpec("P")

_INDEX = '"jobs_seq"'
"""The unique index of the jobs' sequences, as PostgreSQL names it when a job cannot be inserted."""


async def catch_up(session: Session) -> None:
    """Set the sequence past all jobs if it is behind the latest one. Nearly always this is one look into an index."""
    statements = session.statements
    parameters = {"schema": session.options.schema}
    (places,) = await session.connections.fetch(statements["places"], parameters)
    if not places.behind:
        return
    async with session.connections.one() as connection:
        transaction = Transaction(connection)
        await begin_alone(transaction)
        rows = await connection.fetch(statements["set_places"], parameters, MIGRATION_LIMIT)
        await transaction.commit()
    if rows:
        log.warning(
            "the sequence of the jobs was behind them, as after logical replication: set it from %d to %d",
            places.last,
            rows[0].last,
        )


async def repeated_inserts(session: Session, insert: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that inserts jobs as `repeated` does; set the sequence if it turns out to be behind."""

    async def attempt() -> T:
        try:
            return await insert(*args, **kwargs)
        except Collision as exc:
            if _INDEX in str(exc):
                await catch_up(session)
            raise

    return await repeated(attempt)

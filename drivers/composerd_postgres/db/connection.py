"""Single connections to the database: statements with a time limit, transactions, translated errors.

Rows are named tuples, and a `timestamptz` in them is an integer, in microseconds since the epoch. Nothing here knows
what a job is. How a connection is opened is in `connecting.py`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

import aiopg
import psycopg2
import psycopg2.errors

from composerd.errors import DriverError, DriverTimeout, OutcomeUnknown, StorageFull, Unavailable
from composerd_postgres.db import copying, refusals

REPETITIONS = 20
"""Number of times that a transaction which collides with others is tried in all."""

ON_PRIMARY = "/*NO QUERY CACHE*//*NO LOAD BALANCE*/"
"""Begins every statement: Pgpool-II sends one that begins with a comment to the primary, and caches no result of it.

A standby may be behind, and lacks what was just written then. The cache does not know what functions write.
"""

Rows = list[Any]
"""Named tuples; the fields are the columns of the statement."""

Parameters = Mapping[str, Any]

T = TypeVar("T")
P = ParamSpec("P")


class Collision(Exception):
    """A transaction collided with another one and was rolled back. It can be repeated at once."""


class Broken(Unavailable):
    """The connection was lost. It is unknown if the last statement was executed."""


class TimeOver(DriverTimeout):
    """The time of the call was over before the statement was sent."""


class LimitExceeded(DriverError):
    """A limit of the server refused the statement, for example the size of its queue of notifications."""


class Refused(Unavailable):
    """Every host refused to open a connection, for example because it has too many."""


class Connection:
    """One connection. A statement is committed by itself unless it is part of a `Transaction`."""

    def __init__(self, raw: aiopg.Connection, time_limit: float) -> None:
        self.raw = raw
        self._time_limit = time_limit
        self.in_transaction = False
        self.opened_at = asyncio.get_running_loop().time()
        self.backend = 0
        """The process of the database that served the first statement; 0 if there was none."""
        self.pooled = False
        """True if a pooler is between, so that another client waits for what this connection holds."""
        self.ends_at = float("inf")
        """The time, by the loop's clock, by which every statement has to be answered."""

    @property
    def closed(self) -> bool:
        """True if the connection cannot be used anymore."""
        return bool(self.raw.closed)

    async def fetch(self, statement: str, parameters: Parameters, time_limit: float | None = None) -> Rows:
        """Execute one or several statements and return the rows of the last one; no rows if it returns none.

        Raises:
            Collision: The transaction has to be repeated.
            Broken: The connection was lost.
            Unavailable: The database cannot be used now; the connection was closed.
            DriverTimeout: There was no answer in time; the connection was closed. `TimeOver` if there was no time left.
            StorageFull: The database has no space.
            LimitExceeded: A limit of the server refused the statement.
            DriverError: The database refused the statement for any other reason.
        """
        limit = self._limit(time_limit)
        try:
            cursor = self.raw.raw.cursor()
            wrapped = aiopg.connection.Cursor(self.raw, cursor, limit, echo=False)
            await wrapped.execute(f"{ON_PRIMARY}{statement}", parameters)
            rows: Rows = cursor.fetchall() if cursor.description is not None else []
            cursor.close()
            return rows
        except TimeoutError as exc:
            raise DriverTimeout("the database did not answer in time") from exc
        except psycopg2.Error as exc:
            raise self._translated(exc) from exc

    async def copy(self, statement: str, parameters: Parameters, tables: Sequence[copying.Payloads]) -> None:
        """Execute statements that contain a COPY for each of some tables of payloads; see `fetch` for the errors."""
        limit = self._limit(None)
        try:
            with self.raw.raw.cursor() as cursor:
                text = cursor.mogrify(f"{ON_PRIMARY}{statement}", parameters)
            async with asyncio.timeout(limit):
                await copying.execute(self.raw, text, tables)
        except TimeoutError as exc:
            self.close()
            raise DriverTimeout("the database did not answer in time") from exc
        except psycopg2.Error as exc:
            raise self._translated(exc) from exc
        except BaseException:
            self.close()
            raise

    def _limit(self, time_limit: float | None) -> float:
        """Return the time in seconds that the next statement may take. Raises `TimeOver` if there is none."""
        limit = min(time_limit or self._time_limit, self.ends_at - asyncio.get_running_loop().time())
        if limit <= 0:
            self.close()
            raise TimeOver("the database did not answer in time")
        return limit

    def close(self) -> None:
        """Close the connection, whatever it is doing."""
        with suppress(psycopg2.Error):
            self.raw.close()

    def _translated(self, exc: psycopg2.Error) -> Exception:
        message = str(exc).strip().partition("\n")[0] or type(exc).__name__
        if isinstance(exc, _COLLISIONS):
            return Collision(message)
        if isinstance(exc, psycopg2.errors.DiskFull):
            return StorageFull(f"the database has no space left: {message}")
        if self.closed or isinstance(exc, psycopg2.InterfaceError):
            self.close()
            return Broken(f"lost the connection to the database: {refusals.explained(message)}")
        if isinstance(exc, _UNAVAILABLE):
            self.close()
            return Unavailable(f"the database is not available now: {message}")
        if isinstance(exc, (psycopg2.errors.QueryCanceled, psycopg2.errors.LockNotAvailable)):
            return DriverTimeout(f"the database canceled the statement: {message}")
        missing_right = isinstance(exc, psycopg2.errors.InsufficientPrivilege)
        hint = "; the role needs rights on the schema, or the right to create it" if missing_right else ""
        kind = LimitExceeded if isinstance(exc, psycopg2.errors.ProgramLimitExceeded) else DriverError
        return kind(f"the database refused the statement: {message}{hint}")


_COLLISIONS = (
    psycopg2.errors.DeadlockDetected,
    psycopg2.errors.SerializationFailure,
    # Another server, or this one a moment ago, stored the same thing: the repetition will see it.
    psycopg2.errors.UniqueViolation,
)

_UNAVAILABLE = (
    psycopg2.errors.AdminShutdown,
    psycopg2.errors.CrashShutdown,
    psycopg2.errors.CannotConnectNow,
    psycopg2.errors.TooManyConnections,
    psycopg2.errors.ReadOnlySqlTransaction,  # a standby that was the primary, or is about to become it
    psycopg2.errors.OutOfMemory,
    psycopg2.errors.IdleInTransactionSessionTimeout,
)


class Transaction:
    """A transaction that begins with its first statements and ends with its last ones, to save round trips."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def begin(
        self,
        statement: str,
        parameters: Parameters,
        how: str = "BEGIN ISOLATION LEVEL READ COMMITTED",
        time_limit: float | None = None,
    ) -> Rows:
        """Begin the transaction with these statements; see `Connection.fetch`."""
        self._connection.in_transaction = True
        return await self._connection.fetch(f"{how};\n{statement}", parameters, time_limit)

    async def fetch(self, statement: str, parameters: Parameters) -> Rows:
        """Execute statements within the transaction; see `Connection.fetch`."""
        return await self._connection.fetch(statement, parameters)

    async def commit(
        self, statement: str = "", parameters: Parameters | None = None, tables: Sequence[copying.Payloads] = ()
    ) -> None:
        """Commit the transaction after these statements, which contain a COPY for each of the tables of payloads.

        Raises what `Connection.fetch` raises if nothing was changed, and `OutcomeUnknown` if it is unknown whether the
        database has committed.
        """
        try:
            text = f"{statement};\nCOMMIT" if statement else "COMMIT"
            if tables:
                await self._connection.copy(text, parameters or {}, tables)
            else:
                await self._connection.fetch(text, parameters or {})
        except TimeOver:
            raise
        except (Broken, DriverTimeout) as exc:
            raise OutcomeUnknown(f"{exc}; it is unknown whether it has committed") from exc
        self._connection.in_transaction = False

    async def roll_back(self, statement: str) -> Rows:
        """Roll the transaction back, and execute a statement outside of it; see `Connection.fetch`."""
        rows = await self._connection.fetch(f"ROLLBACK;\n{statement}", {})
        self._connection.in_transaction = False
        return rows


async def repeated(work: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `work`, again as long as it raises `Collision`, and return what it returns.

    Raises:
        DriverError: It collided `REPETITIONS` times.
    """
    for left in reversed(range(REPETITIONS)):
        try:
            return await work(*args, **kwargs)
        except Collision as exc:
            if left == 0:
                raise DriverError(f"the database refused a transaction {REPETITIONS} times: {exc}") from exc
            await asyncio.sleep(0.002 * (REPETITIONS - left))
    raise AssertionError

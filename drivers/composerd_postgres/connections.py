"""Connections to the database: a few that are shared out, statements with a time limit, and psycopg's errors as ours. Knows no jobs."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import aiopg
import psycopg2
import psycopg2.errors
from psycopg2 import extensions

from composerd.errors import ComposerdError, DriverError, DriverTimeout, StorageFull, StorageUnusable, Unavailable
from composerd_postgres.connecting import Connecting
from composerd_postgres.options import Options

log = logging.getLogger(__name__)

REPETITIONS = 20
"""How often a transaction that collided with another one is tried again."""

Rows = list[tuple[Any, ...]]
Parameters = Mapping[str, Any]

T = TypeVar("T")

OLDEST = 140000
"""The oldest version of PostgreSQL that will do, as it says it itself."""

_CHECKED = "SET client_connection_check_interval = '5s'"  # a statement that nobody waits for any more

_SESSION = (
    "-c jit=off",  # a claim is over before its code would be compiled
    "-c idle_in_transaction_session_timeout=60s",  # what a server that hangs has locked
)
"""What a session begins with, unless the URL's own `options` say otherwise."""

_FIXED = (
    "-c timezone=UTC",  # in others a time that was stored may be one that Python does not have
    "-c default_transaction_isolation=read\\ committed",  # who has waited for a lock has to see what was done under it
)
"""And whatever they say."""


class Collision(Exception):
    """A transaction collided with another one and was rolled back: it may be tried again at once."""


class Broken(Unavailable):
    """The connection is gone; whether the last statement was carried out is unknown."""


class Connection:
    """One connection. Statements are autocommitted unless one says BEGIN."""

    def __init__(self, raw: aiopg.Connection, time_limit: float) -> None:
        self.raw = raw
        self._time_limit = time_limit
        self.in_transaction = False

    @property
    def closed(self) -> bool:
        """Whether it is of no use any more."""
        return bool(self.raw.closed)

    async def fetch(self, statement: str, parameters: Parameters, time_limit: float | None = None) -> Rows:
        """Carry out statements; the rows of the last one, none if it gives none."""
        try:
            cursor = self.raw.raw.cursor()
            wrapped = aiopg.connection.Cursor(self.raw, cursor, time_limit or self._time_limit, echo=False)
            await wrapped.execute(statement, parameters)
            rows: Rows = cursor.fetchall() if cursor.description is not None else []
            cursor.close()
            return rows
        except TimeoutError as exc:
            raise DriverTimeout("the database took too long") from exc
        except asyncio.CancelledError as exc:
            # aiopg makes this of a statement that the server canceled, as if somebody had canceled us.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            self.close()
            raise DriverTimeout("the database canceled the statement") from exc
        except psycopg2.Error as exc:
            raise self._translated(exc) from exc

    def close(self) -> None:
        """Close it, whatever it is doing."""
        with suppress(psycopg2.Error):
            self.raw.close()

    def _translated(self, exc: psycopg2.Error) -> Exception:
        message = str(exc).strip().partition("\n")[0] or type(exc).__name__
        if isinstance(exc, _COLLISIONS):
            return Collision(message)
        if isinstance(exc, psycopg2.errors.DiskFull):
            return StorageFull(f"the database has no room: {message}")
        if self.closed or isinstance(exc, psycopg2.InterfaceError):
            self.close()
            return Broken(f"the connection to the database was lost: {message}")
        if isinstance(exc, _UNAVAILABLE):
            self.close()
            return Unavailable(f"the database does not take this now: {message}")
        if isinstance(exc, psycopg2.errors.LockNotAvailable):
            return DriverTimeout(f"the database took too long: {message}")
        return DriverError(f"the database refused: {message}")


_COLLISIONS = (
    psycopg2.errors.DeadlockDetected,
    psycopg2.errors.SerializationFailure,
    psycopg2.errors.UniqueViolation,  # somebody, perhaps we ourselves a moment ago, stored the same: the next look sees it
)

_UNAVAILABLE = (
    psycopg2.errors.AdminShutdown,
    psycopg2.errors.CrashShutdown,
    psycopg2.errors.CannotConnectNow,
    psycopg2.errors.TooManyConnections,
    psycopg2.errors.ReadOnlySqlTransaction,  # a standby that was a primary, or is not one yet
    psycopg2.errors.OutOfMemory,
    psycopg2.errors.IdleInTransactionSessionTimeout,
)


async def connect(options: Options) -> Connection:
    """Open a connection. Raises `Unavailable`, or `StorageUnusable` if the database is too old."""
    extra: dict[str, Any] = {"client_encoding": "UTF8"}
    if options.session:
        given = extensions.parse_dsn(options.dsn).get("options", "")
        extra["options"] = " ".join((*_SESSION, given, *_FIXED))
    try:
        raw = await Connecting(options.dsn, options.connect_timeout, enable_json=False, enable_hstore=False, **extra)
    except TimeoutError as exc:
        raise Unavailable(f"the database {options.place} does not answer") from exc
    except psycopg2.Error as exc:
        message = " ".join(str(exc).split()) or type(exc).__name__
        raise Unavailable(f"the database {options.place} cannot be reached: {message}") from exc
    connection = Connection(raw, options.time_limit)
    if raw.raw.server_version < OLDEST:
        connection.close()
        have, need = raw.raw.server_version // 10000, OLDEST // 10000
        raise StorageUnusable(f"the database is PostgreSQL {have}; it has to be {need} or newer")
    if options.session:
        try:
            await connection.fetch(_CHECKED, {})
        except BaseException:
            connection.close()
            raise
    return connection


class Connections:
    """So many connections, opened when they are needed, handed out one at a time."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._idle: list[Connection] = []
        self._free = asyncio.Semaphore(options.connections)
        self._closed = True
        self.lost = False
        """A connection could not be had, or leases could not be renewed over one, since somebody last looked."""

    async def open(self) -> None:
        """Let connections be had, beginning with one. Raises `Unavailable`."""
        connection = await connect(self._options)
        self._closed = False
        self._idle.append(connection)

    def close(self) -> None:
        """Close those that are idle, and each of the others when it is given back."""
        self._closed = True
        self._discard()

    def _discard(self) -> None:
        while self._idle:
            self._idle.pop().close()

    @asynccontextmanager
    async def one(self) -> AsyncIterator[Connection]:
        """A connection, for a while. Raises `Unavailable`, and `DriverTimeout` when all are busy for too long."""
        try:
            async with asyncio.timeout(self._options.time_limit):
                await self._free.acquire()
        except TimeoutError as exc:
            raise DriverTimeout("all connections to the database are busy") from exc
        try:
            if self._closed:
                raise Unavailable("the database has not been reached yet")
            connection = self._pop()
            if connection is None:
                try:
                    connection = await connect(self._options)
                except Unavailable:
                    self.lost = True
                    raise
            try:
                yield connection
            except BaseException as exc:
                if isinstance(exc, (Broken, DriverTimeout)):
                    self._discard()  # what happened to this one has probably happened to the others
                if connection.in_transaction:
                    await self._roll_back(connection)
                raise
            finally:
                self._take_back(connection)
        finally:
            self._free.release()

    def _take_back(self, connection: Connection) -> None:
        if self._closed or connection.in_transaction:
            connection.close()
        elif not connection.closed:
            self._idle.append(connection)

    def _pop(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                return connection
        return None

    async def _roll_back(self, connection: Connection) -> None:
        try:
            if not connection.closed:
                await connection.fetch("ROLLBACK", {})
                connection.in_transaction = False
        except (ComposerdError, Collision):
            connection.close()

    async def fetch(self, statement: str, parameters: Parameters, time_limit: float | None = None) -> Rows:
        """Carry out one autocommitted statement."""

        async def once() -> Rows:
            async with self.one() as connection:
                return await connection.fetch(statement, parameters, time_limit)

        return await repeated(once)


class Transaction:
    """A transaction that is begun with its first statements and ended with its last ones, to spare round trips."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def begin(
        self,
        statement: str,
        parameters: Parameters,
        how: str = "BEGIN ISOLATION LEVEL READ COMMITTED",
        time_limit: float | None = None,
    ) -> Rows:
        """Begin with these statements."""
        self._connection.in_transaction = True
        return await self._connection.fetch(f"{how};\n{statement}", parameters, time_limit)

    async def fetch(self, statement: str, parameters: Parameters) -> Rows:
        """Carry out statements."""
        return await self._connection.fetch(statement, parameters)

    async def commit(self, statement: str = "", parameters: Parameters | None = None) -> None:
        """End with these statements."""
        await self._connection.fetch(f"{statement};\nCOMMIT" if statement else "COMMIT", parameters or {})
        self._connection.in_transaction = False


async def repeated(work: Callable[[], Awaitable[T]]) -> T:
    """Do work that may collide with others', until it does not."""
    for left in reversed(range(REPETITIONS)):
        try:
            return await work()
        except Collision as exc:
            if left == 0:
                raise DriverError(f"the database refused {REPETITIONS} times: {exc}") from exc
            await asyncio.sleep(0.002 * (REPETITIONS - left))
    raise AssertionError

"""Single connections to the database: opening one, statements with a time limit, transactions, translated errors.

Rows are named tuples, and a `timestamptz` in them is an integer, in microseconds since the epoch. Nothing here knows
what a job is.
"""

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, ParamSpec, TypeVar, cast

import aiopg
import psycopg2
import psycopg2.errors
from psycopg2 import extensions
from psycopg2.extras import NamedTupleCursor

from composerd.driver.clock import from_time
from composerd.errors import DriverError, DriverTimeout, StorageFull, StorageUnusable, Unavailable
from composerd_postgres.db.hosts import Hosts
from composerd_postgres.db.url import Options

REPETITIONS = 20
"""Number of times that a transaction which collides with others is tried in all."""

ON_PRIMARY = "/*NO LOAD BALANCE*/"
"""Begins every statement: a proxy that sends queries to standbys sends one that begins with a comment to the primary.

A standby may be behind, and then lacks what was just written.
"""

Rows = list[Any]
"""Named tuples; the fields are the columns of the statement."""

Parameters = Mapping[str, Any]

T = TypeVar("T")
P = ParamSpec("P")

OLDEST = 140000
"""The oldest supported version of PostgreSQL, as the server reports it."""

_CHECKED = "SET client_connection_check_interval = '5s'"  # ends the statement of a server that has died

_SESSION = (
    "-c jit=off",  # a claim takes less time than compiling it would
    "-c idle_in_transaction_session_timeout=60s",  # frees what a server that hangs has locked
)
"""Settings of a session that the URL's own `options` can override."""

_FIXED = (
    "-c timezone=UTC",  # in another zone a stored time may be one that Python cannot represent
    "-c default_transaction_isolation=read\\ committed",  # changes during the wait for a lock must be seen
)
"""Settings of a session that the URL cannot override."""


class Collision(Exception):
    """A transaction collided with another one and was rolled back. It can be repeated at once."""


class Broken(Unavailable):
    """The connection was lost. It is unknown if the last statement was executed."""


class Refused(Unavailable):
    """Every host refused to open a connection, for example because it has too many."""


class Connection:
    """One connection. A statement is committed by itself unless it is part of a `Transaction`."""

    def __init__(self, raw: aiopg.Connection, time_limit: float) -> None:
        self.raw = raw
        self._time_limit = time_limit
        self.in_transaction = False

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
            DriverTimeout: There was no answer in time; the connection was closed.
            StorageFull: The database has no space.
            DriverError: The database refused the statement for any other reason.
        """
        task = asyncio.current_task()
        cancellations = task.cancelling() if task is not None else 0
        try:
            cursor = self.raw.raw.cursor()
            wrapped = aiopg.connection.Cursor(self.raw, cursor, time_limit or self._time_limit, echo=False)
            await wrapped.execute(f"{ON_PRIMARY}{statement}", parameters)
            if task is not None and task.cancelling() > cancellations:
                # Python 3.11's wait_for, which aiopg uses, loses a cancellation that comes together with the answer.
                self.close()
                raise asyncio.CancelledError  # noqa: TRY301  # it is the caller's, and passes through below
            rows: Rows = cursor.fetchall() if cursor.description is not None else []
            cursor.close()
            return rows
        except TimeoutError as exc:
            raise DriverTimeout("the database did not answer in time") from exc
        except asyncio.CancelledError as exc:
            # aiopg raises this for a statement that the server canceled, as if the calling task had been canceled.
            if task is None or task.cancelling():
                raise
            self.close()
            raise DriverTimeout("the database canceled the statement") from exc
        except psycopg2.Error as exc:
            raise self._translated(exc) from exc

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
            return Broken(f"lost the connection to the database: {message}")
        if isinstance(exc, _UNAVAILABLE):
            self.close()
            return Unavailable(f"the database is not available now: {message}")
        if isinstance(exc, psycopg2.errors.LockNotAvailable):
            return DriverTimeout(f"the database did not answer in time: {message}")
        missing_right = isinstance(exc, psycopg2.errors.InsufficientPrivilege)
        hint = "; the role must own the schema, or the database in which to create it" if missing_right else ""
        return DriverError(f"the database refused the statement: {message}{hint}")


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


def _microseconds(text: str | bytes | None, _cursor: object) -> int | None:
    """Return a `timestamptz` as microseconds since the epoch."""
    return None if text is None else from_time(datetime.fromisoformat(str(text)))


_TIMES = extensions.new_type((1184,), "MICROSECONDS", _microseconds)


class Connecting(aiopg.Connection):
    """A connection that is being opened; awaiting it returns it when it is open.

    A workaround for aiopg, which does not notice that libpq may go on with another socket: when TLS, or one of several
    addresses, turns out to be unusable, libpq closes one socket and opens the next. aiopg would wait for the old one
    until the time is up, or fail on the new one if it got the old one's number. So while a connection is being opened,
    every call of libpq is made with no socket registered in the event loop.
    """

    @staticmethod
    def _ready(weak_self: "weakref.ref[Any]") -> None:
        self = cast("Connecting | None", weak_self())
        if self is not None:
            self._go_on()

    def _go_on(self) -> None:
        loop, waiter = self._loop, self._waiter
        if self._fileno is not None:
            loop.remove_reader(self._fileno)
            loop.remove_writer(self._fileno)
        self._fileno = None  # after a failure there is no socket, and its number may belong to another one
        self._writing = False
        try:
            state = self._conn.poll()
        except psycopg2.Error as exc:
            if waiter is not None and not waiter.done():
                waiter.set_exception(exc)
            return
        self._fileno = self._conn.fileno()
        if state == extensions.POLL_OK:
            self._ready = aiopg.Connection._ready  # type: ignore[method-assign]  # noqa: SLF001  # the workaround ends
        loop.add_reader(self._fileno, self._ready, self._weakref)
        if state == extensions.POLL_WRITE:
            loop.add_writer(self._fileno, self._ready, self._weakref)
            self._writing = True
        elif state == extensions.POLL_OK and waiter is not None and not waiter.done():
            waiter.set_result(None)


async def connect(options: Options, hosts: Hosts) -> Connection:
    """Open a connection to the first host that accepts one.

    Raises:
        Unavailable: No host can be reached; `Refused` if every host answered, and refused.
        StorageUnusable: The database is older than the driver supports.
    """
    connection = Connection(await _reach(options, hosts), options.time_limit)
    version = connection.raw.raw.server_version
    if version < OLDEST:
        connection.close()
        have, need = version // 10000, OLDEST // 10000
        raise StorageUnusable(f"the database is PostgreSQL {have}; it has to be {need} or newer")
    if options.session:
        try:
            await connection.fetch(_CHECKED, {})
        except BaseException:
            connection.close()
            raise
    return connection


async def _reach(options: Options, hosts: Hosts) -> aiopg.Connection:
    """Try one address after another, each for an equal share of the time that is left."""
    settings: dict[str, Any] = {"client_encoding": "UTF8", "cursor_factory": NamedTupleCursor}
    if options.session:
        given = extensions.parse_dsn(options.dsn).get("options", "")
        settings["options"] = " ".join((*_SESSION, given, *_FIXED))
    now = asyncio.get_running_loop().time
    end = now() + options.connect_timeout
    complaints: list[str] = []
    silent = False
    for nth, host in enumerate(hosts):
        end_of_host = now() + (end - now()) / (len(hosts) - nth)
        try:
            async with asyncio.timeout_at(end_of_host):
                addresses = await hosts.addresses(host)
        except (OSError, UnicodeError) as exc:  # OSError includes TimeoutError
            complaints.append(f"the name {host.host} cannot be looked up: {str(exc) or 'no answer'}")
            continue
        for mth, address in enumerate(addresses):
            share = (end_of_host - now()) / (len(addresses) - mth)
            try:
                raw = await _open(options.dsn, share, {**settings, **address.parameters()})
            except TimeoutError:
                silent = True
                complaints.append(f"{address} does not answer")
            except psycopg2.Error as exc:
                complaints.append(" ".join(str(exc).split()) or type(exc).__name__)
            else:
                hosts.prefer(host, address)
                return raw
    kind = Unavailable if silent else Refused
    raise kind(f"the database {options.target} cannot be reached: {'; '.join(dict.fromkeys(complaints))}")


async def _open(dsn: str, time_limit: float, settings: Mapping[str, Any]) -> aiopg.Connection:
    """Open a connection to one address."""
    task = asyncio.current_task()
    cancellations = task.cancelling() if task is not None else 0
    raw = await Connecting(dsn, time_limit, enable_json=False, enable_hstore=False, **settings)
    if task is not None and task.cancelling() > cancellations:  # lost by wait_for, as in `Connection.fetch`
        raw.close()
        raise asyncio.CancelledError
    extensions.register_type(_TIMES, raw.raw)
    return raw


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

    async def commit(self, statement: str = "", parameters: Parameters | None = None) -> None:
        """Commit the transaction after these statements."""
        await self._connection.fetch(f"{statement};\nCOMMIT" if statement else "COMMIT", parameters or {})
        self._connection.in_transaction = False


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

"""A connection to the database: how one is reached, statements with a time limit, transactions, psycopg's errors as ours. Knows no jobs."""

import asyncio
import logging
import weakref
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar, cast

import aiopg
import psycopg2
import psycopg2.errors
from psycopg2 import extensions

from composerd.errors import DriverError, DriverTimeout, StorageFull, StorageUnusable, Unavailable
from composerd_postgres.db.hosts import Hosts
from composerd_postgres.db.url import Options

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


class Refused(Unavailable):
    """Every host said that there is no connection to be had."""


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
            canceled = _Cancellations()
            await wrapped.execute(statement, parameters)
            canceled.raise_lost(self.raw)
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
        right = isinstance(exc, psycopg2.errors.InsufficientPrivilege)
        hint = "; the role has to own the schema, or the database to make it in" if right else ""
        return DriverError(f"the database refused: {message}{hint}")


class _Cancellations:
    """Finds a cancellation that aiopg has lost: `asyncio.wait_for` of Python 3.11 drops one that comes together with the answer."""

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._before = self._task.cancelling() if self._task else 0

    def raise_lost(self, raw: aiopg.Connection) -> None:
        """Close the connection and raise `CancelledError` if there was one."""
        if self._task is not None and self._task.cancelling() > self._before:
            raw.close()
            raise asyncio.CancelledError


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


class Connecting(aiopg.Connection):
    """Awaited, a connection to one address, or to what libpq takes where the DSN names none.

    aiopg loses sight of libpq when it goes on with another socket.
    libpq closes one socket and opens the next when TLS, or one of the addresses that it found by itself, turns out to be
    of no use. The loop would wait for the old one until the time is up, or fail on the new one if it has the old one's number:
    so nothing is registered with it while libpq is at work.
    """

    _connected = False

    @staticmethod
    def _ready(weak_self: "weakref.ref[Any]") -> None:
        self = cast("Connecting | None", weak_self())
        if self is None:
            return
        if self._connected:
            aiopg.Connection._ready(weak_self)  # noqa: SLF001  # there is no other way in
        else:
            self._go_on()

    def _go_on(self) -> None:
        loop, waiter = self._loop, self._waiter
        if self._fileno is not None:
            loop.remove_reader(self._fileno)
            loop.remove_writer(self._fileno)
        self._fileno = None  # if it fails there is none; its number may be somebody else's by then
        self._writing = False
        try:
            state = self._conn.poll()
        except psycopg2.Error as exc:
            if waiter is not None and not waiter.done():
                waiter.set_exception(exc)
            return
        self._fileno = self._conn.fileno()
        loop.add_reader(self._fileno, self._ready, self._weakref)
        if state == extensions.POLL_WRITE:
            loop.add_writer(self._fileno, self._ready, self._weakref)
            self._writing = True
        elif state == extensions.POLL_OK:
            self._connected = True
            if waiter is not None and not waiter.done():
                waiter.set_result(None)


async def connect(options: Options, hosts: Hosts) -> Connection:
    """Open a connection to the first host that will do. Raises `Unavailable`, or `StorageUnusable` if the database is too old."""
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
    """Try one address after the other, each for its share of the time that is left."""
    extra: dict[str, Any] = {"client_encoding": "UTF8"}
    if options.session:
        given = extensions.parse_dsn(options.dsn).get("options", "")
        extra["options"] = " ".join((*_SESSION, given, *_FIXED))
    now = asyncio.get_running_loop().time
    until = now() + options.connect_timeout
    complaints: list[str] = []
    silent = False
    for nth, host in enumerate(hosts):
        its_end = now() + (until - now()) / (len(hosts) - nth)
        try:
            async with asyncio.timeout_at(its_end):
                addresses = await hosts.addresses(host)
        except (OSError, UnicodeError) as exc:  # a TimeoutError, too
            complaints.append(f"the name {host.host} cannot be looked up: {str(exc) or 'there is no answer'}")
            continue
        for mth, address in enumerate(addresses):
            share = (its_end - now()) / (len(addresses) - mth)
            where = {**extra, **address.parameters()}
            canceled = _Cancellations()
            try:
                raw = await Connecting(options.dsn, share, enable_json=False, enable_hstore=False, **where)
                canceled.raise_lost(raw)
            except TimeoutError:
                silent = True
                complaints.append(f"{address} does not answer")
            except psycopg2.Error as exc:
                complaints.append(" ".join(str(exc).split()) or type(exc).__name__)
            else:
                hosts.was_of_use(host, address)
                return raw
    kind = Unavailable if silent else Refused
    raise kind(f"the database {options.place} cannot be reached: {'; '.join(dict.fromkeys(complaints))}")


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

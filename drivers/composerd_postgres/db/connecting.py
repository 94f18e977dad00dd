"""Opening a connection: one host and address after another, the settings of its session, and what is in between."""

import asyncio
import weakref
from datetime import datetime
from typing import Any, cast

import aiopg
import psycopg2
from psycopg2 import extensions
from psycopg2.extras import NamedTupleCursor

from composerd.driver.clock import from_time
from composerd.errors import DriverError, DriverTimeout, StorageUnusable, Unavailable
from composerd_postgres.db import refusals
from composerd_postgres.db.connection import Connection, Refused
from composerd_postgres.db.hosts import Host, Hosts
from composerd_postgres.db.url import Options

OLDEST = 140000
"""The oldest supported version of PostgreSQL, as the server reports it."""

_SESSION = (
    "-c jit=off",  # a claim takes less time than compiling it would
    "-c idle_in_transaction_session_timeout=60s",  # frees what a server that hangs has locked
    # Limits of the role or the database would cut off statements and connections: the driver has limits of its own.
    "-c statement_timeout=0",
    "-c lock_timeout=0",
    "-c idle_session_timeout=0",
)
"""Settings of a session that the URL's own `options` can override."""

_FIXED = (
    "-c timezone=UTC",  # in another zone a stored time may be one that Python cannot represent
    "-c default_transaction_isolation=read\\ committed",  # changes during the wait for a lock must be seen
)
"""Settings of a session that the URL cannot override."""


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

    It also raises errors instead of reporting them to the event loop, which would log them with a traceback.
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

    async def _poll(self, waiter: "asyncio.Future[None]", timeout: float) -> None:
        self._ready(self._weakref)
        try:
            # Not wait_for: Python 3.11's loses a cancellation that comes together with the answer.
            async with asyncio.timeout(timeout):
                await waiter
        except (asyncio.CancelledError, TimeoutError):
            self._close()
            raise
        finally:
            self._waiter = None

    def _fatal_error(self, message: str) -> None:
        waiter = self._waiter
        self._close()
        if waiter is not None and not waiter.done():
            waiter.set_exception(psycopg2.OperationalError(message))


async def connect(options: Options, hosts: Hosts) -> Connection:
    """Open a connection to the first host that accepts one; try one address after another, each for an equal share.

    Raises:
        Unavailable: No host can be reached; `Refused` if every host answered, and refused.
        StorageUnusable: Every host refuses for a reason that waiting cannot mend, such as a wrong password, or the
            database is older than the driver supports.
    """
    now = asyncio.get_running_loop().time
    end = now() + options.connect_timeout
    complaints: list[str] = []
    silent = False
    lasting = True
    for nth, host in enumerate(hosts):
        end_of_host = now() + (end - now()) / (len(hosts) - nth)
        try:
            async with asyncio.timeout_at(end_of_host):
                addresses = await hosts.addresses(host)
        except (OSError, UnicodeError) as exc:  # OSError includes TimeoutError
            complaints.append(f"the name {host.host} cannot be looked up: {str(exc) or 'no answer'}")
            lasting = False
            continue
        for mth, address in enumerate(addresses):
            share = (end_of_host - now()) / (len(addresses) - mth)
            try:
                connection = await open_address(options, address, share)
            except TimeoutError:
                silent, lasting = True, False
                complaints.append(f"{address} does not answer")
            except DriverTimeout:
                silent, lasting = True, False
                complaints.append(f"{address} has no connection to the database to spare: is it a pooler?")
            except DriverError:
                raise
            except (Unavailable, psycopg2.Error) as exc:
                complaints.append(refusals.explained(str(exc)) or type(exc).__name__)
                lasting &= refusals.lasts(str(exc))
            else:
                hosts.prefer(host, address)
                return connection
    message = f"the database {options.target} cannot be reached: {'; '.join(dict.fromkeys(complaints))}"
    if lasting:
        raise StorageUnusable(message)
    raise Unavailable(message) if silent else Refused(message)


async def open_address(options: Options, address: Host, time_limit: float) -> Connection:
    """Open a connection to one address, and let it execute a first statement, for which a pooler may have no room.

    Raises:
        TimeoutError, psycopg2.Error: The connection was not opened.
        Unavailable: The statement failed; `DriverTimeout` if it had no answer in time.
        StorageUnusable: The database is older than the driver supports.
    """
    now = asyncio.get_running_loop().time
    end = now() + time_limit
    settings: dict[str, Any] = {"client_encoding": "UTF8", "cursor_factory": NamedTupleCursor, **address.parameters()}
    given = extensions.parse_dsn(options.dsn).get("options", "")
    if options.session:
        settings["options"] = " ".join((*_SESSION, given, *_FIXED))
    opening = Connecting(options.dsn, time_limit, enable_json=False, enable_hstore=False, **settings)
    with refusals.told(opening.raw):
        raw = await opening
    extensions.register_type(_TIMES, raw.raw)
    connection = Connection(raw, options.time_limit)
    try:
        version = raw.raw.server_version
        if version < OLDEST:
            have, need = version // 10000, OLDEST // 10000
            raise StorageUnusable(  # noqa: TRY301  # closes the connection, like any failure
                f"the database is PostgreSQL {have}; it has to be {need} or newer"
            )
        if options.session:
            statement = _first_statement(version, given)
            (session,) = await connection.fetch(statement, {}, max(end - now(), 0.001))
            connection.backend = session.backend
            connection.pooled = session.backend != raw.raw.info.backend_pid
    except BaseException:
        connection.close()
        raise
    return connection


def _first_statement(version: int, given: str) -> str:
    """Return the statements with which a session begins: settings that not every server would accept, and a question.

    The answer is the backend's real process. A pooler has told the client another one.
    """
    settings = ["client_connection_check_interval = '5s'"]  # ends the statement of a server that has died
    if version >= 170000 and "transaction_timeout" not in given:
        settings.append("transaction_timeout = 0")
    return "".join(f"SET {setting}; " for setting in settings) + "SELECT pg_backend_pid() AS backend"

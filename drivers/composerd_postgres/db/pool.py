"""The pool of connections. While the database refuses further connections, it gets by with those that it has."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from composerd.errors import ComposerdError, DriverTimeout, Unavailable
from composerd_postgres.db.connection import (
    REPETITIONS,
    Broken,
    Collision,
    Connection,
    Parameters,
    Refused,
    Rows,
    connect,
    repeated,
)
from composerd_postgres.db.hosts import Hosts
from composerd_postgres.db.url import Options

REFUSED_FOR = 5.0
"""Time in seconds during which the pool opens no further connection after one was refused."""

NOTICED_WITHIN = 1.0
"""Time in seconds that the database may take to notice that a connection was closed."""

PAUSE = 0.02
"""Pause in seconds before the pool tries again while the database may still count closed connections."""


class Connections:
    """A pool of connections. Each is opened when it is needed, and lent to one caller at a time.

    A caller waits while all connections are lent. If the database refuses a further connection, callers share those
    that are open.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._hosts = Hosts(options.dsn)
        self._idle: list[Connection] = []
        self._lent = 0
        """The number of connections that are lent, or being opened to be lent."""
        self._making_room = 0
        """The number of calls of `dedicated` that wait until the database has room for one more connection."""
        self._made_room = float("-inf")
        """The time, by the loop's clock, when room was last made for a dedicated connection."""
        self._free = asyncio.Semaphore(options.connections)
        self._closed = True
        self.outage = False
        """True if a connection could not be opened, or leases not renewed, since this was last set to False."""

    def open(self, connection: Connection) -> None:
        """Begin to lend connections, this one first."""
        self._closed = False
        self._idle.append(connection)

    async def dedicated(self) -> Connection:
        """Open a connection outside the pool, which its caller closes. If the database has no room, close a pooled one.

        Raises:
            Unavailable: The database cannot be reached.
            StorageUnusable: The database is older than the driver supports.
        """
        try:
            return await connect(self._options, self._hosts)
        except Refused:
            if not (self._lent or self._idle):
                raise
        return await self._in_place_of_another()

    async def _in_place_of_another(self) -> Connection:
        """Open a connection where the database has no room; close pooled ones that are idle, or returned meanwhile."""
        self._making_room += 1
        try:
            self.close_idle()
            for left in reversed(range(REPETITIONS)):
                try:
                    return await connect(self._options, self._hosts)
                except Refused:
                    if left == 0:
                        raise
                await asyncio.sleep(PAUSE)  # the database takes a moment to notice that a connection was closed
        finally:
            self._making_room -= 1
            self._made_room = asyncio.get_running_loop().time()
        raise AssertionError

    def close(self) -> None:
        """Close the idle connections now, and each lent one when it is returned."""
        self._closed = True
        self.close_idle()

    def close_idle(self) -> None:
        """Close the idle connections: they may be dead, or must make room."""
        while self._idle:
            self._idle.pop().close()

    async def fetch(self, statement: str, parameters: Parameters, time_limit: float | None = None) -> Rows:
        """Execute one statement that commits by itself, again if it collides; see `Connection.fetch`."""
        return await repeated(self._fetch, statement, parameters, time_limit)

    async def _fetch(self, statement: str, parameters: Parameters, time_limit: float | None) -> Rows:
        async with self.one() as connection:
            return await connection.fetch(statement, parameters, time_limit)

    @asynccontextmanager
    async def one(self) -> AsyncIterator[Connection]:
        """Lend a connection; wait for one if all are lent. A transaction that is left open is rolled back.

        Raises:
            DriverTimeout: None was returned in time.
            Unavailable: The database cannot be reached, or the pool is closed.
        """
        connection = await self._lend()
        try:
            yield connection
        except BaseException as exc:
            if isinstance(exc, (Broken, DriverTimeout)):
                self.close_idle()  # they are probably as dead as this one
            if connection.in_transaction:
                await self._roll_back(connection)
            raise
        finally:
            self._lent -= 1
            self._free.release()
            if self._closed or self._making_room or connection.in_transaction:
                connection.close()
            elif not connection.closed:
                self._idle.append(connection)

    async def _lend(self) -> Connection:
        until = asyncio.get_running_loop().time() + self._options.time_limit
        while True:
            try:
                async with asyncio.timeout_at(until):
                    await self._free.acquire()
            except TimeoutError as exc:
                raise DriverTimeout("all connections to the database are busy") from exc
            self._lent += 1
            while self._idle:
                connection = self._idle.pop()
                if not connection.closed:
                    return connection
            try:
                return await self._new()
            except Unavailable as exc:
                self._lent -= 1
                if isinstance(exc, Refused) and (self._lent or self._idle):
                    # Wait until another one is returned. If the hosts are gone rather than full, that one will fail.
                    pause = REFUSED_FOR
                elif isinstance(exc, Refused) and self._may_count_closed():
                    pause = PAUSE
                else:
                    self.outage = True
                    self._free.release()
                    raise
                asyncio.get_running_loop().call_later(pause, self._free.release)
            except BaseException:
                self._lent -= 1
                self._free.release()
                raise

    def _may_count_closed(self) -> bool:
        """Return True if the database may still count connections that were closed to make room."""
        return self._making_room > 0 or asyncio.get_running_loop().time() < self._made_room + NOTICED_WITHIN

    async def _new(self) -> Connection:
        if self._closed:
            raise Unavailable("there is no connection to the database")
        if self._making_room and self._lent > 1:
            raise Refused("the database has no room for one more connection")
        return await connect(self._options, self._hosts)

    async def _roll_back(self, connection: Connection) -> None:
        try:
            if not connection.closed:
                await connection.fetch("ROLLBACK", {})
                connection.in_transaction = False
        except (ComposerdError, Collision):
            connection.close()

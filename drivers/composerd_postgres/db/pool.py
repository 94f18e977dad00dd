"""The connections that a driver shares out: how many there are, who has one, and what is done where the database gives fewer."""

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
"""For how long no more connections are opened than there were when one was refused, in seconds."""


class Connections:
    """So many connections, opened when they are needed, handed out one at a time."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._hosts = Hosts(options.dsn)
        self._idle: list[Connection] = []
        self._used = 0
        """How many are lent, or being opened to be."""
        self._making_room = 0
        """How many wait for room for one that is not shared out."""
        self._free = asyncio.Semaphore(options.connections)
        self._closed = True
        self.lost = False
        """No connection could be had, or leases could not be renewed over one, since somebody last looked."""

    def open(self, connection: Connection) -> None:
        """Let connections be had, beginning with that one."""
        self._closed = False
        self._idle.append(connection)

    async def apart(self) -> Connection:
        """A connection that is its caller's alone, to close. Raises `Unavailable`, and `StorageUnusable` if the database is too old."""
        try:
            return await connect(self._options, self._hosts)
        except Refused:
            if not (self._used or self._idle):
                raise
        return await self._in_place_of_another()

    async def _in_place_of_another(self) -> Connection:
        """Open a connection where there is no room for one more: those that are idle or given back meanwhile are closed for it."""
        self._making_room += 1
        try:
            self.give_up_idle()
            for left in reversed(range(REPETITIONS)):
                try:
                    return await connect(self._options, self._hosts)
                except Refused:
                    if left == 0:
                        raise
                await asyncio.sleep(0.02)  # the database takes a moment to notice that another one is gone
        finally:
            self._making_room -= 1
        raise AssertionError

    def close(self) -> None:
        """Close those that are idle, and each of the others when it is given back."""
        self._closed = True
        self.give_up_idle()

    def give_up_idle(self) -> None:
        """Close those that are idle: they may be as dead as one that was found to be."""
        while self._idle:
            self._idle.pop().close()

    @asynccontextmanager
    async def one(self) -> AsyncIterator[Connection]:
        """A connection, for a while. Raises `Unavailable`, and `DriverTimeout` when all are busy for too long."""
        connection = await self._lend()
        try:
            yield connection
        except BaseException as exc:
            if isinstance(exc, (Broken, DriverTimeout)):
                self.give_up_idle()
            if connection.in_transaction:
                await self._roll_back(connection)
            raise
        finally:
            self._take_back(connection)

    async def _lend(self) -> Connection:
        until = asyncio.get_running_loop().time() + self._options.time_limit
        while True:
            try:
                async with asyncio.timeout_at(until):
                    await self._free.acquire()
            except TimeoutError as exc:
                raise DriverTimeout("all connections to the database are busy") from exc
            self._used += 1
            try:
                return self._pop() or await self._new()
            except Unavailable as exc:
                self._used -= 1
                if not isinstance(exc, Refused) or not (self._used or self._idle):
                    self.lost = True
                    self._free.release()
                    raise
                # Wait for another one. It is the database's limit, or they will find out soon, too.
                asyncio.get_running_loop().call_later(REFUSED_FOR, self._free.release)
            except BaseException:
                self._give_place_back()
                raise

    async def _new(self) -> Connection:
        if self._closed:
            raise Unavailable("there is no connection to the database")
        if self._making_room and self._used > 1:
            raise Refused("there is no room for one more connection to the database")
        return await connect(self._options, self._hosts)

    def _take_back(self, connection: Connection) -> None:
        self._give_place_back()
        if self._closed or self._making_room or connection.in_transaction:
            connection.close()
        elif not connection.closed:
            self._idle.append(connection)

    def _give_place_back(self) -> None:
        self._used -= 1
        self._free.release()

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

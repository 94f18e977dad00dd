"""The pool of connections. While there are no further connections to be had, it gets by with those that it has."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from composerd.errors import ComposerdError, DriverError, DriverTimeout, OutcomeUnknown, StorageUnusable, Unavailable
from composerd_postgres.db.connecting import connect
from composerd_postgres.db.connection import (
    REPETITIONS,
    Broken,
    Collision,
    Connection,
    Parameters,
    Refused,
    Rows,
    repeated,
)
from composerd_postgres.db.deadline import ends_at
from composerd_postgres.db.hosts import Hosts
from composerd_postgres.db.lanes import Lane, Lanes, lane
from composerd_postgres.db.url import Options

log = logging.getLogger(__name__)

REFUSED_FOR = 5.0
"""Time in seconds during which the pool opens no further connection after one was refused."""

HELD_FOR = 1.0
"""Time in seconds for which the pool keeps a connection through a pooler.

In session mode the pooler cannot give to other servers what this one holds, and opening a connection to it is cheap.
"""

QUEUED_AFTER = 0.2
"""Time in seconds that a connection takes to open at least if the pooler had none to spare."""

NOTICED_WITHIN = 1.0
"""Time in seconds that the database may take to notice that a connection was closed."""

PAUSE = 0.02
"""Pause in seconds before the pool tries again while the database may still count closed connections."""

BUSY = "all connections to the database are busy"

Waiter = asyncio.Future[Connection]


class Connections:
    """A pool of connections. Each is opened when it is needed, and lent to one caller at a time.

    A caller for whom none is idle gets whichever comes first: one that another caller returns, or a new one. If the
    database refuses a further connection, or a pooler has none to spare, callers share those that are open.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self.hosts = Hosts(options.dsn)
        self._lanes = Lanes(options.connections)
        self._idle: list[Connection] = []
        self._lent = 0
        """The number of connections that are lent."""
        self._waiting: deque[tuple[Waiter, float]] = deque()
        """Callers that wait for a connection, each with the time since when; none while a connection is idle."""
        self._opening: dict[asyncio.Task[Connection], float] = {}
        """Connections that are being opened, each with the time since when."""
        self._returned_at = float("-inf")
        """The time when a caller last returned a connection that worked."""
        self._full_until = float("-inf")
        """The time until which no further connection is opened if others are lent."""
        self._making_room = 0
        """The number of calls of `dedicated` that wait until the database has room for one more connection."""
        self._made_room = float("-inf")
        """The time when room was last made for a dedicated connection."""
        self._expiring: asyncio.TimerHandle | None = None
        self._closed = True
        self._logged = ""
        """The message that was logged last about a refusal that waiting cannot mend."""

    def open(self, connection: Connection) -> None:
        """Begin to lend connections, this one first."""
        self._closed = False
        self._offer(connection)

    async def dedicated(self) -> Connection:
        """Open a connection outside the pool, which its caller closes. If the database has no room, close a pooled one.

        Raises:
            Unavailable: The database cannot be reached.
            StorageUnusable: The pool is not open yet, and the database cannot be used until somebody changes something.
        """
        try:
            return await self._new()
        except Refused as exc:
            if isinstance(exc.__cause__, StorageUnusable) or not (self._lent or self._idle):
                raise
        return await self._in_place_of_another()

    async def _in_place_of_another(self) -> Connection:
        """Open a connection where the database has no room; close pooled ones that are idle, or returned meanwhile."""
        self._making_room += 1
        try:
            self.close_idle()
            for left in reversed(range(REPETITIONS)):
                try:
                    return await self._new()
                except Refused:
                    if left == 0:
                        raise
                await asyncio.sleep(PAUSE)  # the database takes a moment to notice that a connection was closed
        finally:
            self._making_room -= 1
            self._made_room = asyncio.get_running_loop().time()
            self._open_wanted()
        raise AssertionError

    def close(self) -> None:
        """Close the idle connections now, and each lent one when it is returned. Calls that wait for one fail."""
        self._closed = True
        self.close_idle()
        for task in self._opening:
            task.cancel()
        if self._expiring is not None:
            self._expiring.cancel()
            self._expiring = None
        self._fail_waiting(Unavailable("there is no connection to the database"))

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
            DriverTimeout: None could be had in time.
            Unavailable: The database cannot be reached, or the pool is closed.
        """
        async with AsyncExitStack() as leaving:
            if lane.get() is not Lane.WORK:
                await self._enter(leaving)
            connection = await self._lend()
            connection.ends_at = ends_at.get()
            try:
                yield connection
            except BaseException as exc:
                if isinstance(exc, (Broken, DriverTimeout, OutcomeUnknown)):
                    self.close_idle()  # they are probably as dead as this one
                if connection.in_transaction:
                    await self._roll_back(connection)
                raise
            finally:
                self._take_back(connection)

    async def _enter(self, leaving: AsyncExitStack) -> None:
        """Wait until the lane of the call has a connection to spare, and let `leaving` give it back."""
        try:
            async with asyncio.timeout_at(self._waits_until()):
                await leaving.enter_async_context(self._lanes.entered())
        except TimeoutError as exc:
            raise DriverTimeout(BUSY) from exc

    def _waits_until(self) -> float:
        return min(ends_at.get(), asyncio.get_running_loop().time() + self._options.time_limit)

    async def _lend(self) -> Connection:
        if self._closed:
            raise Unavailable("there is no connection to the database")
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                self._lent += 1
                return connection
        loop = asyncio.get_running_loop()
        waiter: Waiter = loop.create_future()
        self._waiting.append((waiter, loop.time()))
        self._open_wanted()
        try:
            async with asyncio.timeout_at(self._waits_until()):
                return await waiter
        except BaseException as exc:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._take_back(waiter.result())
            if isinstance(exc, TimeoutError):
                raise DriverTimeout(BUSY) from exc
            raise

    def _take_back(self, connection: Connection) -> None:
        """Close or keep a connection that was lent, and let those who wait go on."""
        self._lent -= 1
        now = asyncio.get_running_loop().time()
        if not connection.closed:
            self._returned_at = now
        if self._closed or self._making_room or connection.in_transaction or _spent(connection, now):
            connection.close()
        if not connection.closed:
            self._offer(connection)
        self._open_wanted()

    def _offer(self, connection: Connection, *, queued: bool = False) -> None:
        """Lend a connection to whoever has waited longest; let it be idle if nobody waits.

        One for which this server has `queued` at a pooler is closed instead: others queue there too.
        """
        while self._waiting:
            waiter, _ = self._waiting.popleft()
            if not waiter.done():
                self._lent += 1
                waiter.set_result(connection)
                return
        if self._closed or (queued and connection.pooled):
            connection.close()
            return
        self._idle.append(connection)
        if connection.pooled and self._expiring is None:
            self._close_spent()

    def _close_spent(self) -> None:
        """Close idle connections that a pooler may have other clients for, now and later."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in self._idle:
            if _spent(connection, now):
                connection.close()
        self._idle = [connection for connection in self._idle if not connection.closed]
        opened = [connection.opened_at for connection in self._idle if connection.pooled]
        self._expiring = loop.call_at(min(opened) + HELD_FOR, self._close_spent) if opened else None

    def _open_wanted(self) -> None:
        """Begin to open as many connections as are wanted and allowed."""
        while self._waiting and self._waiting[0][0].done():  # it has waited too long
            self._waiting.popleft()
        if not self._waiting or self._closed:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._lent and (self._making_room or now < self._full_until):
            return  # one of those that are lent will be returned
        for _ in range(min(len(self._waiting), self._options.connections - self._lent) - len(self._opening)):
            task = loop.create_task(self._new(), name="open a connection")
            self._opening[task] = now
            task.add_done_callback(self._opened)

    def _opened(self, task: asyncio.Task[Connection]) -> None:
        """Lend a connection that was opened to a caller that waits, or handle that it could not be opened."""
        began = self._opening.pop(task)
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, Unavailable):
            self._handle_failure(error, began)
        elif error is not None:
            self._fail_waiting(DriverError(f"opening a connection to the database failed: {error}"))
        else:
            self._offer(task.result(), queued=asyncio.get_running_loop().time() > began + QUEUED_AFTER)

    def _handle_failure(self, error: Unavailable, began: float) -> None:
        """Let callers wait on after a connection could not be opened if there may be another one; else fail them."""
        loop = asyncio.get_running_loop()
        if isinstance(error, Refused) and (self._lent or self._idle):
            # Wait until another one is returned. If the hosts are gone rather than full, that one will fail.
            self._full_until = loop.time() + REFUSED_FOR
            loop.call_later(REFUSED_FOR, self._open_wanted)
        elif isinstance(error, Refused) and self._may_count_closed():
            loop.call_later(PAUSE, self._open_wanted)
        elif self._returned_at > began:
            self._open_wanted()  # the database answers, but a pooler has no connection to spare
        elif not any(since <= began for since in self._opening.values()):
            self._fail_waiting(error, began)
            self._open_wanted()  # for those who came later

    def _fail_waiting(self, error: Unavailable, since: float = float("inf")) -> None:
        """Raise an error in all callers that wait, and have waited since this time or longer."""
        while self._waiting and self._waiting[0][1] <= since:
            waiter, _ = self._waiting.popleft()
            if not waiter.done():
                waiter.set_exception(type(error)(str(error)))

    def _may_count_closed(self) -> bool:
        """Return True if the database may still count connections that were closed to make room."""
        return self._making_room > 0 or asyncio.get_running_loop().time() < self._made_room + NOTICED_WITHIN

    async def _new(self) -> Connection:
        try:
            connection = await connect(self._options, self.hosts)
        except StorageUnusable as exc:
            if self._closed:
                raise
            if str(exc) != self._logged:
                self._logged = str(exc)
                log.error("the database refuses connections until somebody changes a setting: %s", exc)  # noqa: TRY400
            raise Refused(str(exc)) from exc
        self._logged = ""
        return connection

    async def _roll_back(self, connection: Connection) -> None:
        try:
            if not connection.closed:
                await connection.fetch("ROLLBACK", {})
                connection.in_transaction = False
        except (ComposerdError, Collision):
            connection.close()


def _spent(connection: Connection, now: float) -> bool:
    """Return True if other clients of a pooler should have a connection."""
    return connection.pooled and now >= connection.opened_at + HELD_FOR

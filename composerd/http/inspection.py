"""Looks at every open connection again and again, and closes those whose client has gone or does not go on."""

import asyncio
import select
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import cast

from aiohttp import web

from composerd.errors import InvalidContent
from composerd.http.connection import HttpConnection
from composerd.http.delivery import close_after_answer, descriptor_of

LOOK_EVERY = 4.0
"""Time in seconds between two looks at a connection."""

MAX_BEHIND_A_WAIT = 16 * 1024
"""The most bytes that a client may send behind a request that waits."""

_SLICE = 500
"""Connections that are looked at before other work is done."""


class Wait:
    """A block in which a request waits: it ends with an error if its client pipelines too much behind the request.

    aiohttp reads no more of a connection with much behind a request, and then does not notice that the client has gone.
    `Inspection` does in any case.
    """

    __slots__ = ("_cancelling", "_connection", "_refused", "_request", "_size", "_task")

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._connection = cast(HttpConnection, request.protocol)
        self._refused = False
        self._size = 0

    def __enter__(self) -> None:
        """Raise `InvalidContent` if too much is there already."""
        requests, self._size = self._connection.pipelined
        if self._is_too_much(requests):
            raise self._error()
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._connection.waiting = self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Raise `InvalidContent` if the block was ended because the client has sent too much."""
        self._connection.waiting = None
        if self._refused and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise self._error() from error

    def received(self, size: int, requests: int) -> None:
        """End the block if the client has sent too much behind the request."""
        self._size += size
        if not self._refused and self._is_too_much(requests):
            self._refused = True
            self._task.cancel()

    def _is_too_much(self, requests: int) -> bool:
        return requests > 1 or self._size > MAX_BEHIND_A_WAIT

    def _error(self) -> InvalidContent:
        close_after_answer(self._request)
        return InvalidContent(field="request", problem="more than one request was sent behind one that waits")


class Inspection:
    """Closes connections on which nothing happens that aiohttp would notice.

    These are: a wait whose client has closed its side, a head that does not become complete, and an answer that a
    client does not read although the connection is to be closed. One task looks at all of them, so that a connection
    costs no timer and no system call.
    """

    def __init__(self, connections: Mapping[HttpConnection, asyncio.Transport], timeout: float) -> None:
        """Look at `connections`, in which clients have `timeout` seconds to go on."""
        self._connections = connections
        self._timeout = timeout
        self._clock = asyncio.get_running_loop().time

    async def run(self) -> None:
        """Look at all connections every few seconds, until canceled."""
        pause = min(LOOK_EVERY, self._timeout / 4)
        while True:
            await asyncio.sleep(pause)
            connections = list(self._connections.items())
            for begin in range(0, len(connections), _SLICE):
                self._look(connections[begin : begin + _SLICE])
                await asyncio.sleep(0)

    def _look(self, connections: Sequence[tuple[HttpConnection, asyncio.Transport]]) -> None:
        late = self._clock() - self._timeout
        poll = select.poll()
        waiting: dict[int, asyncio.Transport] = {}
        for connection, transport in connections:
            if transport.is_closing():
                if connection.closing_since is None:
                    connection.closing_since = self._clock()
                elif connection.closing_since < late:
                    transport.abort()
            elif connection.waiting is not None:
                if (descriptor := descriptor_of(transport)) >= 0:
                    waiting[descriptor] = transport
                    poll.register(descriptor, select.POLLRDHUP)
            elif connection.head_since is not None and connection.head_since < late:
                connection.force_close()
        for descriptor, _ in poll.poll(0) if waiting else ():
            waiting[descriptor].abort()

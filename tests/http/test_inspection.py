"""Tests of the looks at open connections, over real sockets of which nothing is read."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from composerd.http.inspection import Inspection


class Connection:
    """The part of a connection that is looked at."""

    def __init__(self, **fields: Any) -> None:
        self.waiting: Any = None
        self.head_since: float | None = None
        self.closing_since: float | None = None
        self.closed = False
        vars(self).update(fields)

    def force_close(self) -> None:
        """Note that it was called."""
        self.closed = True


@contextlib.asynccontextmanager
async def inspected(timeout: float, **fields: Any) -> AsyncIterator[tuple[socket.socket, Any, asyncio.Transport]]:
    """Look at one connection; yield the client's socket, the connection and the transport, which does not read."""
    client, ours = socket.socketpair()
    transport, _ = await asyncio.get_running_loop().connect_accepted_socket(asyncio.Protocol, ours)
    transport.pause_reading()
    connection = Connection(**fields)
    task = asyncio.create_task(Inspection({connection: transport}, timeout).run())  # type: ignore[dict-item]
    try:
        yield client, connection, transport
    finally:
        task.cancel()
        transport.abort()
        client.close()


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something is true."""
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110  # a transport has no event for it
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("half", [True, False])
async def test_a_wait_whose_client_has_gone(half: bool) -> None:
    """A wait whose client has closed its side is given up although nothing of the connection is read."""
    async with inspected(0.1, waiting=object()) as (client, _, transport):
        client.send(b"behind")
        await asyncio.sleep(0.1)
        assert not transport.is_closing()
        if half:
            client.shutdown(socket.SHUT_WR)
        else:
            client.close()
        await until(transport.is_closing)


async def test_an_answer_that_is_not_read() -> None:
    """A connection is closed although its client does not read the end of what was sent."""
    async with inspected(0.1) as (_, _, transport):
        transport.write(bytes(4_000_000))
        transport.close()
        assert transport.get_write_buffer_size() > 0
        await until(lambda: transport.get_write_buffer_size() == 0)


async def test_a_head_that_does_not_become_complete() -> None:
    """A connection is closed if a head is not complete in time, and not if it is idle."""
    now = asyncio.get_running_loop().time()
    async with inspected(0.1) as (_, idle, _), inspected(0.1, head_since=now) as (_, slow, _):
        await until(lambda: slow.closed)
        assert not idle.closed

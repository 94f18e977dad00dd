"""Clients that go away from requests that wait, with much pipelined behind them."""

import asyncio
import json
import socket
import struct
from collections.abc import Callable

import pytest

from ..live.conftest import until_waiting
from .conftest import COMPOSER, WORKER, Attacker, Client, Connection, Serve, Server, head, status_of

BODY = b'{"types":["build"],"arch":"x86_64"}'
REQUEST = head("POST", f"{WORKER}/jobs?wait=10m", f"Content-Length: {len(BODY)}") + BODY
STATUS = head("GET", f"{COMPOSER}/status")


async def wait_of(kind: str, client: Client) -> bytes:
    """Return a request that waits: for a job, for the end of a job, or for news of an attempt."""
    if kind == "job":
        return REQUEST
    _, job = await client.request("POST", f"{COMPOSER}/jobs", {"type": "other"})
    if kind == "end":
        return head("GET", f"{COMPOSER}/jobs/{job['id']}?wait=10m")
    _, attempt = await client.request("POST", f"{WORKER}/jobs", {"types": ["other"], "arch": "x"})
    return head("GET", f"{attempt['location']}?wait=10m")


def reset(connection: Connection) -> None:
    """Close a connection with RST."""
    kept = connection[1].get_extra_info("socket")
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection[1].transport.abort()


@pytest.mark.parametrize("kind", ["job", "end", "attempt"])
async def test_many_requests_behind_a_wait(
    serve: Serve, attacker: Callable[..., Attacker], client: Callable[..., Client], kind: str
) -> None:
    """A wait with more than one request behind it is answered with error 19, and its connection is closed."""
    server = await serve(storage="memory:")
    sent = await wait_of(kind, client(server))
    for behind in (sent + 40 * STATUS, sent + STATUS + head("PUT", "/x", "Content-Length: 300000") + bytes(100_000)):
        reader, _ = await attacker(server).connect(behind)
        async with asyncio.timeout(10):
            answer, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert json.loads(body)["id"] == "19"
        await until_waiting(server, 0)


async def test_requests_that_follow_a_wait_later(serve: Serve, attacker: Callable[..., Attacker]) -> None:
    """A second request behind a wait ends it also when it comes later; one alone is answered after the wait."""
    server = await serve(storage="memory:")
    flooded, patient = await attacker(server).connect(REQUEST), await attacker(server).connect(REQUEST)
    await until_waiting(server, 2)
    for connection in (flooded, patient):
        connection[1].write(STATUS)
    flooded[1].write(STATUS)
    assert await status_of(flooded) == 400
    await until_waiting(server, 1)
    await server.submit("build")
    async with asyncio.timeout(10):
        await patient[0].readuntil(b"HTTP/1.1 201 ")
        await patient[0].readuntil(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("close", [reset, lambda connection: connection[1].close()], ids=["RST", "FIN"])
async def test_clients_that_go(serve: Serve, attacker: Callable[..., Attacker], close: Callable[..., None]) -> None:
    """A client that goes away from a wait with requests behind it leaves neither the wait nor a descriptor."""
    server = await serve(storage="memory:")
    for behind in (STATUS, head("PUT", "/x", "Content-Length: 300000") + bytes(10_000), 40 * STATUS):
        close(await attacker(server).connect(REQUEST + behind))
    await until_waiting(server, 0)
    await until_no_connection(server)


async def until_no_connection(server: Server) -> None:
    """Wait until the server has no connection but that of the request that asks."""

    async def holds() -> bool:
        _, text = await server.request("GET", "/metrics")
        return b"\ncomposerd_connections 1.0\n" in text

    await server.until(holds)

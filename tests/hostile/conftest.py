"""Misuse of a real server from one address, and requests of well-behaved clients from another."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest

from ..live.conftest import COMPOSER, WORKER, Serve, Server, no_process_left, serve

__all__ = ["COMPOSER", "WORKER", "Attacker", "Client", "Serve", "Server", "no_process_left", "serve"]

ATTACKER = "127.0.9.1"
"""The address that the misuse comes from. Servers of the tests listen on other addresses of the loopback network."""

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Attacker:
    """Opens raw connections to a server from one address."""

    def __init__(self, server: Server, address: str) -> None:
        self._server = server
        self._address = address
        self.connections: list[Connection] = []

    async def connect(self, data: bytes = b"") -> Connection:
        """Open a connection, and send some bytes on it."""
        connection = await asyncio.open_connection(*self._server.address, local_addr=(self._address, 0))
        self.connections.append(connection)
        if data:
            connection[1].write(data)
            await connection[1].drain()
        return connection

    async def close(self) -> None:
        """Close every connection, and wait until the kernel has been told."""
        for _, writer in self.connections:
            writer.transport.abort()
        await asyncio.sleep(0)


class Client:
    """A well-behaved client with an address of its own."""

    def __init__(self, server: Server, address: str) -> None:
        self._server = server
        connector = aiohttp.TCPConnector(limit=0, local_addr=(address, 0))
        self._http = aiohttp.ClientSession(connector=connector, auto_decompress=False)

    async def request(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Send a request with a JSON body, or none, and return the status and the decoded body."""
        return await self.send(method, path, None if body is None else json.dumps(body).encode(), **headers)

    async def send(self, method: str, path: str, body: bytes | None, **headers: str) -> tuple[int, Any]:
        """Send a request with these bytes as its JSON body, and return the status and the decoded body."""
        data = None
        if body is not None:
            data = io.BytesIO(body)
            headers = {"Content-Type": "application/json", **headers}
        async with self._http.request(method, self._server.url + path, data=data, headers=headers) as response:
            raw = await response.read()
            is_json = response.content_type == "application/json" and raw
            return response.status, json.loads(raw) if is_json else raw

    async def work(self, type: str = "build") -> None:
        """Submit a job, get it as a worker, renew its lease and finish it; each of it has to succeed."""
        status, job = await self.request("POST", f"{COMPOSER}/jobs", {"type": type})
        assert status == 201, job
        status, got = await self.request("POST", f"{WORKER}/jobs?wait=20s", {"types": [type], "arch": "x86_64"})
        assert status == 201, got
        assert (await self.request("GET", got["location"]))[0] == 200
        assert (await self.request("PATCH", got["location"], {"result": {}}))[0] == 200

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()


@pytest.fixture
async def attacker() -> AsyncIterator[Callable[..., Attacker]]:
    """Return a function that makes an attacker of a server, from `ATTACKER` unless another address is given."""
    attackers: list[Attacker] = []

    def make(server: Server, address: str = ATTACKER) -> Attacker:
        attackers.append(Attacker(server, address))
        return attackers[-1]

    yield make
    for one in attackers:
        await one.close()


@pytest.fixture
async def client() -> AsyncIterator[Callable[..., Client]]:
    """Return a function that makes a well-behaved client of a server, from an address of its own."""
    clients: list[Client] = []

    def make(server: Server, address: str = "") -> Client:
        clients.append(Client(server, address or f"127.0.8.{len(clients) + 1}"))
        return clients[-1]

    yield make
    for one in clients:
        await one.close()


def head(method: str, path: str, *headers: str) -> bytes:
    """Return the head of a request with a JSON body, with these further header lines."""
    lines = [f"{method} {path} HTTP/1.1", "Host: a", "Content-Type: application/json", *headers, "", ""]
    return "\r\n".join(lines).encode()


async def status_of(connection: Connection, seconds: float = 20) -> int:
    """Return the status of the next answer on a connection; 0 if the connection was closed without one."""
    async with asyncio.timeout(seconds):
        try:
            line = await connection[0].readline()
        except ConnectionError:
            return 0
    return int(line.split()[1]) if line else 0

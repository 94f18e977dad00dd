"""Requests and connections when the server gets SIGTERM."""

import asyncio
import hashlib
import json
import signal
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from ..throwaway import Throwaway
from .conftest import COMPOSER, HALF_SENT, WORKER, Serve, Server
from .test_tls import Files, files

__all__ = ["files"]

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
HALF = 400_000
SAID = b"stopping; answering the waiting requests"


async def answer_of(connection: Connection) -> tuple[int, bytes, bytes]:
    """Return the status, the head and the body of everything that arrives until the server closes."""
    async with asyncio.timeout(20):
        try:
            raw = await connection[0].read()
        except ConnectionError:
            raw = b""
    head, _, body = raw.partition(b"\r\n\r\n")
    return int(head.split()[1]) if head else 0, head, body


async def until_stopping(server: Server) -> None:
    """Send SIGTERM, and wait until the server has begun to stop and accepts no more connections."""
    server.kill(signal.SIGTERM)

    async def refuses() -> bool:
        if SAID not in server.log:
            return False
        try:
            _, writer = await asyncio.open_connection(*server.address)
        except ConnectionRefusedError:
            return True
        except ConnectionResetError:
            return False
        writer.close()
        return False

    await server.until(refuses)


def head_of(method: str, path: str, size: int, *more: str) -> bytes:
    """Return the head of a request with a body."""
    lines = [f"{method} {path} HTTP/1.1", "Host: a", "Content-Type: application/json", f"Content-Length: {size}", *more]
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.fixture(params=["tcp", "unix", "tls", "processes"])
async def opened(
    request: pytest.FixtureRequest, serve: Serve, tmp_path: Path
) -> tuple[Server, Callable[[], Awaitable[Connection]], dict[str, Any]]:
    """Return a server, a function that opens a connection to it, and what requests to it need."""
    options = ["--drain-timeout", "15s"]
    if request.param == "processes":
        postgres: Throwaway = request.getfixturevalue("newest_postgres")
        artifacts = ("--artifacts", str(tmp_path / "artifacts"))
        server = await serve(*options, *artifacts, "--processes", "2", storage=postgres.fresh())
        return server, lambda: asyncio.open_connection(*server.address), {}
    if request.param == "tls":
        certificates: Files = request.getfixturevalue("files")
        server = await serve(*options, *certificates.server_options)
        context = ssl.create_default_context(cafile=certificates.ca_file)
        return server, lambda: asyncio.open_connection(*server.address, ssl=context), {"ssl": context}
    path = str(tmp_path / "socket")
    server = await serve(*options, "--listen", f"unix:{path}")
    if request.param == "unix":
        return server, lambda: asyncio.open_unix_connection(path), {}
    return server, lambda: asyncio.open_connection(*server.address), {}


async def test_bodies_in_progress_are_read(
    opened: tuple[Server, Callable[[], Awaitable[Connection]], dict[str, Any]],
) -> None:
    """An upload and a result of which half was sent at SIGTERM are read to the end, answered and stored."""
    server, connect, tls = opened
    _, job = await server.request("POST", f"{COMPOSER}/jobs", {"type": "build"}, **tls)
    _, other = await server.request("POST", f"{COMPOSER}/jobs", {"type": "build"}, **tls)
    body = {"types": ["build"], "arch": "a"}
    attempts = [(await server.request("POST", f"{WORKER}/jobs?wait=20s", body, **tls))[1] for _ in range(2)]
    assert {one["id"] for one in attempts} == {job["id"], other["id"]}
    result = json.dumps({"result": "x" * HALF * 2}).encode()
    file = bytes(range(250)) * (HALF // 125)
    uploading, reporting = await connect(), await connect()
    continues = "Expect: 100-continue"
    uploading[1].write(head_of("PUT", attempts[0]["artifact_location"] + "log", len(file), continues))
    reporting[1].write(head_of("PATCH", attempts[1]["location"], len(result), continues))
    for (reader, writer), data in ((uploading, file), (reporting, result)):
        assert (await reader.readuntil(b"\r\n\r\n")).split()[1] == b"100"
        writer.write(data[:HALF])
        await writer.drain()
    await until_stopping(server)
    uploading[1].write(file[HALF:])
    reporting[1].write(result[HALF:])
    for one in (uploading, reporting):
        status, head, _ = await answer_of(one)
        assert status == 200
        assert b"connection: close" in head.lower()
        one[1].close()
    assert await server.exited() == 0
    await server.start()
    assert (await server.request("PATCH", attempts[0]["location"], {"result": 1}, **tls))[0] == 200
    _, listed = await server.request("GET", f"{COMPOSER}/jobs/{attempts[0]['id']}/artifacts", **tls)
    assert [one["sha256"] for one in listed["items"]] == [hashlib.sha256(file).hexdigest()]
    _, ended = await server.request("GET", f"{COMPOSER}/jobs/{attempts[1]['id']}", **tls)
    assert (ended["state"], len(ended["result"])) == ("finished", HALF * 2)


async def test_new_requests_are_refused(serve: Serve) -> None:
    """While one request is read to its end, idle connections are closed, and a request that begins gets error 28."""
    server = await serve("--drain-timeout", "15s")
    reading = await asyncio.open_connection(*server.address)
    reading[1].write(HALF_SENT)
    assert (await reading[0].readuntil(b"\r\n\r\n")).split()[1] == b"100"
    idle = await asyncio.open_connection(*server.address)
    idle[1].write(f"GET {COMPOSER}/status HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    assert (await idle[0].readuntil(b"}")).split()[1] == b"200"
    beginning = await asyncio.open_connection(*server.address)
    beginning[1].write(f"GET {COMPOSER}/jobs HTTP/1.1\r\nHo".encode())
    ready = await asyncio.open_connection(*server.address)
    ready[1].write(b"GET /readyz HTTP/1.1\r\nHo")
    await asyncio.sleep(0.2)  # nothing shows that the server has read these
    await until_stopping(server)
    assert await answer_of(idle) == (0, b"", b"")
    beginning[1].write(b"st: a\r\n\r\n")
    status, head, body = await answer_of(beginning)
    assert (status, json.loads(body)["id"]) == (503, "28")
    assert b"connection: close" in head.lower()
    ready[1].write(b"st: a\r\n\r\n")
    status, head, body = await answer_of(ready)
    assert (status, body) == (503, b"draining\n")
    assert b"retry-after" not in head.lower()
    reading[1].write(b"}       " + f"POST {COMPOSER}/jobs HTTP/1.1\r\nHost: a\r\n".encode())
    status, head, body = await answer_of(reading)
    assert (status, json.loads(body)["id"]) == (400, "19")
    assert body.count(b"HTTP/1.1") == 0
    assert await server.exited() == 0
    for _, writer in (reading, idle, beginning, ready):
        writer.close()


async def test_waits_end_while_a_body_is_read(serve: Serve) -> None:
    """A wait is answered at once after SIGTERM, also if a body keeps the server from stopping; a kept-on one ends."""
    server = await serve("--drain-timeout", "2s")
    waiting = await asyncio.open_connection(*server.address)
    ask = json.dumps({"types": ["build"], "arch": "a"}).encode()
    waiting[1].write(head_of("POST", f"{WORKER}/jobs", len(ask)) + ask)
    reading = await asyncio.open_connection(*server.address)
    reading[1].write(HALF_SENT)
    assert (await reading[0].readuntil(b"\r\n\r\n")).split()[1] == b"100"
    began = time.monotonic()
    server.kill(signal.SIGTERM)
    status, head, _ = await answer_of(waiting)
    assert status == 204
    assert b"connection: close" in head.lower()
    assert time.monotonic() - began < 1
    assert await answer_of(reading) == (0, b"", b"")  # its body does not end
    assert await server.exited() == 0
    assert time.monotonic() - began < 4
    assert b"closing connections whose requests did not end within drain_timeout (1)" in server.log
    assert b"Traceback" not in server.log, server.log.decode()
    for _, writer in (waiting, reading):
        writer.close()

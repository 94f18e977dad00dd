"""Clients that open connections to a server with TLS and do not complete the handshake."""

import asyncio
import contextlib
import os
import signal
import ssl
from collections.abc import Callable
from pathlib import Path

from ..live.test_tls import Files, answers
from .conftest import Attacker, Serve, Server


async def test_handshakes_that_are_not_completed(
    serve: Serve, attacker: Callable[..., Attacker], tmp_path: Path
) -> None:
    """Handshakes count as connections of their client, are given up after a time, and leave others their share."""
    files = Files(tmp_path)
    server = await serve(*files.server_options, "--max-connections", "4", "--body-timeout", "1s", storage="memory:")
    greedy = attacker(server)
    begun = [await greedy.connect(b"\x16\x03\x01\x02\x00\x01") for _ in range(3)]

    async def refused() -> bool:
        return b"too many connections: 2 of 4 are open, and 127.0.9.1 has 2 of them" in server.log

    await server.until(refused)
    assert await answers(server, ca_file=files.ca_file) == 200  # from another address
    for reader, _ in begun:
        async with asyncio.timeout(20):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
    for _ in range(3):
        assert await answers(server, ca_file=files.ca_file) == 200
    assert b"Traceback" not in server.log


async def test_health_beside_handshakes(serve: Serve, attacker: Callable[..., Attacker], tmp_path: Path) -> None:
    """`/healthz` is answered while handshakes take all connections and more, and they do not delay a stop."""
    files = Files(tmp_path)
    server = await serve(*files.server_options, "--max-connections", "2", storage="memory:")
    for address in ("127.0.9.1", "127.0.9.2", "127.0.9.3"):
        for _ in range(20):
            await attacker(server, address).connect(b"\x16\x03\x01\x02\x00\x01")
    context = ssl.create_default_context(cafile=files.ca_file)
    assert await answers(server, ca_file=files.ca_file) == 503
    assert (await server.request("GET", "/healthz", ssl=context)) == (200, b"alive\n")
    server.kill(signal.SIGTERM)
    assert await server.exited() == 0
    assert b"Traceback" not in server.log
    assert b"never retrieved" not in server.log


async def test_plain_requests_to_a_server_with_tls(
    serve: Serve, attacker: Callable[..., Attacker], tmp_path: Path
) -> None:
    """Failed handshakes give their places back, and are not worth a line in the log."""
    files = Files(tmp_path)
    server = await serve(*files.server_options, "--max-connections", "2", storage="memory:")
    before = server.log
    for _ in range(50):
        reader, writer = await attacker(server, "127.0.0.1").connect(b"GET / HTTP/1.1\r\n\r\n")
        async with asyncio.timeout(20):
            with contextlib.suppress(ConnectionError):
                await reader.read()
        writer.close()
    assert await answers(server, ca_file=files.ca_file) == 200
    assert server.log == before


async def test_memory_of_connections_that_only_exist(
    serve: Serve, attacker: Callable[..., Attacker], tmp_path: Path
) -> None:
    """A connection with TLS takes little memory before its client has sent anything."""
    server = await serve(*Files(tmp_path).server_options, storage="memory:")
    greedy = attacker(server)
    before = resident(server)
    for _ in range(300):
        await greedy.connect()

    async def accepted() -> bool:
        return descriptors(server) > 300

    await server.until(accepted)
    assert (resident(server) - before) / 300 < 150 * 1024


def resident(server: Server) -> int:
    """Return the memory that a server has, in bytes."""
    return int(Path(f"/proc/{server.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors(server: Server) -> int:
    """Return how many descriptors a server has open."""
    return len(list(Path(f"/proc/{server.pid}/fd").iterdir()))

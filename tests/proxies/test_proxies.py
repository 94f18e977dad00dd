"""composerd behind real proxies, with the configurations that docs/how-to/behind-a-proxy.md documents."""

import asyncio
import contextlib
import hashlib
import io
import json
import os
import re
import signal
import socket
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from ..live.conftest import COMPOSER, WORKER, Serve, Server, until_ready, until_waiting
from ..live.test_cli import composerd
from ..tokens import bearer, new
from .conftest import Run
from .kinds import RIGHT, UNTOUCHED, Proxy, nginx_adapted
from .vanishing import machine

ASK = {"types": ["build"], "arch": "x86_64"}

every_proxy = pytest.mark.parametrize("proxy", RIGHT.values(), ids=RIGHT)

DEAF = {"apache"}
"""Proxies that do not notice that a client has gone, with any configuration."""

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "behind-a-proxy.md"
COMPOSE = Path(__file__).parents[2] / "docs" / "examples" / "compose" / "nginx.conf"


def request(path: str, body: bytes, *headers: str, method: str = "POST", length: bool = True) -> bytes:
    """Return a request as bytes."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers]
    lines += [f"Content-Length: {len(body)}"] if length else []
    return "\r\n".join([*lines, "", ""]).encode() + body


def ask(query: str) -> bytes:
    """Return a request for a job as bytes."""
    return request(f"{WORKER}/jobs{query}", json.dumps(ASK).encode(), "Content-Type: application/json")


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection with a reset."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@every_proxy
@pytest.mark.parametrize("how", ["closes", "resets"])
async def test_leave(proxy: Proxy, how: str, serve: Serve, run: Run) -> None:
    """The server notices when a worker that waits leaves, and the next job stays ready; where not, the wait ends."""
    server = await serve("--proxied-wait", "3s", storage="memory:")
    running = await run(proxy, server)
    _, writer = await asyncio.open_connection(*running.address)
    writer.write(ask("" if proxy.name in DEAF else "?wait=60s"))
    await until_waiting(server, 1)
    if how == "closes":
        writer.close()
        await writer.wait_closed()
    else:
        reset(writer)
    await until_waiting(server, 0, seconds=10)
    job = await server.submit()
    assert (await server.job(job["id"]))["state"] == "ready"


async def test_vanish(serve: Serve, run: Run, installed: Callable[[str, str, str], str]) -> None:
    """The server notices a worker whose machine vanishes without a packet within 35 s; where not, the wait ends."""
    installed("iproute2", "ip", "ip")
    server = await serve("--proxied-wait", "20s", storage="memory:")
    compose = RIGHT["nginx"]._replace(name="compose", configuration=COMPOSE, adapted=_compose)
    async with machine() as other:
        proxies = await asyncio.gather(*(run(proxy, server, other.host) for proxy in (*RIGHT.values(), compose)))
        await other.ask([(*proxy.address, "" if proxy.name in DEAF else "?wait=60s") for proxy in proxies])
        await until_waiting(server, len(proxies))
        await other.vanish()
        await until_waiting(server, 0, seconds=35)
    job = await server.submit()
    assert (await server.job(job["id"]))["state"] == "ready"


def _compose(text: str) -> str:
    for number in (1, 2):
        text = text.replace(f"composerd-{number}:8700", "127.0.0.1:8700")
    return nginx_adapted(text)


def documented_locations() -> list[str]:
    """Return the configurations of nginx for a prefix that the page has."""
    blocks = re.findall(r"^```nginx\n(location .*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    return blocks


@pytest.mark.parametrize(
    ("location", "options", "code"),
    [
        (0, ("--trusted-proxies", "127.0.0.1"), 0),
        (0, (), 1),
        (1, ("--base-path", "/builds"), 0),
    ],
    ids=["removed and named", "not trusted", "kept"],
)
async def test_prefix(
    location: int, options: tuple[str, ...], code: int, serve: Serve, run: Run, tmp_path: Path
) -> None:
    """Behind nginx, paths in answers are right below a prefix that it removes and names, or that the server knows."""
    server = await serve("--handover-timeout", "1s", "--sweep-interval", "1s", *options, storage="memory:")
    text = RIGHT["nginx"].configuration.read_text()
    (others,) = re.findall(
        r"location / \{\n.*?proxy_pass .*?\n(.*?) +proxy_set_header X-Forwarded-Prefix", text, re.DOTALL
    )
    added = documented_locations()[location].replace("# and the other lines of the location above\n", others)
    configuration = tmp_path / "nginx.conf"
    configuration.write_text(text.replace("location / {", f"{added}\nlocation / {{"))
    running = await run(RIGHT["nginx"]._replace(configuration=configuration), server, path="/builds/healthz")
    probed = await composerd("probe", f"{running.url}/builds", "--wait", "2s", "--waiters", "10", "--size", "1MiB")
    assert probed.code == code, probed.out
    assert ("wrong paths in answers: " in probed.out) == bool(code)


async def attempt_at(server: Server, **fields: Any) -> dict[str, Any]:
    """Submit a job, and take it."""
    await server.submit(**fields)
    attempt = await server.ask(confirm=False)
    assert attempt is not None
    return attempt


async def is_stored(files: Path) -> bool:
    """Return True if the server has stored a part of a file, or all of it."""
    return bool(sizes(files))


def sizes(directory: Path) -> int:
    """Return the number of bytes of the files in a directory, some of which may be removed meanwhile."""
    total = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += (Path(parent) / name).stat().st_size
    return total


@every_proxy
async def test_large_files(proxy: Proxy, serve: Serve, run: Run, tmp_path: Path) -> None:
    """An upload of 300 MiB arrives at the server while it is sent, and a download of it arrives whole."""
    files = tmp_path / "files"
    server = await serve("--artifacts", str(files), storage="memory:")
    running = await run(proxy, server)
    attempt = await attempt_at(server)
    part = bytes(range(256)) * 4096
    digest = hashlib.sha256()

    async def parts() -> AsyncIterator[bytes]:
        for number in range(300):
            digest.update(part)
            yield part
            if number == 10:
                await server.until(lambda: is_stored(files), seconds=20)

    async with aiohttp.ClientSession(running.url) as http:
        async with http.put(attempt["artifact_location"] + "disk", data=parts()) as answer:
            assert answer.status == 200, await answer.text()
        await server.finish(attempt)
        async with http.get(f"{COMPOSER}/jobs/{attempt['id']}/artifacts/disk") as answer:
            downloaded = hashlib.sha256()
            async for data in answer.content.iter_any():
                downloaded.update(data)
    assert downloaded.digest() == digest.digest()


@every_proxy
@pytest.mark.parametrize("how", ["closes", "resets"])
@pytest.mark.parametrize("length", [True, False], ids=["length", "chunked"])
async def test_cut_upload(proxy: Proxy, how: str, length: bool, serve: Serve, run: Run, tmp_path: Path) -> None:
    """An upload that its client cuts is not stored."""
    server = await serve("--artifacts", str(tmp_path / "files"), storage="memory:")
    running = await run(proxy, server)
    attempt = await attempt_at(server)
    reader, writer = await asyncio.open_connection(*running.address)
    framing = f"Content-Length: {4 << 20}" if length else "Transfer-Encoding: chunked"
    half = bytes(2 << 20)
    body = half if length else b"200000\r\n" + half + b"\r\n"
    path = attempt["artifact_location"] + "disk"
    writer.write(
        request(path, b"", framing, "Content-Type: application/octet-stream", method="PUT", length=False) + body
    )
    await writer.drain()
    await server.until(lambda: is_stored(tmp_path / "files"), seconds=20)
    if how == "closes":
        writer.close()
    else:
        reset(writer)
    with contextlib.suppress(ConnectionError):
        assert b" 200 " not in await reader.read()

    async def over() -> bool:
        return not await is_stored(tmp_path / "files")

    await server.until(over)
    await server.finish(attempt)
    assert (await server.request("GET", f"{COMPOSER}/jobs/{attempt['id']}/artifacts"))[1]["items"] == []


@every_proxy
async def test_restart(proxy: Proxy, serve: Serve, run: Run) -> None:
    """When the server stops, waits end with 204; once it is back, it is reached again within 5 s."""
    server = await serve()
    running = await run(proxy, server)
    async with aiohttp.ClientSession(running.url) as http:
        waiting = asyncio.create_task(http.post(f"{WORKER}/jobs?wait=60s", json=ASK))
        await until_waiting(server, 1)
        server.kill(signal.SIGTERM)
        assert (await waiting).status == 204
        await server.exited()
        with contextlib.suppress(aiohttp.ClientConnectionError):
            async with http.get(f"{WORKER}/status") as answer:
                assert answer.status in (502, 503)
                assert "X-Operation-Id" not in answer.headers
        await server.start()

        async def back() -> bool:
            with contextlib.suppress(aiohttp.ClientConnectionError):
                async with http.get(f"{WORKER}/status") as answer:
                    return answer.status == 200
            return False

        await server.until(back, seconds=5)


@every_proxy
async def test_three_hundred_workers(proxy: Proxy, serve: Serve, run: Run) -> None:
    """Heartbeats are answered while 300 workers wait."""
    server = await serve(storage="memory:")
    running = await run(proxy, server)
    attempt = await attempt_at(server)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(running.url, connector=connector) as http:
        waits = [asyncio.create_task(http.post(f"{WORKER}/jobs?wait=60s", json=ASK)) for _ in range(300)]
        await until_waiting(server, 300)
        for _ in range(3):
            async with asyncio.timeout(5), http.get(attempt["location"]) as answer:
                assert answer.status == 200
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


async def test_server_that_hangs(serve: Serve, run: Run, tmp_path: Path) -> None:
    """HAProxy sends no more requests to a server that hangs."""
    servers = [await serve(storage="memory:") for _ in range(2)]
    configuration = tmp_path / "haproxy.cfg"
    text = RIGHT["haproxy"].configuration.read_text()
    configuration.write_text(text + "    server two {}:{}\n".format(*servers[1].address))
    running = await run(RIGHT["haproxy"]._replace(configuration=configuration), servers[0])
    async with aiohttp.ClientSession(running.url) as http:

        async def answers() -> bool:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    for _ in range(4):
                        async with http.get(f"{WORKER}/status") as answer:
                            assert answer.status == 200
                    return True
            return False

        servers[0].kill(signal.SIGSTOP)
        try:
            assert not await answers()
            await servers[1].until(answers, seconds=10)
        finally:
            servers[0].kill(signal.SIGCONT)


@pytest.mark.parametrize("identities", [False, True])
async def test_server_without_room(
    identities: bool, serve: Serve, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HAProxy goes on sending requests to a server whose disk has little room: workers have to report results.

    A server with identities says to the token of a monitor why it is not ready.
    """
    options: tuple[str, ...] = ()
    headers = {}
    if identities:
        token = new(tmp_path / "tokens", "haproxy", "monitor")
        monkeypatch.setenv("COMPOSERD_MONITOR_TOKEN", token)
        options, headers = ("--tokens", str(tmp_path / "tokens")), bearer(token)
    server = await serve("--min-free-space", "1000TiB", *options, storage=f"fs:{tmp_path / 'storage'}")
    await until_ready(server, 503)

    async def refused() -> float:
        _, text = await server.request("GET", "/metrics", headers=headers)
        return sum(map(float, re.findall(rb'^composerd_requests_total{.*status="503"} (\S+)', text, re.MULTILINE)))

    asked = await refused()
    running = await run(RIGHT["haproxy"], server)
    async with aiohttp.ClientSession(running.url) as http:

        async def checked_three_times() -> bool:
            async with http.get(f"{WORKER}/status") as answer:
                assert answer.status == 200
            return await refused() - asked >= 3

        await server.until(checked_three_times)


@every_proxy
async def test_credentials(proxy: Proxy, serve: Serve, run: Run, tmp_path: Path) -> None:
    """A token arrives at the server, and its refusal at the client, with the header that says what is missing."""
    token = new(tmp_path / "tokens", "ci", "submitter")
    server = await serve("--tokens", str(tmp_path / "tokens"))
    running = await run(proxy, server)
    async with aiohttp.ClientSession(running.url) as http:
        async with http.get(f"{COMPOSER}/whoami", headers=bearer(token)) as answer:
            assert (answer.status, (await answer.json())["name"]) == (200, "ci")
        async with http.get(f"{COMPOSER}/whoami", headers=bearer(f"{token[:-1]}-")) as answer:
            assert (answer.status, (await answer.json())["id"]) == (401, "29")
            assert answer.headers["WWW-Authenticate"] == 'Bearer realm="composerd", error="invalid_token"'


async def test_cache(serve: Serve, run: Run, tmp_path: Path) -> None:
    """Varnish by default answers nothing from its cache, and passes on a download that is larger than its cache."""
    server = await serve("--artifacts", str(tmp_path / "files"), storage="memory:")
    running = await run(UNTOUCHED["varnish"], server)
    job = await server.submit()
    shown = f"{COMPOSER}/jobs/{job['id']}"
    async with aiohttp.ClientSession(running.url) as http:

        async def get(path: str) -> tuple[str, Any]:
            async with http.get(path) as answer:
                return answer.headers["X-Operation-Id"], await answer.json()

        assert (await get(shown))[1]["state"] == "ready"
        attempt = await server.ask()
        assert attempt is not None
        assert (await get(shown))[1]["state"] == "running"
        heartbeats = [await get(attempt["location"]) for _ in range(3)]
        assert len({number for number, _ in heartbeats}) == 3
        async with http.put(attempt["artifact_location"] + "disk", data=io.BytesIO(bytes(150 << 20))) as answer:
            assert answer.status == 200
        await server.finish(attempt)
        assert (await get(f"{shown}?wait=10s"))[1]["state"] == "finished"
        async with http.get(f"{shown}/artifacts/disk") as answer:
            size = 0
            async for data in answer.content.iter_any():
                size += len(data)
        assert size == 150 << 20
        canceled = await server.submit()
        attempt = await server.ask()
        assert attempt is not None
        assert not (await get(attempt["location"]))[1]["canceled"]
        await server.request("POST", f"{COMPOSER}/jobs/{canceled['id']}/cancel")
        assert (await get(attempt["location"]))[1]["canceled"]

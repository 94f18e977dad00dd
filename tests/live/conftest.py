"""A real `composerd serve` process over a real socket, for the tests that say how it behaves from outside."""

import asyncio
import contextlib
import io
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

WORKER = "/api/worker/v1"
COMPOSER = "/api/composer/v1"
JSON = {"Content-Type": "application/json"}
NOBODY = "12345678-1234-4123-8123-123456789abc"
"""An id that nobody has."""


class Server:
    """A server process, and the two or three requests that every test makes."""

    def __init__(self, storage: str, options: tuple[str, ...]) -> None:
        self.storage = storage
        self.options = options
        self.url = ""
        self.log = b""
        self._listen = "127.0.0.1:0"
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._http: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Start, or start again on the same port."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "composerd.cli.main",
            "serve",
            "--listen",
            self._listen,
            "--storage",
            self.storage,
            *self.options,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if not name.startswith("COMPOSERD_")},
        )
        assert self._process.stdout is not None
        self._reader = asyncio.create_task(self._read_log())
        async with asyncio.timeout(20):
            line = (await self._process.stdout.readline()).decode()
        assert line.startswith("listening on "), (line, await self._stderr())
        self.url = line.removeprefix("listening on ").strip()
        self._listen = self.url.partition("://")[2]
        if self._http is None:
            self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    async def _read_log(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            self.log += line

    async def _stderr(self) -> bytes:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                await asyncio.shield(self._reader or asyncio.sleep(0))
        return self.log

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self._listen.rpartition(":")
        return host, int(port)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    async def exited(self) -> int:
        """Wait for its end; the exit code."""
        assert self._process is not None
        code = await self._process.wait()
        if self._reader is not None:
            await self._reader
        return code

    async def close(self) -> None:
        """Stop it if it runs, and let go of everything."""
        if self._http is not None:
            await self._http.close()
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it ends by itself just now
                self.kill(signal.SIGTERM)
            await self.exited()
        if self._process is not None:
            self._process._transport.close()  # type: ignore[attr-defined]

    async def request(self, method: str, path: str, body: Any = None, **kwargs: Any) -> tuple[int, Any]:
        """Status and decoded body of one request."""
        assert self._http is not None
        if body is not None:
            kwargs.update(data=io.BytesIO(json.dumps(body).encode()), headers={"Content-Type": "application/json"})
        async with self._http.request(method, self.url + path, **kwargs) as response:
            data = await response.read()
            if response.content_type != "application/json" or not data:
                return response.status, data
            return response.status, json.loads(data)

    async def submit(self, type: str = "build", **fields: Any) -> dict[str, Any]:
        """Submit a job that must be accepted."""
        status, job = await self.request("POST", f"{COMPOSER}/jobs", {"type": type, **fields})
        assert status == 201, job
        return job  # type: ignore[no-any-return]

    async def ask(self, *types: str, wait: str = "30s", **fields: Any) -> dict[str, Any] | None:
        """Ask for a job; None for a 204."""
        body = {"types": types or ["build"], "arch": "x86_64", **fields}
        status, job = await self.request("POST", f"{WORKER}/jobs?wait={wait}", body)
        assert status in (201, 204), job
        return job if status == 201 else None

    async def finish(self, job: dict[str, Any], result: Any = None) -> tuple[int, Any]:
        """Report a result."""
        return await self.request("PATCH", job["location"], {"result": result})

    async def job(self, job_id: str, wait: str | None = None) -> dict[str, Any]:
        """Look up a job, or wait for its end."""
        status, job = await self.request("GET", f"{COMPOSER}/jobs/{job_id}" + (f"?wait={wait}" if wait else ""))
        assert status == 200, job
        return job  # type: ignore[no-any-return]

    async def until(self, holds: Callable[[], Awaitable[bool]], seconds: float = 10) -> None:
        """Wait for something that only asking can tell."""
        deadline = time.monotonic() + seconds
        while not await holds():
            assert time.monotonic() < deadline, "it did not come true in time"
            await asyncio.sleep(0.01)


Serve = Callable[..., Awaitable[Server]]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """A function that starts servers with the options it is given, on fs storage unless told otherwise."""
    servers: list[Server] = []

    async def start(*options: str, storage: str | None = None) -> Server:
        server = Server(storage or f"fs:{tmp_path / 'storage'}", options)
        servers.append(server)
        await server.start()
        return server

    yield start
    for server in servers:
        await server.close()


@pytest.fixture
async def server(serve: Serve) -> AsyncIterator[Server]:
    """A server that must not have been surprised by anything at the end."""
    server = await serve("--max-artifact-size", "1MiB", "--max-body-size", "2MiB")
    yield server
    assert b"Traceback" not in server.log, server.log.decode()


async def send(server: Server, method: str, path: str, data: Any = None, **headers: str) -> tuple[int, Any, Any]:
    """Status, headers and body of a request whose path is sent as it stands."""
    assert server._http is not None
    if isinstance(data, bytes):
        data = io.BytesIO(data)
    async with server._http.request(
        method,
        URL(server.url + path, encoded=True),
        data=data,
        headers={k.replace("_", "-"): v for k, v in headers.items()},
    ) as response:
        body = await response.read()
        return response.status, response.headers, body


async def error(server: Server, method: str, path: str, data: Any = None, **headers: str) -> tuple[int, int, Any]:
    """Status, number and details of an error, whose shape is checked."""
    status, answered, raw = await send(server, method, path, data, **headers)
    body = json.loads(raw)
    base, prefix = (COMPOSER, "COMPOSERD-") if path.startswith(f"{COMPOSER}/") else (WORKER, "IMAGE-BUILDER-WORKER-")
    assert body["kind"] == "Error"
    assert body["href"] == f"{base}/errors/{body['id']}"
    assert body["code"] == f"{prefix}{body['id']}"
    assert body["message"] == body["reason"]
    assert body["operation_id"] == answered["X-Operation-Id"]
    assert answered["Content-Type"].startswith("application/json")
    return status, int(body["id"]), body.get("details")

"""A `composerd serve` process and requests to it over a socket, for tests of how a server behaves from outside."""

import asyncio
import io
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from .http_relay import Relay, relaying
from .processes import Process, close, command

WORKER = "/api/worker/v1"
COMPOSER = "/api/composer/v1"
HALF_SENT = (
    b"POST /api/composer/v1/jobs HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
    b"Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
)
"""A request without the end of its body. The server sends `100 Continue` when it begins to read the body."""

LOOPBACK = f"127.0.0.{2 + int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0').removeprefix('gw'))}"
"""The address on which the tests of this process start servers.

Each process of a parallel run has its own, so that no other takes the port of a server that is about to be restarted.
"""

JSON = {"Content-Type": "application/json"}
NOBODY = "12345678-1234-4123-8123-123456789abc"
"""A well-formed id that no job, attempt or worker has."""


class Server:
    """A server process, and the requests that most tests make."""

    def __init__(self, storage: str, options: tuple[str, ...], environment: Mapping[str, str]) -> None:
        self.storage = storage
        self.options = options
        self.environment = environment
        """The settings of its environment, without those of the tests' own."""
        self.url = ""
        self.pid = 0
        self._listen = f"{LOOPBACK}:0"
        self._process: Process | None = None
        self._said = b""
        """The output of earlier processes of this server on stderr."""
        self._forgotten = 0
        """The number of bytes of the log that are skipped."""
        self._http: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Start the server. After the first start, it gets the same port again."""
        self._close_process()
        given = ("serve", "--listen", self._listen, "--storage", self.storage, *self.options)
        self._process = command(*given, **clean_environment(), **self.environment)
        self.pid = self._process.pid
        line = await self.line()
        if not line.startswith("listening on "):
            await self.exited()
        assert line.startswith("listening on "), (line, self.log)
        self.url = line.removeprefix("listening on ").strip()
        self._listen = self.url.partition("://")[2]
        if self._http is None:
            self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    async def line(self) -> str:
        """Return the next line that the server writes to stdout."""
        assert self._process is not None
        async with asyncio.timeout(60):
            return (await asyncio.to_thread(self._process.stdout.readline)).decode()

    @property
    def log(self) -> bytes:
        """Everything that the server wrote to stderr since its first start or the last `forget_log`."""
        said = self._said + (self._process.said() if self._process is not None else b"")
        return said[self._forgotten :]

    def forget_log(self) -> None:
        """Leave what was logged so far out of `log`."""
        self._forgotten += len(self.log)

    def _close_process(self) -> None:
        if self._process is not None:
            self._said += self._process.said()
            self._process.close()
            self._process = None

    @property
    def address(self) -> tuple[str, int]:
        """The host and the port that the server listens on."""
        host, _, port = self._listen.rpartition(":")
        return host, int(port)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the server."""
        assert self._process is not None
        self._process.send_signal(number)

    async def exited(self) -> int:
        """Wait until the server has exited, and return its exit code."""
        assert self._process is not None
        return await asyncio.to_thread(self._process.wait)

    async def close(self) -> None:
        """Stop the server if it runs, and close its pipes and connections."""
        if self._http is not None:
            await self._http.close()
        if self._process is not None and self._process.returncode is None:
            self.kill(signal.SIGTERM)
            await self.exited()
        self._close_process()

    async def request(self, method: str, path: str, body: Any = None, **kwargs: Any) -> tuple[int, Any]:
        """Send a request with a JSON body, or none, and return the status and the decoded body of the answer."""
        assert self._http is not None
        if body is not None:
            headers = {"Content-Type": "application/json", **kwargs.get("headers", {})}
            kwargs.update(data=io.BytesIO(json.dumps(body).encode()), headers=headers)
        async with self._http.request(method, self.url + path, **kwargs) as response:
            data = await response.read()
            if response.content_type != "application/json" or not data:
                return response.status, data
            return response.status, json.loads(data)

    async def submit(self, type: str = "build", **fields: Any) -> dict[str, Any]:
        """Submit a job, which must be accepted, and return it."""
        status, job = await self.request("POST", f"{COMPOSER}/jobs", {"type": type, **fields})
        assert status == 201, job
        return job  # type: ignore[no-any-return]

    async def ask(self, *types: str, wait: str = "30s", **fields: Any) -> dict[str, Any] | None:
        """Request a job as a worker does. Return the answer, or None for 204."""
        body = {"types": types or ["build"], "arch": "x86_64", **fields}
        status, job = await self.request("POST", f"{WORKER}/jobs?wait={wait}", body)
        assert status in (201, 204), job
        return job if status == 201 else None

    async def ask_and_confirm(self, *types: str, **fields: Any) -> dict[str, Any]:
        """Request a job, which there must be, and send one heartbeat: what is lost after that counts as a retry."""
        job = await self.ask(*types, **fields)
        assert job is not None
        assert (await self.request("GET", job["location"]))[0] == 200
        return job

    async def finish(self, job: dict[str, Any], result: Any = None) -> tuple[int, Any]:
        """Report the result of an attempt, and return the status and the body of the answer."""
        return await self.request("PATCH", job["location"], {"result": result})

    async def job(self, job_id: str, wait: str | None = None) -> dict[str, Any]:
        """Return a job, with `wait` after it has ended or the time is up."""
        status, job = await self.request("GET", f"{COMPOSER}/jobs/{job_id}" + (f"?wait={wait}" if wait else ""))
        assert status == 200, job
        return job  # type: ignore[no-any-return]

    async def until(self, holds: Callable[[], Awaitable[bool]], seconds: float = 30) -> None:
        """Repeat a check until it returns True. Fail the test if it does not within the time."""
        deadline = time.monotonic() + seconds
        while not await holds():
            assert time.monotonic() < deadline, f"not true within {seconds} s: {holds.__qualname__}"
            await asyncio.sleep(0.01)


async def until_waiting(server: Server, count: int, seconds: float = 30, **kwargs: Any) -> None:
    """Wait until exactly `count` requests wait on the server, for a job or for news of one.

    The number is one of the server's own metrics. `kwargs` are for the request that fetches them.
    """

    async def holds() -> bool:
        _, text = await server.request("GET", "/metrics", **kwargs)
        return f"\ncomposerd_waits {count}.0\n".encode() in text

    await server.until(holds, seconds)


async def until_ready(server: Server, status: int) -> None:
    """Wait until the server says with this status whether it is ready; it asks its storage at most once a second."""

    async def holds() -> bool:
        return (await server.request("GET", "/readyz"))[0] == status

    await server.until(holds)


def clean_environment() -> dict[str, str]:
    """Return the environment without the settings of a server and of commands."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COMPOSERD_")}


Serve = Callable[..., Awaitable[Server]]


@pytest.fixture(scope="session", autouse=True)
def no_process_left() -> Iterator[None]:
    """Stop the process that servers and commands are forked from, after the last test."""
    yield
    close()


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """Return a function that starts servers with options, on fs storage unless another is given."""
    servers: list[Server] = []

    async def start(*options: str, storage: str | None = None, environment: Mapping[str, str] | None = None) -> Server:
        server = Server(storage or f"fs:{tmp_path / 'storage'}", options, environment or {})
        servers.append(server)
        await server.start()
        return server

    yield start
    for server in servers:
        await server.close()


@pytest.fixture
async def server(serve: Serve) -> AsyncIterator[Server]:
    """Start a server, and fail the test if it has logged a traceback by the end."""
    server = await serve("--max-artifact-size", "1MiB", "--max-body-size", "2MiB")
    yield server
    assert b"Traceback" not in server.log, server.log.decode()


@pytest.fixture
async def relay(server: Server) -> AsyncIterator[Relay]:
    """Start a relay in front of the server."""
    async with relaying(server.url) as relay:
        yield relay


async def send(server: Server, method: str, path: str, data: Any = None, **headers: str) -> tuple[int, Any, Any]:
    """Send a request without changing its path, and return the status, the headers and the body of the answer."""
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
    """Send a request that must fail, check the form of the error, and return its status, number and details."""
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

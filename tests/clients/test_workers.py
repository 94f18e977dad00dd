"""Workers in other clients, with a real server and a relay that shortens waits and cuts answers."""

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from .conftest import COMPOSER, JSON, Relay, Server, ServeRelayed, send, until_waiting, without_proxies

WORKERS = Path(__file__).parent / "workers"

TEXT = 'grüße 🦀 "quoted" \\ / \u2028 line'
ARGS = (
    '{"big": 123456789012345678901234567890, "huge": 1e400, "precise": 1.00000000000000000000001, "nul": "\\u0000",'
    f' "twice": 1, "twice": 2, "text": {json.dumps(TEXT, ensure_ascii=False)}}}'
)
"""Args that JSON allows and that a language may be unable to keep."""

LIMIT = 2 << 20
"""Largest artifact in bytes that the server of the tests accepts."""


@dataclass(frozen=True)
class Client:
    """A client, how its worker is run, and what it does with connections."""

    file: str
    command: tuple[str, ...]
    """The program and its arguments, before the file."""
    package: str = ""
    """The package of the distribution that has the program; without one, the tests' own Python runs the worker."""
    program: str = ""
    """The program that the package has, if it is not the one that runs the file."""
    keeps: bool = True
    """True if it sends the next request on the same connection, also after a 204."""


PYTHON = (sys.executable,)
CLIENTS = [
    Client("aiohttp_worker.py", PYTHON),
    Client("httpx_worker.py", PYTHON),
    Client("pycurl_worker.py", PYTHON),
    Client("requests_worker.py", PYTHON),
    Client("urllib_worker.py", PYTHON, keeps=False),
    Client("urllib3_worker.py", PYTHON),
    Client("curl_worker.sh", ("sh",), "curl", "curl", keeps=False),
    Client("wget_worker.sh", ("sh",), "wget", "wget", keeps=False),
    Client("node_fetch_worker.mjs", ("node",), "nodejs"),
    Client("node_http_worker.mjs", ("node",), "nodejs"),
    Client("HttpClientWorker.java", ("java",), "default-jdk-headless"),
    Client("HttpUrlConnectionWorker.java", ("java",), "default-jdk-headless"),
    Client("net_http_worker.rb", ("ruby",), "ruby"),
    Client("lwp_worker.pl", ("perl",), "libwww-perl"),
    Client("http_tiny_worker.pl", ("perl",), "perl"),
    Client("php_curl_worker.php", ("php",), "php-curl"),
    Client("php_streams_worker.php", ("php",), "php-cli", keeps=False),
    Client("go_worker.go", ("go", "run"), "golang-go"),
    Client("httpc_worker.escript", ("escript",), "erlang-inets"),
]


async def printed(process: asyncio.subprocess.Process) -> bytes:
    """Return the next line that a worker prints."""
    assert process.stdout is not None
    async with asyncio.timeout(60):
        return await process.stdout.readline()


@contextlib.asynccontextmanager
async def running(client: Client, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the worker of a client in a process group of its own, and kill it if it is still there at the end."""
    process = await asyncio.create_subprocess_exec(
        *client.command,
        str(WORKERS / client.file),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        env=without_proxies(),
        start_new_session=True,
        limit=1 << 20,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def until_asked(server: Server, relay: Relay, worker: asyncio.subprocess.Process, count: int) -> None:
    """Wait until the worker has sent this number of requests."""

    async def holds() -> bool:
        assert worker.returncode is None, "the worker has exited"
        return len(relay.requests) >= count

    await server.until(holds)


async def submit(server: Server) -> str:
    """Submit a job with odd args, and return its id."""
    body = f'{{"type": "build", "args": {ARGS}}}'.encode()
    status, _, answer = await send(server, "POST", f"{COMPOSER}/jobs", body, **JSON)
    assert status == 201, answer
    return str(json.loads(answer)["id"])


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.file)
async def test_a_worker(
    relayed: ServeRelayed, client: Client, installed: Callable[[str, str, str], str], tmp_path: Path
) -> None:
    """A worker below a prefix waits, takes a job whose answer was cut, uploads, reports, and sees a refusal."""
    if client.package:
        installed(client.package, client.file, client.program or client.command[0])
    options = ("--max-artifact-size", f"{LIMIT}", "--handover-timeout", "1h", "--trusted-proxies", "127.0.0.0/8")
    server, relay = await relayed(*options)
    relay.prefix = "/ci"
    file = tmp_path / "output file"
    file.write_bytes(os.urandom(1 << 20))
    relay.short_waits = True
    relay.cut = "POST jobs"
    async with running(client, relay.url + relay.prefix, "build", str(file)) as worker:
        # It asks before there is a job, and again after a 204.
        await until_asked(server, relay, worker, 4)
        connections = {request.connection for request in relay.requests[:4]}
        assert (len(connections) < 4) == client.keeps, connections
        relay.short_waits = False
        await until_waiting(server, 1)

        # The answer is cut at first. The same request gets the same job at once, with its args as they were sent.
        job_id = await submit(server)
        answer = await printed(worker)
        assert json.loads(answer)["id"] == job_id
        assert ARGS.encode() in answer
        job = await server.job(job_id, wait="60s")
        assert (job["state"], job["result"], job["retries"]) == ("finished", {"text": TEXT}, 0)
        assert relay.cut is None

        # The file was sent with its length and digest, and is the artifact.
        sha256 = hashlib.sha256(file.read_bytes())
        put = next(request for request in relay.requests if request.call == "PUT output")
        assert (put.header("Content-Length"), put.header("Transfer-Encoding")) == (str(1 << 20), None)
        assert put.header("Content-Digest") == f"sha-256=:{base64.b64encode(sha256.digest()).decode()}:"
        _, listed = await server.request("GET", f"{COMPOSER}/jobs/{job_id}/artifacts")
        assert [(item["name"], item["size"], item["sha256"]) for item in listed["items"]] == [
            ("output", 1 << 20, sha256.hexdigest())
        ]

        # The reason of a refusal is in the result.
        file.write_bytes(bytes(LIMIT + 1))
        job = await server.job(await submit(server), wait="60s")
        assert job["state"] == "failed"
        assert job["result"]["job_error"]["reason"] == "upload: error 25, Artifact too large"

        # A worker that goes away while it waits takes no job with it.
        await until_waiting(server, 1)
    await until_waiting(server, 0)
    job_id = await submit(server)
    assert (await server.job(job_id, wait="200ms"))["state"] == "ready"

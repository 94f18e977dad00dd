"""Misuses of a server, each from one address and bounded: `python -m benchmarks.misuse NAME HOST PORT SECONDS`.

`fairness` starts this as a process of its own. It prints a line when the misuse has begun, and ends by itself.
"""

import asyncio
import contextlib
import json
import os
import ssl
import sys
import uuid
from collections.abc import Awaitable, Callable, Sequence

from benchmarks.client import Answer, Connection, request
from benchmarks.loads import COMPOSER, WORKER
from benchmarks.program import on_fastest_loop, raise_descriptors

SOURCE = "127.0.9.1"
"""The address that all misuse comes from."""

MANY_TYPES = [f"{n:03}".ljust(128, "t") for n in range(64)]

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Target:
    """The server that is misused."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self._held: list[Streams] = []
        """Connections that stay open: a writer that nothing refers to closes its connection."""

    async def connect(self, data: bytes = b"") -> Streams | None:
        """Open a connection that stays open, and send something; return None if the server does not want it."""
        try:
            opened = await asyncio.open_connection(self.host, self.port, local_addr=(SOURCE, 0))
            self._held.append(opened)
            opened[1].write(data)
        except OSError:
            return None
        return opened

    async def ask(self, message: bytes) -> Answer:
        """Send one request on a connection of its own, and return the answer."""
        connection = await Connection.open(self.host, self.port, SOURCE)
        try:
            return await connection.exchange(message)
        finally:
            connection.close()

    async def repeat(self, connections: int, messages: Callable[[int], bytes], pause: float = 0.0) -> None:
        """Send requests on this many connections, each as soon as the last was answered and the pause is over."""

        async def one(number: int) -> None:
            connection: Connection | None = None
            while True:
                try:
                    if connection is None:
                        connection = await Connection.open(self.host, self.port, SOURCE)
                    await connection.exchange(messages(number))
                except OSError:
                    connection = None
                    await asyncio.sleep(0.05)
                number += connections
                if pause:
                    await asyncio.sleep(pause)

        begun()
        await asyncio.gather(*(one(number) for number in range(connections)))


def begun() -> None:
    """Say that the misuse has begun."""
    print("begun", flush=True)


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _head(path: str, *lines: str, method: str = "POST") -> bytes:
    return "\r\n".join(
        [f"{method} {path} HTTP/1.1", "Host: a", "Content-Type: application/json", *lines, "", ""]
    ).encode()


async def announced(target: Target) -> None:
    """Announce 40 bodies of 32 MiB, and send nothing of them."""
    for path in (f"{COMPOSER}/jobs", f"{WORKER}/jobs") * 20:
        await target.connect(_head(path, f"Content-Length: {32 << 20}"))
    begun()
    await asyncio.Event().wait()


async def chunked(target: Target) -> None:
    """Send 24 chunked bodies without an end, each 1 MiB a second up to 8 MiB."""
    opened = [await target.connect(_head(f"{COMPOSER}/jobs", "Transfer-Encoding: chunked")) for _ in range(24)]
    begun()
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    sent = 0
    while True:
        if sent < 128:
            sent += 1
            for one in opened:
                if one is not None and not one[1].is_closing():
                    one[1].write(chunk)
        await asyncio.sleep(1 / 16)


async def unread(target: Target) -> None:
    """Ask 20 times for args of 16 MiB, and read nothing."""
    body = b'{"type":"misuse","args":"' + b"x" * (16 << 20) + b'"}'
    job = json.loads((await target.ask(request("POST", f"{COMPOSER}/jobs", body))).body)
    for _ in range(20):
        opened = await target.connect(_head(f"{COMPOSER}/jobs/{job['id']}/args", method="GET"))
        if opened is not None:
            opened[1].transport.pause_reading()  # type: ignore[attr-defined]
    begun()
    await asyncio.Event().wait()


async def waits(target: Target) -> None:
    """Hold every wait that there is, half of them for a job and half of them for the end of one."""
    job = json.loads((await target.ask(request("POST", f"{COMPOSER}/jobs", b'{"type":"misuse"}'))).body)
    wait = _head(f"{COMPOSER}/jobs/{job['id']}?wait=10m", method="GET")
    claim = request("POST", f"{WORKER}/jobs", _json({"types": ["nothing"], "arch": "x86_64"}))
    for _ in range(600):
        await target.connect(wait)
        await target.connect(claim)
    begun()
    await asyncio.Event().wait()


async def connections(target: Target) -> None:
    """Hold 1,500 connections, and open and close 200 more a second."""
    for _ in range(1500):
        await target.connect()
    begun()
    while True:
        opened = await target.connect()
        if opened is not None:
            opened[1].transport.abort()
        await asyncio.sleep(0.005)


async def handshakes(target: Target) -> None:
    """Begin 50 TLS handshakes a second without an end, and complete 50 a second."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    tasks: set[asyncio.Task[None]] = set()

    async def complete() -> None:
        with contextlib.suppress(OSError):
            (await Connection.open(target.host, target.port, SOURCE, context)).close()

    begun()
    while True:
        await target.connect()
        task = asyncio.create_task(complete())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        await asyncio.sleep(0.02)


async def _fill(target: Target, jobs: int, **fields: object) -> list[str]:
    """Store jobs, and return their ids."""
    ids: list[str] = []
    for begin in range(0, jobs, 1000):
        batch = {"jobs": [{"type": "misuse", **fields}] * min(1000, jobs - begin)}
        answer = await target.ask(request("POST", f"{COMPOSER}/jobs/batch", _json(batch)))
        ids += [one["id"] for one in json.loads(answer.body)["items"]]
    return ids


async def listings(target: Target) -> None:
    """List 1,000 jobs a page on 16 connections."""
    await _fill(target, 5000)
    await target.repeat(16, lambda _: request("GET", f"{COMPOSER}/jobs?limit=1000", b""))


async def searches(target: Target) -> None:
    """Ask on 16 connections for jobs that do not exist, for which a listing looks at 10,000 jobs."""
    await _fill(target, 10_000)
    await target.repeat(16, lambda _: request("GET", f"{COMPOSER}/jobs?state=failed&limit=1000", b""))


async def why(target: Target) -> None:
    """Ask on 16 connections why a job with 1,000 dependencies is not running."""
    named = await _fill(target, 1000)
    (job,) = await _fill(target, 1, dependencies=named)
    await target.repeat(16, lambda _: request("GET", f"{COMPOSER}/jobs/{job}/why", b""))


async def batches(target: Target) -> None:
    """Submit batches of 1,000 jobs on 4 connections, each up to twice a second."""
    batch = request("POST", f"{COMPOSER}/jobs/batch", _json({"jobs": [{"type": "misuse"}] * 1000}))
    await target.repeat(4, lambda _: batch, pause=0.5)


async def reads(target: Target) -> None:
    """Ask for a job on 64 connections, each as soon as the last request was answered."""
    (job,) = await _fill(target, 1)
    await target.repeat(64, lambda _: request("GET", f"{COMPOSER}/jobs/{job}", b""))


async def submissions(target: Target) -> None:
    """Submit jobs on 64 connections, each as soon as the last one was stored."""
    await target.repeat(64, lambda _: request("POST", f"{COMPOSER}/jobs", b'{"type":"misuse"}'))


async def pipelined(target: Target) -> None:
    """Ask for a job on 64 connections with 16 requests at once on each."""
    (job,) = await _fill(target, 1)
    message = request("GET", f"{COMPOSER}/jobs/{job}", b"") * 16

    async def one() -> None:
        while True:
            opened = await target.connect()
            try:
                while opened is not None:
                    opened[1].write(message)
                    for _ in range(16):
                        head = await opened[0].readuntil(b"\r\n\r\n")
                        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                        await opened[0].readexactly(int(length))
            except (OSError, asyncio.IncompleteReadError):
                pass
            await asyncio.sleep(0.05)

    begun()
    await asyncio.gather(*(one() for _ in range(64)))


async def uploads(target: Target) -> None:
    """Upload files of 4 MiB on 4 connections, each up to 4 a second."""
    await _fill(target, 1)
    asked = request("POST", f"{WORKER}/jobs", _json({"types": ["misuse"], "arch": "x86_64"}))
    location = json.loads((await target.ask(asked)).body)["location"]
    body = b"x" * (4 << 20)
    await target.repeat(4, lambda n: request("PUT", f"{location}/artifacts/file-{n % 8}", body), pause=0.25)


async def refused(target: Target) -> None:
    """Send 100 bodies to paths at which nothing is, half of them in small chunks, and go on after the answer."""
    lengths = ("Content-Length: 60000000", "Transfer-Encoding: chunked")

    async def one(number: int) -> None:
        head = _head(f"{WORKER}/nothing", lengths[number % 2], method="PUT")
        part = (b"x" * 1200, b"1\r\nx\r\n" * 200)[number % 2]
        while True:
            opened = await target.connect(head)
            while opened is not None and not opened[1].is_closing():
                opened[1].write(part)
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.05)

    begun()
    await asyncio.gather(*(one(number) for number in range(100)))


async def asking(target: Target) -> None:
    """Ask for jobs of 64 types without an end, with an id of the request each time, on 16 connections."""

    def message(_: int) -> bytes:
        body = {"types": MANY_TYPES, "arch": "x86_64", "request_id": str(uuid.uuid4()), "slots": 8}
        return request("POST", f"{WORKER}/jobs?wait=1ms", _json(body))

    await target.repeat(16, message)


async def metrics(target: Target) -> None:
    """Ask for the metrics, and whether the server is ready, on 16 connections."""
    pages = [request("GET", page, b"") for page in ("/metrics", "/readyz")]
    await target.repeat(16, lambda n: pages[n // 16 % 2])


async def errors(target: Target) -> None:
    """Send bodies with an unknown key of 8 MiB, and with 8 MiB of types, each on 2 connections up to twice a second."""
    unknown = request("POST", f"{COMPOSER}/jobs", b'{"type":"misuse","' + b"k" * (8 << 20) + b'":1}')
    types = request("POST", f"{WORKER}/jobs", _json({"types": ["t" * 100] * 80_000, "arch": "x86_64"}))
    await target.repeat(4, lambda n: (unknown, types)[n % 2], pause=0.5)


async def graphs(target: Target) -> None:
    """Submit 1,000 jobs with 1,000 dependencies each, and as many jobs with 10 each, which it cancels, every second."""
    named = await _fill(target, 1000)
    dense = request("POST", f"{COMPOSER}/jobs/batch", _json({"jobs": [{"type": "m", "dependencies": named}] * 1000}))
    begun()
    while True:
        root = (await _fill(target, 1))[0]
        few = [root, *named[:9]]
        sparse = _json({"jobs": [{"type": "m", "dependencies": few}] * 1000})
        for message in (
            request("POST", f"{COMPOSER}/jobs/batch", sparse),
            request("POST", f"{COMPOSER}/jobs/{root}/cancel", b""),
            dense,
        ):
            await target.ask(message)
        await asyncio.sleep(1)


async def workers(target: Target) -> None:
    """Name a new worker with 64 types of 128 characters in every request, and list the workers, on 8 connections."""
    listing = request("GET", f"{COMPOSER}/workers", b"")

    def message(number: int) -> bytes:
        if number % 50 == 0:
            return listing
        named = f"{number:08x}-0000-4000-8000-000000000000"
        types = [f"{number:08}{one[8:-3]}{n:03}" for n, one in enumerate(MANY_TYPES)]
        body = _json({"types": types, "arch": "x86_64", "worker_id": named})
        return request("POST", f"{WORKER}/jobs?wait=0s", body)

    await target.repeat(8, message)


Misuse = Callable[[Target], Awaitable[None]]

MISUSES: Sequence[Misuse] = (
    announced,
    chunked,
    unread,
    waits,
    connections,
    listings,
    searches,
    why,
    batches,
    reads,
    submissions,
    pipelined,
    uploads,
    refused,
    asking,
    metrics,
    errors,
    graphs,
    workers,
    handshakes,
)


def main() -> None:
    """Misuse a server as the command line says."""
    name, host, port, seconds = sys.argv[1:]
    raise_descriptors()
    os.nice(10)  # the client that is measured may share the core
    (misuse,) = (one for one in MISUSES if one.__name__ == name)

    async def run() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(float(seconds)):
                await misuse(Target(host, int(port)))

    on_fastest_loop(run())


if __name__ == "__main__":
    main()

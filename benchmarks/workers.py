"""Workers in a crowd: some wait for a job, some run one and say so now and then; and a probe of whether the server still answers."""

import asyncio
import contextlib
import http.client
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from uuid import uuid4

import msgspec

from benchmarks.client import Connection, open_all, request
from benchmarks.loads import ARCH, WORKER, finish_request, heartbeat_request, value_of
from benchmarks.servers import Server

POLL = 0.1
"""How often it is looked whether everybody waits, in seconds."""
STEADY = 10
"""So many looks in a row have to see the same."""
TICK = 0.01
"""How finely heartbeats are spread, in seconds."""


class Waiters:
    """Workers that wait for a job, each on a connection of its own, finish it, and ask again."""

    def __init__(self, server: Server, job_type: str, count: int) -> None:
        self.arrived: asyncio.Queue[float] = asyncio.Queue()
        """When a job was read, for each one that was."""
        self.may_finish = asyncio.Event()
        self.may_finish.set()
        self._server = server
        self._requests = [_request_of_worker(job_type) for _ in range(count)]
        self._connections: list[Connection] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._asked = 0

    async def come(self) -> float:
        """Connect, all at once, and ask; until the server says that all wait, and for a while longer. When that began to be so."""
        self._asked = 0
        self._tasks = [asyncio.create_task(self._work(each)) for each in self._requests]
        return await self.again(STEADY)

    async def again(self, steady: int = 1) -> float:
        """Until the server says, so many times in a row, that all wait. When that began to be so."""
        control = await Connection.open(self._server.host, self._server.port)
        seen: list[float] = []
        while len(seen) < steady:
            await asyncio.sleep(POLL)
            self._raise_failures()
            looked_at = time.perf_counter()
            waiting = await value_of(control, "composerd_waits")
            # Those of before may be counted still, as long as not all of the new ones have asked.
            if self._asked == waiting == len(self._requests):
                seen.append(looked_at)
            else:
                seen.clear()
        control.close()
        return seen[0]

    async def leave(self) -> None:
        """Go away in the middle of the wait, all at once."""
        for task in self._tasks:
            task.cancel()
        for connection in self._connections:
            connection.close()
        self._connections.clear()
        await asyncio.wait(self._tasks)

    async def _work(self, message: bytes) -> None:
        connection = await Connection.open(self._server.host, self._server.port)
        self._connections.append(connection)
        self._asked += 1
        while True:
            job = await connection.ask(message, 201)
            self.arrived.put_nowait(connection.answered_at)
            await self.may_finish.wait()
            await connection.ask(finish_request(job), 200)

    def _raise_failures(self) -> None:
        for task in self._tasks:
            if task.done():
                task.result()


def _request_of_worker(job_type: str) -> bytes:
    asked = {"types": [job_type], "arch": ARCH, "worker_id": str(uuid4())}
    return request("POST", f"{WORKER}/jobs", msgspec.json.encode(asked))


class Running:
    """Workers that run a job each and ask about it every so often, evenly spread, each on a connection of its own."""

    def __init__(self, connections: Sequence[Connection], requests: Sequence[bytes], interval: float) -> None:
        self.took: list[float] = []
        """How long each heartbeat was on its way, in seconds."""
        self._workers = list(zip(connections, requests, strict=True))
        self._interval = interval

    @classmethod
    async def start(cls, server: Server, jobs: Sequence[bytes], interval: float) -> "Running":
        """Connect a worker for each answer to a RequestJob."""
        connections = await open_all(server.host, server.port, len(jobs))
        return cls(connections, [heartbeat_request(job) for job in jobs], interval)

    @contextlib.asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        """Let them beat for as long as the context lasts."""
        async with asyncio.TaskGroup() as group:
            beat = group.create_task(self._beat(group))
            yield
            beat.cancel()

    async def _beat(self, group: asyncio.TaskGroup) -> None:
        began = time.perf_counter()
        sent = 0
        while True:
            due = int((time.perf_counter() - began) / self._interval * len(self._workers))
            while sent < due:
                connection, message = self._workers[sent % len(self._workers)]
                group.create_task(self._one(connection, message))
                sent += 1
            await asyncio.sleep(TICK)

    async def _one(self, connection: Connection, message: bytes) -> None:
        await connection.ask(message, 200)
        self.took.append(connection.answered_at - connection.asked_at)

    def leave(self) -> None:
        """Close the connections."""
        for connection, _ in self._workers:
            connection.close()


@contextlib.contextmanager
def probed(server: Server) -> Iterator[list[float]]:
    """Ask a server again and again whether it lives; the seconds that each answer took.

    From a thread, so that what holds up the load's loop is not taken for the server's doing.
    """
    took: list[float] = []
    stop = threading.Event()

    def probe() -> None:
        connection = http.client.HTTPConnection(server.host, server.port)
        while not stop.wait(0.01):
            began = time.perf_counter()
            connection.request("GET", "/healthz")
            connection.getresponse().read()
            took.append(time.perf_counter() - began)
        connection.close()

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield took
    finally:
        stop.set()
        thread.join()

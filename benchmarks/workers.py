"""Many workers that wait for jobs, or run jobs and send heartbeats; and a probe of the server's answers."""

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
"""Seconds between two checks whether all workers wait."""
STEADY = 10
"""Number of successive checks that have to find that all workers wait."""
TICK = 0.01
"""Seconds between two groups of heartbeats."""


class Waiters:
    """Workers that wait for a job, finish it, and wait again, each on a connection of its own."""

    def __init__(self, server: Server, job_type: str, count: int) -> None:
        self.arrived: asyncio.Queue[float] = asyncio.Queue()
        """The times when a worker has read a job."""
        self.may_finish = asyncio.Event()
        self.may_finish.set()
        self._server = server
        self._requests = [_request_of_worker(job_type) for _ in range(count)]
        self._connections: list[Connection] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._requested = 0

    async def come(self) -> float:
        """Connect all workers at once, and return the time from which on the server reports that all wait."""
        self._requested = 0
        self._tasks = [asyncio.create_task(self._work(each)) for each in self._requests]
        return await self.again(STEADY)

    async def again(self, steady: int = 1) -> float:
        """Wait until this many successive checks find all workers waiting, and return the time of the first of them."""
        control = await Connection.open(self._server.host, self._server.port)
        seen: list[float] = []
        while len(seen) < steady:
            await asyncio.sleep(POLL)
            self._raise_failures()
            checked_at = time.perf_counter()
            waiting = await value_of(control, "composerd_waits")
            # Until all new workers have sent their requests, the server may still count waits of closed connections.
            if self._requested == waiting == len(self._requests):
                seen.append(checked_at)
            else:
                seen.clear()
        control.close()
        return seen[0]

    async def leave(self) -> None:
        """Close all connections at once, while the workers wait."""
        for task in self._tasks:
            task.cancel()
        for connection in self._connections:
            connection.close()
        self._connections.clear()
        await asyncio.wait(self._tasks)

    async def _work(self, message: bytes) -> None:
        connection = await Connection.open(self._server.host, self._server.port)
        self._connections.append(connection)
        self._requested += 1
        while True:
            job = await connection.send(message, 201)
            self.arrived.put_nowait(connection.answered_at)
            await self.may_finish.wait()
            await connection.send(finish_request(job), 200)

    def _raise_failures(self) -> None:
        for task in self._tasks:
            if task.done():
                task.result()


def _request_of_worker(job_type: str, query: str = "") -> bytes:
    wanted = {"types": [job_type], "arch": ARCH, "worker_id": str(uuid4())}
    return request("POST", f"{WORKER}/jobs{query}", msgspec.json.encode(wanted))


class Running:
    """Workers that run a job each, and send heartbeats that are spread evenly, each on a connection of its own."""

    def __init__(self, connections: Sequence[Connection], requests: Sequence[bytes], interval: float) -> None:
        self.took: list[float] = []
        """Seconds until the answer to each heartbeat."""
        self._workers = list(zip(connections, requests, strict=True))
        self._interval = interval

    @classmethod
    async def start(cls, server: Server, jobs: Sequence[bytes], interval: float) -> "Running":
        """Connect a worker for each answer to a request for a job."""
        connections = await open_all(server.host, server.port, len(jobs))
        return cls(connections, [heartbeat_request(job) for job in jobs], interval)

    @contextlib.asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        """Send heartbeats during the block."""
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
        await connection.send(message, 200)
        self.took.append(connection.answered_at - connection.sent_at)

    def leave(self) -> None:
        """Close the connections."""
        for connection, _ in self._workers:
            connection.close()


class Asking:
    """Workers that ask for a job again and again, each on a connection of its own, while there is none."""

    def __init__(self, server: Server, job_type: str, count: int, wait: float) -> None:
        self.answered = 0
        """The number of answers so far."""
        self._server = server
        self._wait = wait
        self._requests = [_request_of_worker(job_type, f"?wait={wait:g}s") for _ in range(count)]

    @contextlib.asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        """Let them ask during the block, which begins when each has had an answer. They begin evenly spread."""
        connections = await open_all(self._server.host, self._server.port, len(self._requests))
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._ask(connection, message, self._wait * number / len(connections)))
                for number, (connection, message) in enumerate(zip(connections, self._requests, strict=True))
            ]
            await asyncio.sleep(2 * self._wait)
            yield
            for task in tasks:
                task.cancel()
        for connection in connections:
            connection.close()

    async def _ask(self, connection: Connection, message: bytes, delay: float) -> None:
        await asyncio.sleep(delay)
        while True:
            await connection.send(message, 204)
            self.answered += 1


@contextlib.contextmanager
def probed(server: Server) -> Iterator[list[float]]:
    """Request `/healthz` every 10 ms during the block, and yield a list of the seconds that each answer took.

    The requests are sent from a thread, so that delays of the load's event loop do not count as the server's.
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

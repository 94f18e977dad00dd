"""The loads: submitting, requesting and finishing, and waiting for a job; each says what it took."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

import msgspec

from benchmarks.client import Connection, open_all, request
from benchmarks.servers import Server

COMPOSER = "/api/composer/v1"
WORKER = "/api/worker/v1"
ARCH = "x86_64"

ARGS = {"manifest": {"version": "2", "pipelines": [{"name": f"pipeline-{n}", "stages": ["x" * 60]} for n in range(10)]}}
"""About 1 KiB of JSON."""
RESULT = {"success": True, "exit_status": 0, "output": "y" * 150}
"""About 200 bytes of JSON."""


class Sample(msgspec.Struct, frozen=True):
    """What one stretch of load took."""

    operations: int
    seconds: float
    server_cpu: float
    load_cpu: float


class _Job(msgspec.Struct):
    location: str


def submission(job_type: str) -> dict[str, object]:
    """Return the job that is submitted, over and over."""
    return {"type": job_type, "arch": ARCH, "args": ARGS}


def submit_request(job_type: str) -> bytes:
    """Return a submitJob."""
    return request("POST", f"{COMPOSER}/jobs", json.dumps(submission(job_type)).encode())


def take_request(job_type: str) -> bytes:
    """Return a RequestJob."""
    return request("POST", f"{WORKER}/jobs", json.dumps({"types": [job_type], "arch": ARCH}).encode())


def finish_request(answer: bytes) -> bytes:
    """Return the UpdateJob that finishes the job of a RequestJob's answer."""
    return request("PATCH", msgspec.json.decode(answer, type=_Job).location, _FINISH_BODY)


_FINISH_BODY = json.dumps({"result": RESULT}).encode()


async def fill(server: Server, job_type: str, count: int) -> None:
    """Submit that many jobs, a thousand in a batch."""
    connection = await Connection.open(server.host, server.port)
    for start in range(0, count, 1000):
        jobs = [submission(job_type)] * min(1000, count - start)
        await connection.ask(request("POST", f"{COMPOSER}/jobs/batch", json.dumps({"jobs": jobs}).encode()), 201)
    connection.close()


class Load:
    """A fixed number of connections to one server, all busy at once."""

    def __init__(self, server: Server, connections: Sequence[Connection], job_type: str) -> None:
        self.server = server
        self._connections = connections
        self._submit = submit_request(job_type)
        self._take = take_request(job_type)

    async def submit(self, count: int) -> Sample:
        """Submit that many jobs, one a request."""

        async def one(connection: Connection) -> None:
            await connection.ask(self._submit, 201)

        return await self._spread(count, one)

    async def work(self, count: int) -> Sample:
        """Request and finish that many jobs: two requests a job."""

        async def one(connection: Connection) -> None:
            await connection.ask(finish_request(await connection.ask(self._take, 201)), 200)

        return await self._spread(count, one)

    async def _spread(self, count: int, operation: Callable[[Connection], Awaitable[None]]) -> Sample:
        async def keep_busy(connection: Connection, todo: Iterator[int]) -> None:
            for _ in todo:
                await operation(connection)

        todo = iter(range(count))
        server_cpu, load_cpu, began = self.server.cpu_seconds(), time.process_time(), time.perf_counter()
        await asyncio.gather(*(keep_busy(connection, todo) for connection in self._connections))
        return Sample(
            count,
            time.perf_counter() - began,
            self.server.cpu_seconds() - server_cpu,
            time.process_time() - load_cpu,
        )


async def handover(server: Server, job_type: str, waiters: int, samples: int) -> Sequence[float]:
    """Return how long a job took from its submit to the worker that has it, with that many workers waiting.

    The waiters ask once and keep asking; one job at a time is submitted, and the next only after the last is finished.
    """
    submitter = await Connection.open(server.host, server.port)
    connections = await open_all(server.host, server.port, waiters)
    arrived: asyncio.Queue[float] = asyncio.Queue()

    async def worker(connection: Connection) -> None:
        while True:
            job = await connection.ask(take_request(job_type), 201)
            taken = connection.answered_at
            await connection.ask(finish_request(job), 200)
            arrived.put_nowait(taken)

    latencies = []
    async with asyncio.TaskGroup() as group:
        workers = [group.create_task(worker(connection)) for connection in connections]
        await asyncio.sleep(1)  # until every waiter waits: nothing in the protocol tells
        submit = submit_request(job_type)
        for _ in range(samples):
            await submitter.ask(submit, 201)
            latencies.append(await arrived.get() - submitter.asked_at)
            await asyncio.sleep(0.005)  # the one that finished asks again, outside of the next measurement
        for task in workers:
            task.cancel()
    for connection in [submitter, *connections]:
        connection.close()
    await asyncio.sleep(0.2)  # until the server has noticed that they left
    return latencies

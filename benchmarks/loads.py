"""The loads: submitting, requesting and finishing, and waiting for a job; each says what it took."""

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

import msgspec

from benchmarks.client import Connection, open_all, request
from benchmarks.limit import Answers, Fields
from benchmarks.servers import Server

COMPOSER = "/api/composer/v1"
WORKER = "/api/worker/v1"
ARCH = "x86_64"

ARGS = {"manifest": {"version": "2", "pipelines": [{"name": f"pipeline-{n}", "stages": ["x" * 60]} for n in range(10)]}}
"""About 1 KiB of JSON."""
_SMALL_ARGS = json.dumps(ARGS).encode()
RESULT = {"success": True, "exit_status": 0, "output": "y" * 150}
"""About 200 bytes of JSON."""


class Sample(msgspec.Struct, frozen=True):
    """What one stretch of load took."""

    operations: int
    seconds: float
    server_cpu: float
    load_cpu: float


def rate(samples: Sequence[Sample]) -> float:
    """Operations a second, over all of them."""
    return sum(sample.operations for sample in samples) / sum(sample.seconds for sample in samples)


class _Job(msgspec.Struct):
    location: str


class _Id(msgspec.Struct):
    id: str


class _Ids(msgspec.Struct):
    items: list[_Id]


def submission(job_type: str) -> dict[str, object]:
    """Return the job that is submitted, over and over."""
    return {"type": job_type, "arch": ARCH, "args": ARGS}


def submit_request(job_type: str, args: bytes = _SMALL_ARGS) -> bytes:
    """Return a submitJob."""
    return request("POST", f"{COMPOSER}/jobs", msgspec.json.encode({**submission(job_type), "args": msgspec.Raw(args)}))


def take_request(job_type: str) -> bytes:
    """Return a RequestJob."""
    return request("POST", f"{WORKER}/jobs", json.dumps({"types": [job_type], "arch": ARCH}).encode())


def finish_request(answer: bytes) -> bytes:
    """Return the UpdateJob that finishes the job of a RequestJob's answer."""
    return request("PATCH", msgspec.json.decode(answer, type=_Job).location, _FINISH_BODY)


def heartbeat_request(answer: bytes) -> bytes:
    """Return the GetJob by which a worker says that it is still there."""
    return request("GET", msgspec.json.decode(answer, type=_Job).location, b"")


_FINISH_BODY = json.dumps({"result": RESULT}).encode()


async def take_answers(server: Server, job_type: str, args: bytes = _SMALL_ARGS) -> Answers:
    """Let one job pass through composerd and return what it answered, for the limit to answer the same."""
    connection = await Connection.open(server.host, server.port)
    submitted = await connection.ask(submit_request(job_type, args), 201)
    job = await connection.ask(take_request(job_type), 201)
    alive = await connection.ask(heartbeat_request(job), 200)
    updated = await connection.ask(finish_request(job), 200)
    connection.close()
    decode = msgspec.json.Decoder(Fields).decode
    return Answers(submitted=decode(submitted), job=decode(job), updated=decode(updated), alive=decode(alive))


async def submit_batch(connection: Connection, jobs: Sequence[Mapping[str, object]]) -> Sequence[str]:
    """Submit up to a thousand jobs at once; their ids."""
    body = json.dumps({"jobs": jobs}).encode()
    answer = await connection.ask(request("POST", f"{COMPOSER}/jobs/batch", body), 201)
    return [job.id for job in msgspec.json.decode(answer, type=_Ids).items]


async def fill(server: Server, job_type: str, count: int) -> None:
    """Submit that many jobs, a thousand in a batch."""
    connection = await Connection.open(server.host, server.port)
    for start in range(0, count, 1000):
        await submit_batch(connection, [submission(job_type)] * min(1000, count - start))
    connection.close()


async def value_of(connection: Connection, metric: str) -> int:
    """Return the value of one of the server's metrics."""
    text = await connection.ask(request("GET", "/metrics", b""), 200)
    found = re.search(rb"^" + re.escape(metric.encode()) + rb" (\S+)$", text, re.MULTILINE)
    return int(float(found[1])) if found else 0


async def somebody_waits(connection: Connection) -> None:
    """Return once a request for a job waits on the server."""
    while True:
        if await value_of(connection, "composerd_waits") > 0:
            return
        await asyncio.sleep(0.01)


class Load:
    """A fixed number of connections to one server, all busy at once."""

    def __init__(
        self, server: Server, connections: Sequence[Connection], job_type: str, args: bytes = _SMALL_ARGS
    ) -> None:
        self.server = server
        self._connections = connections
        self._submit = submit_request(job_type, args)
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

    async def take(self, count: int) -> Sequence[bytes]:
        """Request that many jobs and finish none; the answers."""
        taken: list[bytes] = []

        async def one(connection: Connection) -> None:
            taken.append(await connection.ask(self._take, 201))

        await self._spread(count, one)
        return taken

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


async def handover(
    server: Server, job_type: str, waiters: int, samples: int, submit_to: Server | None = None
) -> Sequence[float]:
    """Return how long a job took from its submit to the worker that has it, with that many workers waiting.

    The waiters ask once and keep asking; one job at a time is submitted, and the next only after the last is finished.
    It is submitted to the same server, or to another one on the same storage.
    """
    submit_to = submit_to or server
    submitter = await Connection.open(submit_to.host, submit_to.port)
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

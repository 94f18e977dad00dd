"""Loads for a server: submitting jobs, requesting and finishing them, and waiting for them."""

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
"""Args of about 1 KiB of JSON."""
_SMALL_ARGS = json.dumps(ARGS).encode()
RESULT = {"success": True, "exit_status": 0, "output": "y" * 150}
"""A result of about 200 bytes of JSON."""


class Sample(msgspec.Struct, frozen=True):
    """The time and the CPU time of one period of load."""

    operations: int
    seconds: float
    server_cpu: float
    """CPU seconds of the server."""
    load_cpu: float
    """CPU seconds of the load program."""


def rate(samples: Sequence[Sample]) -> float:
    """Return the operations a second over all samples."""
    return sum(sample.operations for sample in samples) / sum(sample.seconds for sample in samples)


class _Job(msgspec.Struct):
    location: str


class _Id(msgspec.Struct):
    id: str


class _Ids(msgspec.Struct):
    items: list[_Id]


def submission(job_type: str) -> dict[str, object]:
    """Return the fields of the job that is submitted again and again."""
    return {"type": job_type, "arch": ARCH, "args": ARGS}


def submit_request(job_type: str, args: bytes = _SMALL_ARGS) -> bytes:
    """Return the request that submits a job."""
    return request("POST", f"{COMPOSER}/jobs", msgspec.json.encode({**submission(job_type), "args": msgspec.Raw(args)}))


def claim_request(job_type: str) -> bytes:
    """Return the request of a worker for a job."""
    return request("POST", f"{WORKER}/jobs", json.dumps({"types": [job_type], "arch": ARCH}).encode())


def finish_request(answer: bytes) -> bytes:
    """Return the request that finishes an attempt, given by the answer to the request for the job."""
    return request("PATCH", msgspec.json.decode(answer, type=_Job).location, _FINISH_BODY)


def heartbeat_request(answer: bytes) -> bytes:
    """Return a heartbeat of an attempt, given by the answer to the request for the job."""
    return request("GET", msgspec.json.decode(answer, type=_Job).location, b"")


_FINISH_BODY = json.dumps({"result": RESULT}).encode()


async def record_answers(server: Server, job_type: str, args: bytes = _SMALL_ARGS) -> Answers:
    """Submit, request and finish one job, and return composerd's answers, which the limit then uses."""
    connection = await Connection.open(server.host, server.port, token=server.token)
    submitted = await connection.send(submit_request(job_type, args), 201)
    job = await connection.send(claim_request(job_type), 201)
    alive = await connection.send(heartbeat_request(job), 200)
    updated = await connection.send(finish_request(job), 200)
    connection.close()
    decode = msgspec.json.Decoder(Fields).decode
    return Answers(submitted=decode(submitted), job=decode(job), updated=decode(updated), alive=decode(alive))


async def submit_batch(connection: Connection, jobs: Sequence[Mapping[str, object]]) -> Sequence[str]:
    """Submit up to a thousand jobs in one request, and return their ids."""
    body = json.dumps({"jobs": jobs}).encode()
    answer = await connection.send(request("POST", f"{COMPOSER}/jobs/batch", body), 201)
    return [job.id for job in msgspec.json.decode(answer, type=_Ids).items]


async def fill(server: Server, job_type: str, count: int) -> None:
    """Submit this many jobs, a thousand in each request."""
    connection = await Connection.open(server.host, server.port, token=server.token)
    for start in range(0, count, 1000):
        await submit_batch(connection, [submission(job_type)] * min(1000, count - start))
    connection.close()


async def value_of(connection: Connection, metric: str) -> int:
    """Return the value of one of the server's metrics, or 0 if it does not exist."""
    text = await connection.send(request("GET", "/metrics", b""), 200)
    found = re.search(rb"^" + re.escape(metric.encode()) + rb" (\S+)$", text, re.MULTILINE)
    return int(float(found[1])) if found else 0


async def until_waiting(connection: Connection) -> None:
    """Return once at least one request for a job waits on the server."""
    while True:
        if await value_of(connection, "composerd_waits") > 0:
            return
        await asyncio.sleep(0.01)


class Load:
    """A fixed number of connections to one server, which are all busy at the same time."""

    def __init__(
        self, server: Server, connections: Sequence[Connection], job_type: str, args: bytes = _SMALL_ARGS
    ) -> None:
        self.server = server
        self._connections = connections
        self._submit = submit_request(job_type, args)
        self._claim = claim_request(job_type)

    async def submit(self, count: int) -> Sample:
        """Submit this many jobs, one in each request."""

        async def one(connection: Connection) -> None:
            await connection.send(self._submit, 201)

        return await self._spread(count, one)

    async def work(self, count: int) -> Sample:
        """Request and finish this many jobs, with two HTTP requests for each."""

        async def one(connection: Connection) -> None:
            await connection.send(finish_request(await connection.send(self._claim, 201)), 200)

        return await self._spread(count, one)

    async def claim(self, count: int) -> Sequence[bytes]:
        """Request this many jobs without finishing them, and return the answers."""
        answers: list[bytes] = []

        async def one(connection: Connection) -> None:
            answers.append(await connection.send(self._claim, 201))

        await self._spread(count, one)
        return answers

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
    """Return the seconds from the submission of a job until a worker has read it, with this many workers waiting.

    Each worker requests a job again after it has finished one. The next job is submitted only after the last one is
    finished. Jobs are submitted to the same server, or to `submit_to`, which has to be on the same storage.
    """
    submit_to = submit_to or server
    submitter = await Connection.open(submit_to.host, submit_to.port, token=submit_to.token)
    connections = await open_all(server.host, server.port, waiters, server.token)
    arrived: asyncio.Queue[float] = asyncio.Queue()

    async def worker(connection: Connection) -> None:
        while True:
            job = await connection.send(claim_request(job_type), 201)
            taken = connection.answered_at
            await connection.send(finish_request(job), 200)
            arrived.put_nowait(taken)

    latencies = []
    async with asyncio.TaskGroup() as group:
        workers = [group.create_task(worker(connection)) for connection in connections]
        await asyncio.sleep(1)  # until every worker waits
        submit = submit_request(job_type)
        for _ in range(samples):
            await submitter.send(submit, 201)
            latencies.append(await arrived.get() - submitter.sent_at)
            await asyncio.sleep(0.005)  # the worker waits again before the next measurement
        for task in workers:
            task.cancel()
    for connection in [submitter, *connections]:
        connection.close()
    await asyncio.sleep(0.2)  # until the server has noticed the closed connections
    return latencies

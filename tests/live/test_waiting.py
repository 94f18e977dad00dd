"""Requests that wait for a job: which of them get one, and what becomes of a job whose connection is lost."""

import asyncio
import json
import random
import signal
import socket
import struct
import time
from collections import Counter
from typing import Any

import pytest

from .conftest import HALF_SENT, WORKER, Serve, until_waiting


def raw_request(body: dict[str, Any], path: str = f"{WORKER}/jobs") -> bytes:
    """Return the bytes of a request."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


ASK = {"types": ["build"], "arch": "x86_64"}


async def test_a_waiter_gets_a_job_at_once(serve: Serve) -> None:
    """A waiting request is answered as soon as there is a job, and not only at the next re-check."""
    server = await serve()
    asking = asyncio.create_task(server.ask())
    await until_waiting(server, 1)
    submitted = await server.submit()
    began = time.monotonic()
    job = await asking
    assert job is not None
    assert job["id"] == submitted["id"]
    assert time.monotonic() - began < 4  # the next re-check is up to 5 s away


async def test_a_closed_connection_gets_no_job(serve: Serve) -> None:
    """If the older of two waiting requests closes its connection, the younger one gets the job at the first attempt."""
    server = await serve("--heartbeat-timeout", "60s")
    _, writer = await asyncio.open_connection(*server.address)
    writer.write(raw_request(ASK))
    await writer.drain()
    await until_waiting(server, 1)
    asking = asyncio.create_task(server.ask())
    await until_waiting(server, 2)
    writer.close()
    await writer.wait_closed()
    submitted = await server.submit()
    async with asyncio.timeout(20):
        job = await asking
    assert job is not None
    assert job["id"] == submitted["id"]
    assert (await server.job(job["id"]))["retries"] == 0


async def test_reset_connections_get_no_job(serve: Serve) -> None:
    """After many waiting connections were reset, every job that is submitted goes to a request that is still there."""
    server = await serve("--heartbeat-timeout", "60s")
    sockets = [socket.create_connection(server.address) for _ in range(50)]
    for one in sockets:
        one.sendall(raw_request(ASK))
    await until_waiting(server, 50)
    for one in sockets:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.close()
    jobs = [await server.submit() for _ in range(20)]
    async with asyncio.timeout(20):
        got = [await server.ask() for _ in jobs]
    assert Counter(job["id"] for job in got if job) == Counter(job["id"] for job in jobs)


async def test_an_undelivered_job_is_requeued(serve: Serve) -> None:
    """If a client disconnects while it reads the answer, its job is requeued at once without counting a retry."""
    server = await serve("--heartbeat-timeout", "60s")
    args = {"manifest": "x" * 20_000_000}
    submitted = await server.submit(args=args)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(server.address)
    client.sendall(raw_request(ASK))

    async def running() -> bool:
        return bool((await server.job(submitted["id"]))["state"] == "running")

    await server.until(running)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    async with asyncio.timeout(20):
        job = await server.ask()
    assert job is not None
    assert job["args"] == args
    assert (await server.job(job["id"]))["retries"] == 0
    assert b"Traceback" not in server.log


async def test_workers_that_come_and_go(serve: Serve) -> None:
    """While 200 workers come and go at random, every job finishes, and no two workers have one at the same time."""
    server = await serve("--handover-timeout", "1s", "--sweep-interval", "100ms")
    chance = random.Random(7)
    jobs: set[str] = set()
    finished: set[str] = set()
    holders: Counter[str] = Counter()
    done = asyncio.Event()

    async def work() -> None:
        while not done.is_set():
            patience = chance.choice([0.001, 0.01, 0.05, 0.5])
            asking = asyncio.create_task(server.ask(wait="2s", confirm=True))
            answered, _ = await asyncio.wait([asking], timeout=patience)
            if not answered and chance.random() < 0.7:
                asking.cancel()  # disconnects while it waits
                await asyncio.wait([asking])
                continue
            job = await asking
            if job is None:
                continue
            status, _ = await server.request("GET", job["location"])
            if status != 200:
                continue  # confirmed too late: another worker has the job
            holders[job["id"]] += 1
            assert holders[job["id"]] == 1, "two workers have the job at the same time"
            await asyncio.sleep(chance.random() * 0.02)
            holders[job["id"]] -= 1
            status, _ = await server.finish(job, {"by": job["location"]})
            assert status == 200
            finished.add(job["id"])
            if len(finished) == 600:
                done.set()

    async def submit() -> None:
        for _ in range(600):
            jobs.add((await server.submit())["id"])
            await asyncio.sleep(0)

    async with asyncio.timeout(110), asyncio.TaskGroup() as tasks:
        for _ in range(200):
            tasks.create_task(work())
        tasks.create_task(submit())
    assert finished == jobs
    for job_id in jobs:
        assert (await server.job(job_id))["state"] == "finished"


async def test_the_wait_ends_with_204(serve: Serve) -> None:
    """A wait without a job ends with 204, at the limit of the server or of the request, whichever is earlier."""
    server = await serve("--max-wait", "2s")
    began = time.monotonic()
    assert await server.ask(wait="10m") is None
    assert 2 <= time.monotonic() - began < 30
    began = time.monotonic()
    assert await server.ask(wait="0s") is None
    assert time.monotonic() - began < 2


async def test_a_request_that_does_not_wait(serve: Serve) -> None:
    """A request that does not wait gets a job that is ready."""
    server = await serve()
    submitted = await server.submit()
    job = await server.ask(wait="0s")
    assert job is not None
    assert job["id"] == submitted["id"]


@pytest.mark.row("Commands", "composerd serve")
async def test_sigterm_answers_every_wait_and_exits(serve: Serve) -> None:
    """On SIGTERM the server answers 2,000 waiting requests with 204 and `Connection: close`, and exits."""
    server = await serve()
    connections = [await asyncio.open_connection(*server.address) for _ in range(2000)]
    for _, writer in connections:
        writer.write(raw_request(ASK))
    running = await server.submit("other")
    await until_waiting(server, 2000)
    began = time.monotonic()
    server.kill(signal.SIGTERM)
    answers = [await reader.read() for reader, _ in connections]
    assert await server.exited() == 0
    assert time.monotonic() - began < 10  # twice the drain timeout
    for answer in answers:
        assert answer.startswith(b"HTTP/1.1 204 "), answer[:100]
        assert b"connection: close" in answer.lower()
    for _, writer in connections:
        writer.close()
    await server.start()
    assert (await server.job(running["id"]))["state"] == "ready"


async def test_an_unfinished_body_delays_the_exit(serve: Serve) -> None:
    """A request whose body does not end delays the exit after SIGTERM by no more than the drain timeout."""
    server = await serve("--drain-timeout", "1s")
    reader, writer = await asyncio.open_connection(*server.address)
    writer.write(HALF_SENT)
    assert (await reader.readline()).split()[1] == b"100"  # the server has begun to read the body
    began = time.monotonic()
    server.kill(signal.SIGTERM)
    assert await server.exited() == 0
    assert time.monotonic() - began < 4.5  # the default is 5 s
    writer.close()

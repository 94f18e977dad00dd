"""Waiting for a job on a real server: who gets it, who does not, and what a connection that goes away leaves behind."""

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
    """A request as it goes over the wire."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


ASK = {"types": ["build"], "arch": "x86_64"}


async def test_a_waiter_gets_a_job_at_once(serve: Serve) -> None:
    """A question that waits is answered as soon as there is a job, not at some interval."""
    server = await serve()
    asking = asyncio.create_task(server.ask())
    await until_waiting(server, 1)
    submitted = await server.submit()
    began = time.monotonic()
    job = await asking
    assert job is not None
    assert job["id"] == submitted["id"]
    assert time.monotonic() - began < 4  # and not at the next re-check


async def test_who_goes_away_never_gets_a_job(serve: Serve) -> None:
    """Of two who wait, the older closes its connection: the younger has the job at once, and it was begun once."""
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


async def test_who_resets_never_gets_a_job(serve: Serve) -> None:
    """The same for a connection that is reset, many at once, and none of their jobs is held by nobody."""
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


async def test_a_connection_that_dies_before_the_answer_is_delivered_gives_the_job_back(serve: Serve) -> None:
    """A client goes with the answer half read: the next one has the job at once, uncounted."""
    server = await serve("--heartbeat-timeout", "60s")
    args = {"manifest": "x" * 20_000_000}
    submitted = await server.submit(args=args)
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.connect(server.address)
    deaf.sendall(raw_request(ASK))

    async def begun() -> bool:
        return bool((await server.job(submitted["id"]))["state"] == "running")

    await server.until(begun)
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    deaf.close()
    async with asyncio.timeout(20):
        job = await server.ask()
    assert job is not None
    assert job["args"] == args
    assert (await server.job(job["id"]))["retries"] == 0
    assert b"Traceback" not in server.log


async def test_waiters_that_come_and_go_lose_nothing(serve: Serve) -> None:
    """200 waiters at random, under load: every job finishes, none is handed out twice at a time."""
    server = await serve("--handover-timeout", "1s", "--sweep-interval", "100ms")
    chance = random.Random(7)
    jobs: set[str] = set()
    finished: set[str] = set()
    holders: Counter[str] = Counter()
    done = asyncio.Event()

    async def waiter() -> None:
        while not done.is_set():
            patience = chance.choice([0.001, 0.01, 0.05, 0.5])
            asking = asyncio.create_task(server.ask(wait="2s", confirm=True))
            settled, _ = await asyncio.wait([asking], timeout=patience)
            if not settled and chance.random() < 0.7:
                asking.cancel()  # goes away in the middle of it
                await asyncio.wait([asking])
                continue
            job = await asking
            if job is None:
                continue
            status, _ = await server.request("GET", job["location"])
            if status != 200:
                continue  # it came too late to confirm: the job is somebody else's
            holders[job["id"]] += 1
            assert holders[job["id"]] == 1, "handed out twice at a time"
            await asyncio.sleep(chance.random() * 0.02)
            holders[job["id"]] -= 1
            status, _ = await server.finish(job, {"by": job["location"]})
            assert status == 200
            finished.add(job["id"])
            if len(finished) == 600:
                done.set()

    async def submitter() -> None:
        for _ in range(600):
            jobs.add((await server.submit())["id"])
            await asyncio.sleep(0)

    async with asyncio.timeout(110), asyncio.TaskGroup() as tasks:
        for _ in range(200):
            tasks.create_task(waiter())
        tasks.create_task(submitter())
    assert finished == jobs
    for job_id in jobs:
        assert (await server.job(job_id))["state"] == "finished"


async def test_the_wait_ends_with_204(serve: Serve) -> None:
    """A wait without a job ends at its deadline, the shorter of the server's and the request's, never in an error."""
    server = await serve("--request-job-timeout", "2s")
    began = time.monotonic()
    assert await server.ask(wait="10m") is None
    assert 2 <= time.monotonic() - began < 30
    began = time.monotonic()
    assert await server.ask(wait="0s") is None
    assert time.monotonic() - began < 2


async def test_no_wait_still_gets_what_is_there(serve: Serve) -> None:
    """However short the wait, a ready job is handed out."""
    server = await serve()
    submitted = await server.submit()
    job = await server.ask(wait="0s")
    assert job is not None
    assert job["id"] == submitted["id"]


@pytest.mark.row("Commands", "composerd serve")
async def test_sigterm_answers_every_wait_and_exits(serve: Serve) -> None:
    """2,000 open waits are all answered 204 with `Connection: close`, and it is gone before the drain timeout is over twice."""
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
    assert time.monotonic() - began < 9
    for answer in answers:
        assert answer.startswith(b"HTTP/1.1 204 "), answer[:100]
        assert b"connection: close" in answer.lower()
    for _, writer in connections:
        writer.close()
    await server.start()
    assert (await server.job(running["id"]))["state"] == "ready"


async def test_a_half_sent_body_does_not_hold_the_exit(serve: Serve) -> None:
    """A client that stops in the middle of its body delays SIGTERM by the drain timeout at most."""
    server = await serve("--drain-timeout", "1s")
    reader, writer = await asyncio.open_connection(*server.address)
    writer.write(HALF_SENT)
    assert (await reader.readline()).split()[1] == b"100"  # the server has begun to read the body
    began = time.monotonic()
    server.kill(signal.SIGTERM)
    assert await server.exited() == 0
    assert time.monotonic() - began < 20
    writer.close()

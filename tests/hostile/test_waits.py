"""Waits: one client may have all of them until another comes, and clients that wait for one type take turns."""

import asyncio
import json
from collections.abc import Callable, Sequence

import pytest

from ..live.conftest import until_waiting
from .conftest import COMPOSER, WORKER, Attacker, Client, Connection, Serve, Server, head, status_of

Attackers = Callable[..., Attacker]
Clients = Callable[..., Client]

WAITS = 20


async def wait_for_jobs(attacker: Attacker, count: int, type: str) -> Sequence[Connection]:
    """Begin waits for a job of a type, each on a connection of its own."""
    body = json.dumps({"types": [type], "arch": "x86_64"}).encode()
    request = head("POST", f"{WORKER}/jobs", f"Content-Length: {len(body)}") + body
    return [await attacker.connect(request) for _ in range(count)]


async def wait_for_the_end(attacker: Attacker, count: int, job_id: str) -> Sequence[Connection]:
    """Begin waits for the end of a job, each on a connection of its own."""
    return [await attacker.connect(head("GET", f"{COMPOSER}/jobs/{job_id}?wait=10m")) for _ in range(count)]


@pytest.mark.parametrize("kind", ["the end of a job", "jobs"])
async def test_all_waits_in_one_hand(serve: Serve, attacker: Attackers, client: Clients, kind: str) -> None:
    """A client that holds every wait locks nobody out: its oldest wait is answered early, and it gets no more."""
    server: Server = await serve("--max-waits", str(WAITS))
    loud, quiet = attacker(server), client(server)
    if kind == "jobs":
        held, early = await wait_for_jobs(loud, WAITS, "nothing"), 204
    else:
        held, early = await wait_for_the_end(loud, WAITS, (await server.submit("other"))["id"]), 200
    await until_waiting(server, WAITS)
    waiting = asyncio.create_task(quiet.request("POST", f"{WORKER}/jobs?wait=20s", {"types": ["build"], "arch": "x"}))
    assert await status_of(held[0]) == early
    (more,) = await wait_for_jobs(loud, 1, "nothing")
    assert await status_of(more) == 503
    status, job = await quiet.request("POST", f"{COMPOSER}/jobs", {"type": "build"})
    status, got = await waiting
    assert (status, got["id"]) == (201, job["id"])
    await quiet.work()


async def test_many_waits_for_one_type(serve: Serve, attacker: Attackers, client: Clients) -> None:
    """Of two clients that wait for jobs of one type, the one with fifty waits gets no more than the one with one."""
    server = await serve()
    loud, quiet = attacker(server), client(server)
    await wait_for_jobs(loud, 50, "build")
    await until_waiting(server, 50)
    waiting = asyncio.create_task(quiet.request("POST", f"{WORKER}/jobs?wait=20s", {"types": ["build"], "arch": "x"}))
    await until_waiting(server, 51)
    for _ in range(2):
        await server.submit("build")
    assert (await waiting)[0] == 201

"""Requests that are answered together, because what they wait for has come, or because they ask for the same."""

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ..live.conftest import until_waiting
from ..tokens import new
from .conftest import COMPOSER, WORKER, Attacker, Client, Connection, Serve, Server, head, status_of

Attackers = Callable[..., Attacker]
Clients = Callable[..., Client]

WAITS = 2000


async def answers_until(client: Client, over: Callable[[], bool]) -> int:
    """Ask for an error again and again until something is over, and return the number of answers until then."""
    count = 0
    while not over():
        assert (await client.request("GET", f"{COMPOSER}/errors/19"))[0] == 200
        count += 1
    return count


async def test_waits_that_end_together(serve: Serve, attacker: Attackers, client: Clients) -> None:
    """While very many waits for one job of one client end, another client is answered."""
    server: Server = await serve()
    loud, quiet = attacker(server), client(server)
    job = await server.submit("build")
    _, got = await quiet.request("POST", f"{WORKER}/jobs", {"types": ["build"], "arch": "x"})
    wait = head("GET", f"{COMPOSER}/jobs/{job['id']}?wait=10m")
    held = [await loud.connect(wait) for _ in range(WAITS)]
    await until_waiting(server, WAITS)
    answers = asyncio.gather(*(status_of(one) for one in held))
    assert (await quiet.request("PATCH", got["location"], {"result": "r" * 10_000}))[0] == 200
    assert await answers_until(quiet, answers.done) > 50
    assert set(await answers) == {200}


@pytest.mark.parametrize("refusal", [401, 403])
async def test_refusals_together(
    serve: Serve, attacker: Attackers, client: Clients, tmp_path: Path, refusal: int
) -> None:
    """While very many requests without credentials, or without the right, are refused, another client is answered."""
    token = new(tmp_path / "tokens", "viewer", "viewer")
    server: Server = await serve("--tokens", f"{tmp_path / 'tokens'}")
    loud, quiet = attacker(server), client(server)
    await quiet.request("GET", f"{COMPOSER}/errors/19")
    credentials = () if refusal == 401 else (f"Authorization: Bearer {token}",)
    path = f"{COMPOSER}/jobs" if refusal == 401 else "/metrics"
    held = [await loud.connect() for _ in range(1000)]
    for _, writer in held:
        writer.write(head("GET", path, *credentials) * 4)

    async def all_of(connection: Connection) -> set[bytes]:
        found = b""
        while found.count(b"HTTP/1.1 ") < 4:
            found += await connection[0].read(65536)
        return set(re.findall(rb"HTTP/1.1 (\d+) ", found))

    answers = asyncio.gather(*(all_of(one) for one in held))
    assert await answers_until(quiet, answers.done) > 50
    assert set().union(*await answers) == {b"%d" % refusal}


async def test_a_job_with_many_edges(serve: Serve, attacker: Attackers, client: Clients) -> None:
    """Canceling a job with very many dependencies and dependents again and again delays nobody else for long."""
    server: Server = await serve()
    loud, quiet = attacker(server), client(server)
    status, listed = await quiet.request("POST", f"{COMPOSER}/jobs/batch", {"jobs": [{"type": "a"}] * 1000})
    dependencies = [job["id"] for job in listed["items"]]
    status, job = await quiet.request("POST", f"{COMPOSER}/jobs", {"type": "b", "dependencies": dependencies})
    dependents = [{"type": "c", "dependencies": [job["id"]]}] * 1000
    assert (await quiet.request("POST", f"{COMPOSER}/jobs/batch", {"jobs": dependents}))[0] == 201
    path = f"{COMPOSER}/jobs/{job['id']}/cancel"
    status, canceled = await quiet.request("POST", path)
    assert (status, len(canceled["dependencies"]), len(canceled["dependents"])) == (200, 1000, 1000)
    held = [await loud.connect(head("POST", path, "Content-Length: 0")) for _ in range(1000)]
    answers = asyncio.gather(*(status_of(one) for one in held))
    assert await answers_until(quiet, answers.done) > 50
    assert set(await answers) <= {200, 503}
    status, again = await quiet.request("POST", path)
    assert (status, again) == (200, canceled)


async def test_large_bodies(serve: Serve, attacker: Attackers, client: Clients) -> None:
    """Clients take turns with large bodies: one that sends many at once does not delay another's until its last."""
    server: Server = await serve()
    loud, quiet = attacker(server), client(server)
    await quiet.work()  # so that the server knows of two clients
    body = b'{"type":"large","args":[' + b"[]," * (2 << 20) + b"1]}"
    held = await asyncio.gather(
        *(loud.connect(head("POST", f"{COMPOSER}/jobs", f"Content-Length: {len(body)}") + body) for _ in range(12))
    )
    answers = [asyncio.create_task(status_of(one)) for one in held]
    status, _ = await quiet.send("POST", f"{COMPOSER}/jobs", body)
    assert status == 201
    assert sum(not answer.done() for answer in answers) >= 4
    assert {await answer for answer in answers} == {201}


async def test_small_chunks(serve: Serve, attacker: Attackers, client: Clients) -> None:
    """Bodies in chunks of one byte are read, a little of each client at a time, so that others are answered."""
    server: Server = await serve()
    loud, quiet = attacker(server), client(server)
    await quiet.work()
    begin = head("POST", f"{COMPOSER}/jobs", "Transfer-Encoding: chunked")
    held = [await loud.connect(begin) for _ in range(16)]
    for _, writer in held:
        writer.write(b"1\r\n \r\n" * 200_000)
    until = time.monotonic() + 1.5
    assert await answers_until(quiet, lambda: time.monotonic() > until) > 50
    body = b'{"type":"a","args":"' + b"x" * 5000 + b'"}'
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    assert await status_of(await loud.connect(begin + chunks + b"0\r\n\r\n")) == 201

"""Clients that ask for large answers, or for many, and take nothing or little of them."""

import asyncio
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..throwaway import Throwaway
from .conftest import COMPOSER, WORKER, Attacker, Client, Serve, Server, head, status_of

Attack = Callable[[Server], Attacker]
Quiet = Callable[[Server], Client]

MEBIBYTE = 1024 * 1024
LARGE = 31 * MEBIBYTE


def memory(server: Server) -> int:
    """Return how many bytes of memory the server has now."""
    found = re.search(r"VmRSS:\s*(\d+) kB", Path(f"/proc/{server.pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


async def submitted(client: Client, type: str = "build", **fields: Any) -> Any:
    """Submit a job, and return it."""
    status, job = await client.request("POST", f"{COMPOSER}/jobs", {"type": type, **fields})
    assert status == 201, job
    return job


async def finished(client: Client, result: Any, type: str = "build") -> None:
    """Work on a job of a type."""
    status, got = await client.request("POST", f"{WORKER}/jobs?wait=20s", {"types": [type], "arch": "a"})
    assert status == 201
    assert (await client.request("PATCH", got["location"], {"result": result}))[0] == 200


async def test_readers_that_take_nothing(serve: Serve, attacker: Attack, client: Quiet) -> None:
    """Twenty readers that take nothing of 31 MiB of args, a result or progress cost no more than a part for each."""
    server = await serve()
    reader, quiet = attacker(server), client(server)
    job = await submitted(quiet, args="x" * LARGE)
    running = (await quiet.request("POST", f"{WORKER}/jobs?wait=20s", {"types": ["build"], "arch": "a"}))[1]
    assert (await quiet.request("PATCH", running["location"], {"result": "y" * LARGE}))[0] == 200
    before = memory(server)
    paths = [f"{job['href']}/args"] * 7 + [f"{job['href']}/result"] * 7 + [job["href"]] * 6
    statuses = [await status_of(await reader.connect(head("GET", path))) for path in paths]
    assert statuses == [200] * 20
    assert memory(server) - before < 120 * MEBIBYTE
    await quiet.work("other")
    status, result = await quiet.request("GET", f"{job['href']}/result")
    assert (status, result) == (200, "y" * LARGE)


async def test_a_reader_that_takes_little(serve: Serve, client: Quiet) -> None:
    """An answer ends when its reader is slower than the minimum rate, although it takes a little all the time."""
    server = await serve("--body-timeout", "400ms", "--min-rate", "16MiB")
    quiet = client(server)
    job = await submitted(quiet, args="x" * LARGE)
    with socket.create_connection(server.address) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        connection.settimeout(0)
        connection.sendall(head("GET", f"{job['href']}/args"))
        taken = 0
        async with asyncio.timeout(20):
            while part := await asyncio.get_running_loop().sock_recv(connection, 100_000):
                taken += len(part)
                await asyncio.sleep(0.02)
    assert taken < LARGE


async def test_small_answers_that_nobody_reads(serve: Serve, attacker: Attack, client: Quiet) -> None:
    """A client that goes on asking and reads no answer is cut off, and others do not notice."""
    server = await serve("--body-timeout", "400ms")
    asking, quiet = attacker(server), client(server)
    job = await submitted(quiet, args="x" * 10_000)
    connection = await asking.connect()
    asks = head("GET", f"{job['href']}/args") * 100
    try:
        async with asyncio.timeout(20):
            while True:
                connection[1].write(asks)
                await connection[1].drain()
    except ConnectionError:
        pass
    await quiet.work("other")


async def test_bodies_behind_answers_that_are_not_read_yet(serve: Serve, client: Quiet) -> None:
    """A body is read as ever if earlier answers on its connection are still on their way."""
    server = await serve()
    job = await submitted(client(server), args="x" * 10_000)
    body = b'{"arch": "a"}'
    register = head("POST", f"{WORKER}/workers", f"Content-Length: {len(body)}") + body
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        connection.connect(server.address)
        connection.sendall((head("GET", f"{job['href']}/args") + register) * 700)
        connection.settimeout(0)
        statuses: list[bytes] = []
        rest = b""
        async with asyncio.timeout(20):
            while len(statuses) < 1400:
                rest += await asyncio.get_running_loop().sock_recv(connection, 16_384)
                statuses += re.findall(rb"HTTP/1.1 (...)[^\n]*\n", rest)
                rest = rest[rest.rfind(b"\n") + 1 :]
                await asyncio.sleep(0.001)  # slower than the server answers
    assert statuses == [b"200", b"201"] * 700


async def test_a_job_that_is_deleted_while_it_is_read(serve: Serve, attacker: Attack, client: Quiet) -> None:
    """If a job is deleted in the middle of an answer the connection is closed, and the answer is not complete."""
    server = await serve()
    reader, quiet = attacker(server), client(server)
    job = await submitted(quiet)
    await finished(quiet, "y" * LARGE)
    connection = await reader.connect(head("GET", f"{job['href']}/result"))
    assert await status_of(connection) == 200
    assert (await quiet.request("DELETE", job["href"]))[0] == 204
    taken = 0
    async with asyncio.timeout(20):
        try:
            while part := await connection[0].read(MEBIBYTE):
                taken += len(part)
        except ConnectionError:
            pass
    assert taken < LARGE


@pytest.mark.parametrize("driver", ["fs", "postgresql"])
async def test_large_results_of_dependencies(
    serve: Serve, attacker: Attack, client: Quiet, driver: str, newest_postgres: Throwaway
) -> None:
    """A job is handed over with the results of its dependencies byte for byte, of whatever sizes, in their order."""
    server = await serve(storage=newest_postgres.fresh() if driver == "postgresql" else None)
    quiet, reader = client(server), attacker(server)
    results = ["a" * 3_000_000, 1, "b" * 20_000, "c" * MEBIBYTE, "d" * 600_000, "e" * 600_000]
    dependencies = []
    for result in results:
        dependencies.append((await submitted(quiet))["id"])
        await finished(quiet, result)
    last = await submitted(quiet, "last", dependencies=dependencies, args={"n": "x" * 5_000_000})
    status, got = await quiet.request("POST", f"{WORKER}/jobs?wait=20s", {"types": ["last"], "arch": "a"})
    assert status == 201
    assert got["args"] == {"n": "x" * 5_000_000}
    assert got["dynamic_args"] == results
    assert got["id"] == last["id"]
    assert (await quiet.request("PATCH", got["location"], {"partial": "p" * 2_000_000}))[0] == 200
    status, shown = await quiet.request("GET", last["href"])
    assert (status, shown["partial"], shown["result"]) == (200, "p" * 2_000_000, None)
    assert (await quiet.request("PATCH", got["location"], {"result": "r" * 20_000}))[0] == 200
    status, shown = await quiet.request("GET", last["href"])
    assert (status, shown["result"]) == (200, "r" * 20_000)
    assert await status_of(await reader.connect(head("HEAD", f"{last['href']}/args"))) == 200

"""A server whose file descriptors run out goes on with what needs none, and recovers by itself."""

import asyncio
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from ..live.conftest import LOOPBACK, clean_environment
from ..throwaway import Throwaway
from .conftest import COMPOSER, WORKER, Client, Serve, Server

LARGE = "x" * (6 * 1024 * 1024)
"""Args of which three fill a segment of the journal."""


@contextmanager
def limited(server: Server, limit: int) -> Iterator[None]:
    """Lower the limit of open files of a running server for the length of a block."""
    before = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, before)


def open_files(server: Server) -> set[int]:
    """Return the descriptors that a server has open."""
    return {int(entry.name) for entry in Path(f"/proc/{server.pid}/fd").iterdir()}


def first_free(server: Server) -> int:
    """Return the lowest descriptor that a server has not open: with this limit it can open nothing."""
    used = open_files(server)
    return next(number for number in range(len(used) + 1) if number not in used)


def segments(server: Server) -> int:
    """Return how many segments the journal of a server has."""
    return len(list(Path(server.storage.removeprefix("fs:"), "journal").glob("*.log")))


async def submit(client: Client, args: Any) -> str:
    """Submit a job, which has to be accepted, and return its id."""
    status, job = await client.request("POST", f"{COMPOSER}/jobs", {"type": "build", "args": args})
    assert status == 201, job
    return job["id"]  # type: ignore[no-any-return]


async def claim(client: Client) -> tuple[int, Any]:
    """Request a job as a worker, and return the answer."""
    return await client.request("POST", f"{WORKER}/jobs?wait=1s", {"types": ["build"], "arch": "x86_64"})


async def upload(client: Client, job: Any) -> int:
    """Upload a small file of an attempt, and return the status of the answer."""
    status, _ = await client.request("PUT", job["artifact_location"] + "log.txt", "a log")
    return status


async def test_without_a_free_descriptor(serve: Serve, client: Callable[..., Client]) -> None:
    """Jobs are submitted, handed out and finished over several segments of the journal; uploads are tried again."""
    server = await serve()
    one = client(server)
    job_ids = [await submit(one, {"n": 0})]
    _, job = await claim(one)
    assert await upload(one, job) == 200
    assert (await one.request("PATCH", job["location"], {"result": {}}))[0] == 200
    with limited(server, first_free(server)):
        job_ids += [await submit(one, {"n": n, "large": LARGE}) for n in range(1, 5)]
        for n in range(1, 5):  # the args of the first are in a segment that has to be opened
            status, job = await claim(one)
            assert (status, job["args"]["n"]) == (201, n)
            assert await upload(one, job) == 503
            assert (await one.request("GET", job["location"]))[0] == 200
            assert (await one.request("PATCH", job["location"], {"result": {"n": n}}))[0] == 200
        assert (await one.request("GET", "/healthz"))[0] == 200
    assert segments(server) > 1
    job_ids.append(await submit(one, {}))
    _, job = await claim(one)
    assert await upload(one, job) == 200
    assert (await one.request("GET", "/readyz"))[0] == 200
    server.kill()
    await server.exited()
    await server.start()
    assert [(await server.job(job_id))["state"] for job_id in job_ids] == ["finished"] * 5 + ["running"]


async def test_without_the_reserve_either(serve: Serve, client: Callable[..., Client]) -> None:
    """If even the reserve cannot be used, writes go on in the open segment, and reads of others are tried again."""
    server = await serve()
    one = client(server)
    job_ids = [await submit(one, LARGE) for _ in range(4)]  # the last one begins a segment
    assert segments(server) == 2
    with limited(server, 3):
        job_ids += [await submit(one, LARGE) for _ in range(4)]
        assert segments(server) == 2
        assert (await claim(one))[0] == 503
        assert (await one.request("GET", f"{COMPOSER}/jobs/{job_ids[0]}"))[0] == 200
    claimed = [(await claim(one))[1] for _ in job_ids]
    assert {job["id"] for job in claimed} == set(job_ids)
    assert all(job["args"] == LARGE for job in claimed)
    await submit(one, {})
    assert segments(server) == 3
    assert (await one.request("GET", "/readyz"))[0] == 200


@contextmanager
def started(tmp_path: Path, limit: int) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """Start a server that may open no more than `limit` files, and yield it and what it prints."""
    command = [sys.executable, "-c", "from composerd.cli.main import main; main()", "serve"]
    with subprocess.Popen(
        [*command, "--listen", f"{LOOPBACK}:0", "--storage", f"fs:{tmp_path / 'storage'}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=clean_environment(),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)),  # noqa: PLW1509  # no threads
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout
        finally:
            process.terminate()
            process.wait()  # before its output is closed, to which it writes at the end


def test_a_start_with_too_few_descriptors(tmp_path: Path) -> None:
    """A server that may open too few files says at the start how many it needs."""
    with started(tmp_path, 64) as (process, printed):
        assert printed.read() == (
            "composerd: the limit of open files is 64, but a server needs at least 128, and one more for each "
            "connection: raise it with ulimit -Hn, or LimitNOFILE= in the systemd unit\n"
        )
        assert process.wait() == 2
    assert not (tmp_path / "storage").exists()


@pytest.mark.parametrize(("limit", "connections"), [(128, 28), (256, 140)])
async def test_a_start_with_few_descriptors(
    tmp_path: Path, client: Callable[..., Client], limit: int, connections: int
) -> None:
    """A server that may open few files says how many connections that allows, and works."""
    with started(tmp_path, limit) as (process, printed):
        assert f"accepting at most {connections} connections, not 20000" in printed.readline()
        server: Any = type("Started", (), {"url": printed.readline().removeprefix("listening on ").strip()})
        await client(server).work()
    assert process.returncode == 0


async def test_without_descriptors_for_the_database(
    serve: Serve, client: Callable[..., Client], newest_postgres: Throwaway
) -> None:
    """If no connection to PostgreSQL can be opened, those that are open serve everybody, and later all are there."""
    server = await serve(storage=newest_postgres.fresh())
    one = client(server)
    await one.work()
    others = [client(server) for _ in range(12)]
    for other in others:
        assert (await other.request("GET", "/healthz"))[0] == 200
    with limited(server, first_free(server)):
        await asyncio.gather(*(submit(other, {}) for other in others))
        status, job = await claim(one)
        assert status == 201
        assert (await one.request("PATCH", job["location"], {"result": {}}))[0] == 200
    await asyncio.gather(*(submit(other, {}) for other in others))
    assert (await one.request("GET", "/readyz"))[0] == 200

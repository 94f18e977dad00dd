"""Jobs of ever new types, archs, channels and idempotency keys leave nothing in memory when they are gone."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..live.conftest import LOOPBACK, clean_environment
from .conftest import COMPOSER, WORKER, Client

JOBS = 500
"""Jobs of a round, each of a type of its own."""

PROGRAM = """
import gc, os, signal, sys
from composerd.cli.main import main

def report(*_):
    gc.collect()
    os.write(2, f"blocks: {sys.getallocatedblocks()}\\n".encode())

signal.signal(signal.SIGUSR1, report)
main()
"""
"""A server that writes how many blocks of memory Python has given out when it gets SIGUSR1."""


@contextmanager
def started(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a server, and yield it and its URL."""
    options = ("--listen", f"{LOOPBACK}:0", "--storage", f"fs:{tmp_path / 'storage'}", "--sweep-interval", "50ms")
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "serve", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().removeprefix("listening on ").strip()
        finally:
            process.terminate()
            process.wait()  # before its output is closed, to which it writes at the end


def blocks(process: subprocess.Popen[str]) -> int:
    """Return how many blocks of memory a server uses."""
    process.send_signal(signal.SIGUSR1)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("blocks: "):
            return int(line.removeprefix("blocks: "))
    raise AssertionError("the server has ended")


async def failed_job(client: Client) -> str:
    """Let a job fail, and return its id: a job that depends on it fails as soon as it is submitted."""
    _, job = await client.request("POST", f"{COMPOSER}/jobs", {"type": "fails"})
    await finish(client, "fails", {"job_error": {"id": 1, "reason": "on purpose"}})
    return job["id"]  # type: ignore[no-any-return]


async def finish(client: Client, type: str, result: Any) -> None:
    """Request the next job of a type as a worker, and report its result."""
    _, got = await client.request("POST", f"{WORKER}/jobs?wait=10s", {"types": [type], "arch": "x86_64"})
    assert (await client.request("PATCH", got["location"], {"result": result}))[0] == 200


async def until_only_one_is_left(client: Client) -> None:
    """Wait until every job but one has been removed."""
    deadline = time.monotonic() + 30
    while len((await client.request("GET", f"{COMPOSER}/jobs"))[1]["items"]) > 1:
        assert time.monotonic() < deadline, "jobs were not removed"
        await asyncio.sleep(0.02)


async def come_and_go(client: Client, failed: str, nth: int) -> None:
    """Submit jobs of new types, and wait until they are gone: many that fail at once, and some that a worker runs."""
    common = {"retention": "50ms"}
    jobs: list[dict[str, Any]] = [
        {
            "type": f"type-{nth}-{number}",
            "arch": f"arch-{nth}-{number}",
            "idempotency_key": f"key-{nth}-{number}",
            "timeout": f"{nth * JOBS + number + 1}s",
            "dependencies": [failed],
            "on_dependency_failure": "fail",
            **common,
        }
        for number in range(JOBS)
    ]
    jobs += [{"type": f"run-{nth}-{number}", **common} for number in range(20)]
    status, answer = await client.request("POST", f"{COMPOSER}/jobs/batch", {"jobs": jobs})
    assert status == 201, answer
    for number in range(20):
        await finish(client, f"run-{nth}-{number}", {})
    await until_only_one_is_left(client)


async def test_types_are_given_back(tmp_path: Path, client: Callable[..., Client]) -> None:
    """Rounds of jobs of new types need no more memory than the rounds before, once they are over."""
    with started(tmp_path) as (process, url):
        server: Any = type("Started", (), {"url": url})
        one = client(server)
        failed = await failed_job(one)
        for nth in range(2):
            await come_and_go(one, failed, nth)
        before = await asyncio.to_thread(blocks, process)
        for nth in range(2, 5):
            await come_and_go(one, failed, nth)
        deadline = time.monotonic() + 10
        left = float(JOBS)
        while left >= 1 and time.monotonic() < deadline:  # the latest sweeps and answers may still be in memory
            left = (await asyncio.to_thread(blocks, process) - before) / (3 * JOBS)
            await asyncio.sleep(0.1)
        assert left < 1
    assert process.returncode == 0

"""Workers that may start no more threads."""

import asyncio
import contextlib
import sys
import threading
from pathlib import Path
from unittest.mock import Mock

import pytest

from composerd_client import Worker
from composerd_client.worker import health

from .conftest import Serve, clean_environment


async def test_a_thread_that_cannot_be_started(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job whose handler needs a thread is released while none can be started, and does not fail."""
    server = await serve(storage="memory:")
    monkeypatch.setattr(health, "FIRST_PAUSE", 0.1)
    worker = Worker(server.url, arch="x86_64")
    worker.handler("build")(lambda _job: "built")
    job = await server.submit()
    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", Mock(side_effect=RuntimeError("can't start new thread")))
        running = asyncio.create_task(worker.run(jobs=1))

        async def has_problem() -> bool:
            return worker.problem == "no thread can be started for the handler: can't start new thread"

        await server.until(has_problem)
    await running
    shown = await server.job(job["id"])
    assert (shown["state"], shown["result"], shown["retries"]) == ("finished", "built", 0)


LIMITED = """
import os, sys, threading
from composerd_client.worker.command_line import main
start, most, flag = threading.Thread.start, int(sys.argv[1]), sys.argv[2]
def start_within_limit(thread):
    if threading.active_count() >= most and not os.path.exists(flag):
        raise RuntimeError("can't start new thread")
    start(thread)
threading.Thread.start = start_within_limit
del sys.argv[1:3]
main()
"""
"""A worker that may have so many threads until there is a file."""


@pytest.mark.parametrize("most", [1, 9])
async def test_the_limit_of_threads(serve: Serve, tmp_path: Path, most: int) -> None:
    """A worker that may have no more threads than at its start releases jobs; with fewer, it does not start."""
    server = await serve(storage="memory:")
    flag, log = tmp_path / "flag", tmp_path / "log"
    options = ("--server", server.url, "--type", "build", "--once", "--", "true")
    job = await server.submit()
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", LIMITED, str(most), str(flag), *options), stderr=file, env=clean_environment()
        )
    try:
        if most == 9:

            async def released() -> bool:
                # Python 3.12 and later start no thread for a process.
                return b"released after" in log.read_bytes() or process.returncode is not None

            await server.until(released)
            flag.touch()
        assert await process.wait() == (0 if most == 9 else 1)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    assert b"Traceback" not in log.read_bytes()
    shown = await server.job(job["id"])
    assert (shown["state"], shown["retries"]) == ("finished" if most == 9 else "ready", 0)
    assert (most == 9) != (b"no threads can be started" in log.read_bytes())

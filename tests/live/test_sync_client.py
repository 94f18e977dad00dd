"""The Python client without `await`: in threads, beside a running event loop, interrupted, and after its end."""

import asyncio
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from composerd.testing import LiveServer
from composerd_client import (
    ComposerClient,
    JobContext,
    JobState,
    RequestFailed,
    SyncComposerClient,
    SyncJobContext,
    Worker,
)

from .conftest import NOBODY, Server, until_waiting


def test_the_methods_are_those_of_the_asynchronous_client() -> None:
    """Each method of `ComposerClient` is there, with its arguments and its docstring, and without `await`."""
    methods = dict(inspect.getmembers(ComposerClient, inspect.isfunction))
    names = {name for name in methods if not name.startswith("_")}
    assert {name for name in vars(SyncComposerClient) if not name.startswith("_")} == names | {"close"}
    for name in names:
        method = getattr(SyncComposerClient, name)
        assert not inspect.iscoroutinefunction(method)
        assert not inspect.isasyncgenfunction(method)
        assert method.__doc__ == methods[name].__doc__
        assert inspect.signature(method).parameters == inspect.signature(methods[name]).parameters
        assert "Async" not in str(inspect.signature(method).return_annotation)
    assert {name for name in vars(SyncJobContext) if not name.startswith("_")} == {
        name for name, _ in inspect.getmembers(JobContext, inspect.iscoroutinefunction)
    }


def _use(url: str, directory: Path) -> None:
    """Use every kind of method."""
    with SyncComposerClient(url) as composer:
        job = composer.submit("build", args=[1])
        for done in composer.progress(job.id, every=0.05):
            assert done == {"done": 1}
        assert composer.wait(job.id, timeout=20).result == [1]
        (artifact,) = composer.artifacts(job.id)
        assert b"".join(composer.read(artifact)) == b"hello"
        assert composer.download(artifact, directory / job.id).read_bytes() == b"hello"
        assert job.id in [one.id for one in composer.list(type="build")]
        with pytest.raises(RequestFailed, match="Job not found"):
            composer.get(NOBODY)
        with pytest.raises(TimeoutError):
            composer.wait(composer.submit("never").id, timeout=0.01)


async def test_threads_and_plain_functions(server: Server, tmp_path: Path) -> None:
    """Several threads, and one with a running event loop, use the client; a handler in a thread reports to its job."""
    worker = Worker(server.url, arch="x86_64", concurrency=3)

    @worker.handler("build")
    def build(job: JobContext) -> Any:
        job.sync.progress({"done": 1})
        job.sync.upload("file", b"hello")
        return job.args

    working = asyncio.create_task(worker.run(jobs=4))
    await asyncio.gather(*(asyncio.to_thread(_use, server.url, tmp_path) for _ in range(3)))

    async def beside_a_loop() -> None:
        _use(server.url, tmp_path)

    await asyncio.to_thread(asyncio.run, beside_a_loop())
    await working
    assert [thread.name for thread in threading.enumerate() if "composerd" in thread.name] == []


async def test_one_client_in_many_threads(server: Server) -> None:
    """All threads share one client, its connections and its thread."""

    def submit(composer: SyncComposerClient) -> str:
        return composer.get(composer.submit("build").id).id

    def submit_all() -> tuple[set[str], set[str]]:
        with SyncComposerClient(server.url) as composer, ThreadPoolExecutor(8) as threads:
            ids = set(threads.map(submit, [composer] * 40))
            return ids, {job.id for job in composer.list()}

    ids, listed = await asyncio.to_thread(submit_all)
    assert len(ids) == 40
    assert ids == listed


async def test_an_iteration_that_ends_early(server: Server) -> None:
    """An iterator that is left early, or outlives its client, is closed; a client that only it refers to stays open."""
    jobs = [await server.submit() for _ in range(3)]

    def iterate() -> None:
        composer = SyncComposerClient(server.url)
        for job in composer.list():
            assert job.id == jobs[-1]["id"]
            break
        left = composer.list()
        next(left)
        composer.close()
        with pytest.raises(RuntimeError, match="the client is closed"):
            list(left)
        assert [job.id for job in SyncComposerClient(server.url).list()] == [job["id"] for job in reversed(jobs)]

    await asyncio.to_thread(iterate)


async def test_a_closed_client(server: Server) -> None:
    """`close` ends a wait of another thread and the client's own thread; later calls say that the client is closed."""
    job = await server.submit()
    composer = SyncComposerClient(server.url)
    await asyncio.to_thread(composer.get, job["id"])
    waiting = asyncio.create_task(asyncio.to_thread(composer.wait, job["id"]))
    await until_waiting(server, 1)
    await asyncio.to_thread(composer.close)
    with pytest.raises(RuntimeError, match="the client is closed"):
        await waiting
    for call in (composer.workers, composer.__enter__):
        with pytest.raises(RuntimeError, match="the client is closed"):
            call()
    composer.close()


async def test_a_call_on_its_own_loop(server: Server) -> None:
    """A call that would wait for itself is an error: of the context of a coroutine, and in a callback of a download."""
    worker = Worker(server.url, arch="x86_64")

    @worker.handler("build")
    async def build(job: JobContext) -> None:
        await job.upload("file", b"hello")
        job.sync.progress(1)

    job = await server.submit()
    await worker.run(jobs=1)
    reason = (await server.job(job["id"]))["result"]["job_error"]["reason"]
    assert reason.startswith("RuntimeError: called on the event loop that would run it: await")


async def test_more_plain_functions_than_processors(server: Server) -> None:
    """As many plain functions as `concurrency` says run at the same time, and upload files meanwhile."""
    worker = Worker(server.url, arch="x86_64", concurrency=40)
    together = threading.Barrier(40)

    @worker.handler("build")
    def build(job: JobContext) -> None:
        together.wait(30)
        job.sync.upload("file", b"hello")

    async with ComposerClient(server.url) as composer:
        jobs = await composer.submit_graph([{"type": "build"}] * 40)
        await worker.run(jobs=40)
        assert {(await composer.get(job.id)).state for job in jobs} == {JobState.FINISHED}


async def test_a_plain_function_whose_job_is_canceled(server: Server) -> None:
    """Once the worker knows that the job was canceled, calls of its function are errors."""
    worker = Worker(server.url, arch="x86_64")
    began, canceled = threading.Event(), threading.Event()
    raised: list[Exception] = []

    @worker.handler("build")
    def build(job: JobContext) -> None:
        began.set()
        canceled.wait(30)
        for _ in range(2):
            try:
                job.sync.upload("file", b"hello")
            except RuntimeError as exc:
                raised.append(exc)

    job = await server.submit()
    running = asyncio.create_task(worker.run(jobs=1))
    await asyncio.to_thread(began.wait, 30)
    await server.request("POST", f"/api/composer/v1/jobs/{job['id']}/cancel")
    await running
    canceled.set()

    async def ended() -> bool:
        return len(raised) == 2

    await server.until(ended)
    assert [str(one) for one in raised] == ["this attempt at the job is over"] * 2


def _interrupted(call: Callable[[], object]) -> float:
    """Return the seconds after which SIGINT has ended a call."""
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    began = time.monotonic()
    timer.start()
    try:
        call()
    except KeyboardInterrupt:
        return time.monotonic() - began
    raise AssertionError("the call has ended by itself")


def test_an_interrupt(composerd_server: LiveServer) -> None:
    """Ctrl-C ends a wait and an iteration, and the client can be used again."""
    with SyncComposerClient(composerd_server.url) as composer:
        job = composer.submit("build")
        assert _interrupted(lambda: composer.wait(job.id)) < 5
        assert _interrupted(lambda: list(composer.follow(job.id))) < 5
        assert composer.cancel(job.id).state == "canceled"


FORKED = """
import os, sys
from composerd_client import SyncComposerClient
composer = SyncComposerClient(sys.argv[1])
job = composer.submit("upload")
pid = os.fork()
if pid == 0:
    try:
        composer.get(job.id)
    except RuntimeError as exc:
        print(exc, flush=True)
    os._exit(0)
os.waitpid(pid, 0)
composer.wait(job.id)
for artifact in composer.artifacts(job.id):
    composer.download(artifact, sys.argv[2])
jobs = composer.list()
print(next(jobs).state)
"""


def test_a_program_that_forks_and_never_closes(tmp_path: Path) -> None:
    """In a forked process the client says that it is of another one; at the end of a program it closes by itself."""

    def upload(job: JobContext) -> None:
        job.sync.upload("file", b"hello")

    with LiveServer(f"fs:{tmp_path}/storage") as server, server.worker({"upload": upload}):
        program = [sys.executable, "-W", "error", "-c", FORKED, server.url, f"{tmp_path}/files"]
        ended = subprocess.run(program, capture_output=True, text=True, timeout=60, check=True)
    said = "the client belongs to the process that this one was forked from: make another one"
    assert (ended.stdout, ended.stderr) == (f"{said}\nfinished\n", "")
    assert (tmp_path / "files" / "file").read_bytes() == b"hello"

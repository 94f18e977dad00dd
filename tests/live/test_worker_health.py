"""Workers on a machine that cannot run jobs: they release instead of failing jobs, pause, say why, and go on later."""

import asyncio
import itertools
import re
import resource
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from composerd_client import JobContext, LocalFault, Worker
from composerd_client.worker import checks, health
from composerd_client.worker.checks import command_check

from ..drivers.fs.mounts import remount
from . import test_full_disk as full_disk_tests
from .conftest import COMPOSER, Serve, Server, clean_environment, until_waiting
from .processes import Process, command
from .test_full_disk import fill
from .test_worker_leftovers import alive

disk = full_disk_tests.disk

TABLE = "A machine that cannot run jobs"
"""The table of the reference with the faults of a machine."""

COMMAND = "COMMAND is gone, not executable or busy, its interpreter is missing, or no process can be started"
SCRATCH = (
    "no scratch directory can be made or written: "
    "the disk is full or read-only, TMPDIR is gone, no more files can be opened"
)
SPACE = "less than --min-free-space is free where scratch directories are made (TMPDIR)"
CHECK = "the command of --health-check exits with another status than 0, or takes longer than 30 s"


@asynccontextmanager
async def working(server: Server, *arguments: str, **environment: str) -> AsyncIterator[Process]:
    """Run a worker process."""
    given = ("worker", "--type", "build", "--arch", "x86_64", "--server", server.url, *arguments)
    process = command(*given, **{**clean_environment(), **environment})
    try:
        yield process
    finally:
        await asyncio.to_thread(process.close)


async def states(server: Server) -> list[str]:
    """Return the states of all jobs."""
    _, listed = await server.request("GET", f"{COMPOSER}/jobs")
    return [job["state"] for job in listed["items"]]


async def worker_of(server: Server) -> dict[str, Any]:
    """Return the only worker that the server lists, or nothing."""
    _, listed = await server.request("GET", f"{COMPOSER}/workers")
    return listed["items"][0] if listed["items"] else {}


async def all_finished(server: Server) -> None:
    """Wait until all jobs have finished."""

    async def finished() -> bool:
        return set(await states(server)) == {"finished"}

    await server.until(finished)


async def said(server: Server, process: Process, text: str) -> None:
    """Wait until a worker has logged what a pattern matches."""

    async def logged() -> bool:
        return re.search(text.encode(), process.said()) is not None

    await server.until(logged)


@pytest.mark.row(TABLE, SCRATCH)
@pytest.mark.row(TABLE, SPACE)
@pytest.mark.parametrize("option", [(), ("--min-free-space", "0")])
async def test_a_full_disk(serve: Serve, disk: Path, option: tuple[str, ...]) -> None:
    """A worker whose disk is full fails no job, says so to the server, and goes on when there is room."""
    server = await serve(storage="memory:")
    async with working(server, *option, "--", "sh", "-c", "exit 0", TMPDIR=str(disk)) as process:
        await server.submit()
        await all_finished(server)
        ballast = fill(disk)
        jobs = [await server.submit() for _ in range(3)]
        await said(server, process, "no jobs are requested, because this machine cannot run them: ")

        async def shown() -> bool:
            return str(disk) in (await worker_of(server)).get("problem", "")

        await server.until(shown)
        ballast.unlink()
        await all_finished(server)
        assert [(await server.job(job["id"]))["retries"] for job in jobs] == [0, 0, 0]
        await said(server, process, "jobs are requested again")
        assert not (await worker_of(server)).get("problem")
        assert process.said().count(b"no jobs are requested") == 1


@contextmanager
def read_only(disk: Path) -> Iterator[None]:
    """Let nothing be written on a disk for a while."""
    remount(disk, "ro")
    yield
    remount(disk, "rw")


@contextmanager
def unmounted(disk: Path) -> Iterator[None]:
    """Take the directory of a disk away for a while."""
    (disk / "tmp").rmdir()
    yield
    (disk / "tmp").mkdir()


@pytest.mark.row(TABLE, SCRATCH)
@pytest.mark.parametrize(("fault", "reason"), [(read_only, "Read-only file system"), (unmounted, "No such file")])
async def test_a_disk_that_cannot_be_used(
    serve: Serve, disk: Path, fault: Callable[[Path], AbstractContextManager[None]], reason: str
) -> None:
    """A worker that cannot make a scratch directory fails no job, and goes on when it can."""
    server = await serve(storage="memory:")
    (disk / "tmp").mkdir()
    async with working(server, "--", "true", TMPDIR=str(disk / "tmp")) as process:
        await server.submit()
        await all_finished(server)
        with fault(disk):
            job = await server.submit()
            await said(server, process, reason)
        await all_finished(server)
        assert (await server.job(job["id"]))["retries"] == 0


@contextmanager
def missing(program: Path) -> Iterator[None]:
    """Take a program away for a while."""
    program.rename(program.with_suffix(".away"))
    yield
    program.with_suffix(".away").rename(program)


@contextmanager
def forbidden(program: Path) -> Iterator[None]:
    """Forbid to execute a program for a while."""
    program.chmod(0o644)
    yield
    program.chmod(0o755)


@contextmanager
def busy(program: Path) -> Iterator[None]:
    """Keep a program open for writing, so that it cannot be executed."""
    with program.open("r+b"):
        yield


@pytest.mark.row(TABLE, COMMAND)
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (missing, "No such file"),
        (forbidden, "is not executable by this user|Permission denied"),
        (busy, "Text file busy"),
    ],
)
async def test_a_command_that_cannot_be_executed_any_more(
    serve: Serve, tmp_path: Path, fault: Callable[[Path], AbstractContextManager[None]], reason: str
) -> None:
    """A worker whose command cannot be executed for a while releases jobs, and goes on when it can be."""
    server = await serve(storage="memory:")
    program = tmp_path / "program"
    shutil.copy2("/bin/true", program)
    async with working(server, "--", str(program)) as process:
        await server.submit()
        await all_finished(server)
        with fault(program):
            job = await server.submit()
            await said(server, process, reason)
            assert (await server.job(job["id"]))["state"] in ("ready", "running")
        await all_finished(server)
        assert (await server.job(job["id"]))["retries"] == 0


@pytest.mark.row(TABLE, SCRATCH)
@pytest.mark.row(TABLE, COMMAND)
async def test_too_many_open_files(serve: Serve) -> None:
    """A worker that can open no more files releases jobs, and goes on when it can."""
    server = await serve(storage="memory:")
    async with working(server, "--", "true") as process:
        await server.submit()
        await all_finished(server)
        soft, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (3, hard))
        job = await server.submit()
        await said(server, process, "Too many open files")
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (soft, hard))
        await all_finished(server)
        assert (await server.job(job["id"]))["retries"] == 0


@pytest.mark.row(TABLE, CHECK)
async def test_a_health_check(serve: Serve, tmp_path: Path) -> None:
    """While the health check fails, a worker takes no job, and the last line on the check's stderr says why."""
    server = await serve(storage="memory:")
    check = f"test -e {tmp_path}/ready || {{ echo looking; echo no device here >&2; echo looked; exit 3; }}"
    async with working(server, "--health-check", check, "--", "true") as process:
        await server.submit()
        await said(server, process, "the health check exited with status 3: no device here")
        assert await states(server) == ["ready"]

        async def shown() -> bool:
            return (await worker_of(server)).get("problem") == "the health check exited with status 3: no device here"

        await server.until(shown)
        (tmp_path / "ready").touch()
        await all_finished(server)


@pytest.mark.row(TABLE, CHECK)
async def test_a_health_check_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A health check that does not end is ended with everything that it has started."""
    monkeypatch.setattr(checks, "CHECK_WITHIN", 0.5)
    check = command_check(f"setsid sleep 300 & echo $! > {tmp_path}/pid; echo still looking >&2; sleep 300")
    assert await check() == "the health check took longer than 0 s: still looking"
    assert not alive(int((tmp_path / "pid").read_text()))


async def test_one_check_for_several_slots(serve: Serve) -> None:
    """All slots of a worker share a health check, also if it raises an exception."""
    server = await serve(storage="memory:")
    looked: list[float] = []

    async def look() -> str | None:
        looked.append(asyncio.get_running_loop().time())
        if len(looked) == 1:
            raise FileNotFoundError("no device")
        return None

    worker = Worker(server.url, arch="x86_64", concurrency=5, health_check=look)
    worker.handler("build")(lambda _job: None)
    running = asyncio.create_task(worker.run())

    async def has_problem() -> bool:
        return worker.problem == "FileNotFoundError: no device"

    await server.until(has_problem)
    await until_waiting(server, 5)
    assert (len(looked), worker.problem) == (2, None)
    worker.stop()
    await running


async def test_a_handler_that_cannot_run_jobs(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that raises `LocalFault` releases its job, which does not count, and each pause is longer."""
    server = await serve(storage="memory:")
    monkeypatch.setattr(health, "FIRST_PAUSE", 0.1)
    began: list[float] = []
    worker = Worker(server.url, arch="x86_64")

    @worker.handler("build")
    async def build(_job: JobContext) -> str:
        began.append(asyncio.get_running_loop().time())
        if len(began) < 4:
            raise LocalFault("no device")
        return "built"

    job = await server.submit()
    await worker.run(jobs=1)
    shown = await server.job(job["id"])
    assert (shown["state"], shown["result"], shown["retries"]) == ("finished", "built", 0)
    pauses = [later - earlier for earlier, later in itertools.pairwise(began)]
    assert all(pause > least for pause, least in zip(pauses, (0.05, 0.1, 0.2), strict=True))
    assert (worker.problem, worker.failed_jobs) == (None, 0)


@pytest.mark.parametrize(("option", "code"), [((), 0), (("--once",), 1)])
async def test_stopping_a_paused_worker(serve: Serve, option: tuple[str, ...], code: int) -> None:
    """A paused worker stops at once; one that was to run a job exits with 1."""
    server = await serve(storage="memory:")
    async with working(server, *option, "--health-check", "exit 1", "--", "true") as process:
        await said(server, process, "the health check exited with status 1")
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait) == code

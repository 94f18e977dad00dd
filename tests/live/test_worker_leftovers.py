"""Workers that end or are killed leave no process of their command and no scratch directory."""

import asyncio
import contextlib
import os
import shlex
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from composerd_client.worker import scratch
from composerd_client.worker.cgroups import PREFIX, own_cgroup

from .conftest import COMPOSER, Serve, Server, clean_environment
from .processes import Process, command

EVERY_KIND = """
mark() { sh -c 'echo $$ > "$0/$1.new"; mv "$0/$1.new" "$0/$1"; exec sleep 300' @ "$1"; }
mark child &
(mark grandchild &)
setsid sh -c 'echo $$ > "$0/session.new"; mv "$0/session.new" "$0/session"; exec sleep 300' @ &
(setsid sh -c 'sh -c "echo \\$\\$ > $0/daemon.new; mv $0/daemon.new $0/daemon; exec sleep 300" &' @ > /dev/null 2>&1 &)
exec sh -c 'echo $$ > "$0/command.new"; mv "$0/command.new" "$0/command"; exec sleep 300' @
"""
"""A script that starts a child, a grandchild, a child in a session of its own and a daemon, which write their ids."""

KINDS = ("child", "grandchild", "session", "daemon", "command")


def script(directory: Path) -> str:
    """Return the script, with the directory for the ids."""
    return EVERY_KIND.replace("@", shlex.quote(str(directory)))


def worker(server: Server, *arguments: str, tmp: Path) -> Process:
    """Start a worker with a directory for its scratch directories."""
    given = ("worker", "--type", "build", "--arch", "x86_64", "--server", server.url, *arguments)
    return command(*given, **{**clean_environment(), "TMPDIR": str(tmp)})


def alive(pid: int) -> bool:
    """Return True if a process runs; one that has ended may still wait for its parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def guardian(process: Process | asyncio.subprocess.Process) -> int:
    """Return the id of the process that guards the command of a worker."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 1
    return int(children[0])


def names(directory: Path) -> set[str]:
    """Return the names in a directory."""
    return {each.name for each in directory.iterdir()}


async def until(holds: Callable[[], bool]) -> None:
    """Wait until a condition is true."""
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


@pytest.fixture
def pids(tmp_path: Path) -> Path:
    """Create the directory for the ids of processes."""
    (tmp_path / "pids").mkdir()
    return tmp_path / "pids"


@pytest.fixture
def tmp(tmp_path: Path) -> Path:
    """Create the directory for scratch directories."""
    (tmp_path / "tmp").mkdir()
    return tmp_path / "tmp"


@pytest.fixture
async def running(serve: Serve, pids: Path, tmp: Path) -> AsyncIterator[tuple[Server, Process, list[int]]]:
    """Start a server and a worker, and a job of which every kind of process runs."""
    server = await serve(storage="memory:")
    process = worker(server, "--", "sh", "-c", script(pids), tmp=tmp)
    await server.submit()
    await until(lambda: all((pids / kind).exists() for kind in KINDS))
    started = [int((pids / kind).read_text()) for kind in KINDS]
    yield server, process, started
    await asyncio.to_thread(process.close)
    for pid in started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


Running = tuple[Server, Process, list[int]]

TABLE = "Processes and directories that are left"
"""The table of the reference with the processes of a command."""


@pytest.mark.row(TABLE, "the command")
@pytest.mark.row(TABLE, "its children, and theirs")
@pytest.mark.row(TABLE, "those in a session or process group of their own, and daemons")
async def test_a_killed_worker(running: Running, tmp: Path) -> None:
    """If a worker is killed, everything that its command has started ends, and the scratch directory is removed."""
    _, process, started = running
    assert all(alive(pid) for pid in started)
    assert len(names(tmp)) == 1
    process.send_signal(signal.SIGKILL)
    await until(lambda: not any(alive(pid) for pid in started) and not names(tmp))


@pytest.mark.parametrize("how", ["cancel", "stop"])
async def test_the_end_of_a_job(running: Running, tmp: Path, how: str) -> None:
    """A job that is canceled, and a worker that is stopped, end everything that the command has started."""
    server, process, started = running
    if how == "stop":

        def stopped() -> bool:
            process.send_signal(signal.SIGTERM)
            return process.returncode is not None

        await until(stopped)
    else:
        _, listed = await server.request("GET", f"{COMPOSER}/jobs")
        await server.request("POST", f"{COMPOSER}/jobs/{listed['items'][0]['id']}/cancel")
    await until(lambda: not any(alive(pid) for pid in started) and not names(tmp))


@pytest.mark.row(TABLE, "the command")
async def test_a_killed_guardian(running: Running) -> None:
    """If the process that guards a command is killed, the command ends with it, and the job is released."""
    server, process, started = running
    os.kill(guardian(process), signal.SIGKILL)
    await until(lambda: not alive(started[-1]))
    await until(lambda: b"released" in process.said())
    _, listed = await server.request("GET", f"{COMPOSER}/jobs")
    assert (listed["items"][0]["state"] in ("ready", "running"), listed["items"][0]["retries"]) == (True, 0)


@pytest.mark.row(TABLE, "the command")
@pytest.mark.row(TABLE, "its children, and theirs")
@pytest.mark.row(TABLE, "those in a session or process group of their own, and daemons")
@pytest.mark.skipif(own_cgroup() is None, reason="no cgroup may be made here")
async def test_a_killed_worker_and_a_killed_guardian(running: Running, tmp: Path) -> None:
    """If the guardian is killed too, the next worker ends everything that the command has started."""
    server, process, started = running
    os.kill(guardian(process), signal.SIGSTOP)
    guarding = guardian(process)
    process.send_signal(signal.SIGKILL)
    await until(lambda: process.returncode is not None)
    os.kill(guarding, signal.SIGKILL)
    following = worker(server, "--", "true", tmp=tmp)
    await until(lambda: not any(alive(pid) for pid in started))
    await until(lambda: f"{PREFIX}{guarding}" not in names(Path(str(own_cgroup()))))
    await asyncio.to_thread(following.close)


OTHER = 65534
"""The id of another user."""

WORKER_WITHOUT_SERVER = """
import asyncio, os, sys
from pathlib import Path
from composerd_client.worker.processes import Process

async def work():
    process = await Process.start(["/bin/sh", "-c", sys.argv[1]], Path("/"), os.environ, kill_after=0.2)
    await asyncio.sleep(300)
    await process.end()

asyncio.run(work())
"""
"""The program of a worker that runs one command."""


@pytest.mark.row(TABLE, "those that run as another user, such as a setuid program")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user")
async def test_a_process_of_another_user(pids: Path) -> None:
    """If a worker is killed, a process that it may not signal is ended in a cgroup, and stays otherwise."""
    script = f"setpriv --reuid {OTHER} sleep 300 & echo $! > {pids}/new; mv {pids}/new {pids}/other; wait"
    without_kill = ("setpriv", "--bounding-set", "-kill")
    process = await asyncio.create_subprocess_exec(*without_kill, sys.executable, "-c", WORKER_WITHOUT_SERVER, script)
    await until((pids / "other").exists)
    other, guarding = int((pids / "other").read_text()), guardian(process)
    try:
        await until(lambda: Path(f"/proc/{other}").stat().st_uid == OTHER)
        process.kill()
        await until(lambda: not alive(guarding))
        assert alive(other) == (own_cgroup() is None)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(other, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_scratch_directories_of_killed_workers(serve: Serve, tmp: Path, tmp_path: Path, pids: Path) -> None:
    """A worker removes the directories that killed ones have left, but none of living ones, other users or old ones."""
    server = await serve(storage="memory:")
    await server.submit()
    up = 'pwd > "$0"; mkdir -p a/b; touch a/b/c; chmod -R a-w a; exec sleep 300'
    living = worker(server, "--", "sh", "-c", up, str(pids / "living"), tmp=tmp)
    await until(lambda: (pids / "living").exists() and bool((pids / "living").read_text()))
    killed = worker(server, "--", "sh", "-c", up, str(pids / "killed"), tmp=tmp)
    await server.submit()
    await until(lambda: (pids / "killed").exists() and bool((pids / "killed").read_text()))
    os.kill(guardian(killed), signal.SIGSTOP)
    guarding = guardian(killed)
    killed.send_signal(signal.SIGKILL)
    await until(lambda: killed.returncode is not None)
    os.kill(guarding, signal.SIGKILL)
    left = Path((pids / "killed").read_text().strip()).parent
    kept = Path((pids / "living").read_text().strip()).parent
    assert left.parent == kept.parent == tmp
    (tmp_path / "target").mkdir()
    (tmp / "composerd-scratch-link").symlink_to(tmp_path / "target")
    (tmp / "composerd-scratch-file").touch()
    (tmp / "composerd-job-old").mkdir()
    (tmp / "composerd-scratch-empty").mkdir()
    if os.geteuid() == 0:
        (tmp / "composerd-scratch-other").mkdir()
        os.chown(tmp / "composerd-scratch-other", 65534, -1)
    following = worker(server, "--", "true", tmp=tmp)
    await until(lambda: not left.exists() and not (tmp / "composerd-scratch-empty").exists())
    expected = {kept.name, "composerd-scratch-link", "composerd-scratch-file", "composerd-job-old"}
    if os.geteuid() == 0:
        expected.add("composerd-scratch-other")
    await until(lambda: names(tmp) == expected)
    assert (kept / "work" / "a" / "b" / "c").exists()
    assert (tmp_path / "target").is_dir()
    for process in (following, living, killed):
        await asyncio.to_thread(process.close)


async def test_many_scratch_directories(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker removes a limited number of directories at its start, and the next one goes on."""
    monkeypatch.setenv("TMPDIR", str(tmp))
    monkeypatch.setattr(scratch, "MOST_REMOVED", 2)
    for number in range(5):
        (tmp / f"{scratch.PREFIX}{number}").mkdir()
    for left in (3, 1, 0):
        thread = scratch.remove_leftovers()
        await asyncio.to_thread(thread.join)
        assert len(names(tmp)) == left

"""A server under a service manager: what it tells it, when it stops telling it, and how it logs to its journal."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..throwaway import Throwaway
from .conftest import Serve, Server, clean_environment

WATCHDOG = 0.8
"""Time in seconds after which the service manager of these tests would kill a server that gives no sign of life."""


class Manager:
    """The socket of a service manager."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.socket.bind(str(path))
        self.socket.settimeout(30)
        self.environment = {"NOTIFY_SOCKET": str(path)}
        self.senders: set[int] = set()

    def receive(self) -> dict[str, str]:
        """Return the assignments of the next message."""
        message, (credentials,), _, _ = self.socket.recvmsg(4096, socket.CMSG_SPACE(12))
        self.senders.add(int.from_bytes(credentials[2][:4], sys.byteorder))
        return dict(line.split("=", 1) for line in message.decode().split("\n"))

    async def next(self, *wanted: str) -> dict[str, str]:
        """Return the next message that has one of these assignments."""
        while True:
            found = await asyncio.to_thread(self.receive)
            if set(wanted) & found.keys():
                return found

    async def silent(self, seconds: float) -> bool:
        """Return True if no message comes for so long, after those that are on their way."""
        self.socket.settimeout(seconds)
        try:
            for _ in range(20):
                await asyncio.to_thread(self.receive)
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(30)
        return False


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """Listen as a service manager."""
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.socket.close()


@pytest.fixture(params=["1", "2"])
def processes(request: pytest.FixtureRequest, newest_postgres: Throwaway) -> tuple[str, ...]:
    """Return the options of a server with one process, or with two."""
    return ("--processes", request.param, "--storage", newest_postgres.fresh())


async def test_what_a_service_manager_is_told(serve: Serve, manager: Manager, processes: tuple[str, ...]) -> None:
    """The main process tells that it is ready, begins and ends a reload, and stops, with the time that it may take."""
    server = await serve("--drain-timeout", "100s", *processes, environment=manager.environment)
    told = await manager.next("READY", "RELOADING", "STOPPING")
    assert told["READY"] == "1"
    assert server.url in told["STATUS"]
    for _ in range(2):
        server.kill(signal.SIGHUP)
        told = await manager.next("READY", "RELOADING", "STOPPING")
        assert (told["RELOADING"], int(told["MONOTONIC_USEC"]) > 0) == ("1", True)
        assert (await manager.next("READY", "RELOADING", "STOPPING"))["READY"] == "1"
    server.kill(signal.SIGTERM)
    told = await manager.next("READY", "RELOADING", "STOPPING")
    assert (told["STOPPING"], int(told["EXTEND_TIMEOUT_USEC"]) > 100e6) == ("1", True)
    assert await server.exited() == 0
    assert manager.senders == {server.pid}


async def test_a_start_that_may_take_long(serve: Serve, manager: Manager) -> None:
    """While it opens its storage, a server asks for more time before it is ready."""
    await serve("--artifacts", "none", environment=manager.environment)
    told = await asyncio.to_thread(manager.receive)
    assert told["STATUS"] == "opening the storage"
    assert int(told["EXTEND_TIMEOUT_USEC"]) >= 10e6
    assert "READY" in await asyncio.to_thread(manager.receive)


async def test_a_watchdog(serve: Serve, manager: Manager, processes: tuple[str, ...]) -> None:
    """Signs of life come more often than asked for, but none while the event loop of any process stands still."""
    environment = {**manager.environment, "WATCHDOG_USEC": str(int(WATCHDOG * 1e6))}
    server = await serve(*processes, environment=environment)
    for _ in range(6):
        async with asyncio.timeout(WATCHDOG):
            assert (await manager.next("WATCHDOG"))["WATCHDOG"] == "1"
    serving = children(server) or [server.pid]
    os.kill(serving[-1], signal.SIGSTOP)
    try:
        assert await manager.silent(2 * WATCHDOG)
    finally:
        os.kill(serving[-1], signal.SIGCONT)
    await manager.next("WATCHDOG")


async def test_a_watchdog_while_a_process_is_missing(
    serve: Serve, manager: Manager, newest_postgres: Throwaway
) -> None:
    """A process that has died and is started again costs the service no sign of life."""
    environment = {**manager.environment, "WATCHDOG_USEC": str(int(WATCHDOG * 1e6))}
    server = await serve("--processes", "2", storage=newest_postgres.fresh(), environment=environment)
    os.kill(children(server)[0], signal.SIGKILL)
    for _ in range(12):
        async with asyncio.timeout(WATCHDOG):
            await manager.next("WATCHDOG")
    assert b"restarting it" in server.log


async def test_a_reload_while_a_process_dies(serve: Serve, manager: Manager, newest_postgres: Throwaway) -> None:
    """A process that cannot answer a reload, because it was killed, does not keep it from ending."""
    server = await serve("--processes", "2", storage=newest_postgres.fresh(), environment=manager.environment)
    await manager.next("READY")
    first = children(server)[0]
    os.kill(first, signal.SIGSTOP)
    server.kill(signal.SIGHUP)
    await manager.next("RELOADING")
    assert await manager.silent(0.5)
    os.kill(first, signal.SIGKILL)
    await manager.next("READY")


async def test_ready_without_a_storage(serve: Serve, manager: Manager, own_postgres: Throwaway) -> None:
    """A server whose database is away is ready for a service manager, and its status says what is missing."""
    url = own_postgres.fresh()
    own_postgres.stop()
    server = await serve(storage=url, environment=manager.environment)
    told = await manager.next("READY")
    assert told["STATUS"] == f"serving on {server.url}; the storage does not answer yet"
    own_postgres.start()
    assert await manager.next("STATUS") == {"STATUS": f"serving on {server.url}"}


def children(server: Server) -> list[int]:
    """Return the process ids of the processes that a server has started, oldest first."""
    return [int(pid) for pid in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()]


def run(*arguments: str, journal: bool) -> "subprocess.Popen[str]":
    """Start a command whose stderr is a pipe, which the journal reads or not."""
    reads, writes = os.pipe()
    found = os.fstat(writes)
    environment = {**clean_environment(), "JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino + (not journal)}"}
    process = subprocess.Popen(
        [sys.executable, "-m", "composerd.cli.main", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=writes,
        text=True,
    )
    os.close(writes)
    process.stderr = os.fdopen(reads)
    return process


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("journal", [True, False])
def test_lines_for_the_journal(journal: bool, form: str) -> None:
    """Under the journal each line begins with its priority, and is otherwise as it is elsewhere."""
    with run(
        "serve", "--storage", "memory:", "--listen", "127.0.0.1:0", "--log-format", form, journal=journal
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        host, port = process.stdout.readline().strip().rpartition("/")[2].split(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(b"nonsense\r\n\r\n")
            while client.recv(4096):
                pass
        process.terminate()
        lines = process.stderr.read().splitlines()
    rest = '{"time":' if form == "json" else "20"
    for said, level in (("malformed HTTP request", "<4>"), ("stopping; answering", "<6>")):
        (line,) = [one for one in lines if said in one]
        assert line.startswith((level if journal else "") + rest)
    assert all(re.match(r"<[2-7]>", line) for line in lines) is journal


@pytest.mark.parametrize("arguments", [("--listen", "nowhere"), ("--listen", "127.0.0.1:0", "--processes", "2")])
def test_a_failed_start_in_the_journal(arguments: tuple[str, ...]) -> None:
    """The sentence that says why a server cannot start has the priority of an error."""
    with run("serve", "--storage", "memory:", *arguments, journal=True) as process:
        assert process.stderr is not None
        assert process.stderr.read().startswith("<3>composerd: ")
    assert process.returncode == 2

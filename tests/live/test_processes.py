"""Several server processes with a supervisor on one database: connections, signals, deaths, failed starts."""

import asyncio
import contextlib
import json
import os
import re
import signal
import ssl
import time
from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from composerd.server.supervisor import RESTART_AFTER_AT_MOST, Supervisor
from composerd.settings import load
from composerd_protocol.service_manager import ServiceManager

from ..throwaway import Throwaway
from .conftest import LOOPBACK, Serve, Server, send
from .test_cli import composerd
from .test_tls import Files

row = pytest.mark.row
TABLE = "Settings"


def children(pid: int) -> list[int]:
    """Return the living processes that a process has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append(int(stat.parent.name))
    return sorted(found)


def lives(pid: int) -> bool:
    """Return True if the process is alive."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


async def which(server: Server) -> str:
    """Return the number of the process that answers a new connection."""
    async with aiohttp.ClientSession() as http, http.get(f"{server.url}/metrics") as answer:
        (number,) = set(re.findall(r'composerd_waits\{process="(\d+)"\}', await answer.text()))
        return str(number)


async def several(serve: Serve, postgres: Throwaway, count: int, *options: str) -> Server:
    """Start a server with this many processes."""
    server = await serve("--processes", str(count), *options, storage=postgres.fresh())
    assert len(children(server.pid)) == count
    return server


@row(TABLE, "--processes")
async def test_they_share_the_work(serve: Serve, newest_postgres: Throwaway) -> None:
    """Connections are spread evenly over the processes, and every process hands out jobs submitted to any of them."""
    server = await several(serve, newest_postgres, 3)
    answered = Counter([await which(server) for _ in range(150)])
    assert set(answered) == {"0", "1", "2"}
    assert min(answered.values()) >= 25  # 50 each; less happens once in a million times
    waiting = [asyncio.create_task(server.ask()) for _ in range(12)]  # each on a connection of its own
    ids = [(await server.submit(args=n))["id"] for n in range(12)]
    jobs = await asyncio.gather(*waiting)
    assert sorted(job["id"] for job in jobs if job is not None) == sorted(ids)
    for job in jobs:
        assert job is not None
        assert (await server.finish(job, job["args"]))[0] == 200
    for n, job_id in enumerate(ids):
        assert (await server.job(job_id))["result"] == n
    assert server.log.count(b"Traceback") == 0


async def test_what_they_are_told(serve: Serve, newest_postgres: Throwaway) -> None:
    """After SIGTERM, or SIGINT to the whole group, all processes answer their waiting requests and end in time."""
    for number, group in ((signal.SIGTERM, False), (signal.SIGINT, True)):
        server = await several(serve, newest_postgres, 2)
        waiting = [asyncio.create_task(server.ask()) for _ in range(20)]
        await all_wait(server, 20)
        pids = children(server.pid)
        began = time.monotonic()
        for pid in [server.pid, *(pids if group else [])]:
            os.kill(pid, number)
        assert await asyncio.gather(*waiting) == [None] * 20
        assert await server.exited() == 0
        assert time.monotonic() - began < 5
        assert not any(lives(pid) for pid in pids)
        assert b"ended with" not in server.log


async def all_wait(server: Server, count: int) -> None:
    """Wait until this many requests are waiting in all processes together."""

    async def holds() -> bool:
        seen: dict[str, int] = {}
        for _ in range(30):
            async with aiohttp.ClientSession() as http, http.get(f"{server.url}/metrics") as answer:
                text = await answer.text()
            ((number, waits),) = re.findall(r'composerd_waits\{process="(\d+)"\} (\d+)', text)
            seen[number] = int(waits)
        return sum(seen.values()) == count

    await server.until(holds)


async def test_one_that_dies(serve: Serve, newest_postgres: Throwaway) -> None:
    """A killed process is logged and restarted while the other one serves."""
    server = await several(serve, newest_postgres, 2)
    job = await server.submit()
    victim = children(server.pid)[0]
    os.kill(victim, signal.SIGKILL)
    for _ in range(20):
        async with aiohttp.ClientSession() as http, http.get(f"{server.url}/healthz") as answer:
            assert answer.status == 200
        await asyncio.sleep(0.01)

    async def again() -> bool:
        return len(children(server.pid)) == 2 and len({await which(server) for _ in range(20)}) == 2

    await server.until(again)
    assert victim not in children(server.pid)
    assert re.search(rb"ERROR +\[-\] process [01] ended with signal 9; restarting it in 0\.\d s", server.log)
    assert (await server.job(job["id"]))["state"] == "ready"


async def test_one_that_keeps_dying(serve: Serve, newest_postgres: Throwaway) -> None:
    """A process that keeps dying is restarted after longer and longer waits, which do not delay the stop."""
    server = await several(serve, newest_postgres, 2)
    _, steady = children(server.pid)

    async def long() -> bool:
        for pid in children(server.pid):
            if pid != steady:
                with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                    os.kill(pid, signal.SIGKILL)
        return b"restarting it in 1.6 s" in server.log

    await server.until(long)
    assert re.findall(rb"restarting it in (\S+) s", server.log) == [b"0.2", b"0.4", b"0.8", b"1.6"]
    server.kill(signal.SIGTERM)
    assert await server.exited() == 0


async def test_the_supervisor_dies(serve: Serve, newest_postgres: Throwaway) -> None:
    """When the supervisor dies, its processes answer waiting requests and end, and the port is free at once."""
    server = await several(serve, newest_postgres, 2)
    pids = children(server.pid)
    waiting = [asyncio.create_task(server.ask()) for _ in range(4)]
    await all_wait(server, 4)
    server.kill(signal.SIGKILL)
    await server.exited()
    assert await asyncio.gather(*waiting) == [None] * 4

    async def gone() -> bool:
        return not any(lives(pid) for pid in pids)

    await server.until(gone, 5)
    assert server.log.count(b"the supervisor process has died") == 2
    await server.start()
    assert (await send(server, "GET", "/readyz"))[0] == 200


async def test_an_address_in_use(serve: Serve, newest_postgres: Throwaway) -> None:
    """A second server on an address of several processes is refused with one sentence."""
    server = await several(serve, newest_postgres, 2)
    for count in ("1", "2"):
        told = await composerd(
            "serve", "--storage", server.storage, "--processes", count, "--listen", "{}:{}".format(*server.address)
        )
        assert (told.code, told.out) == (1, "")
        assert told.err.endswith("Address already in use\n")
        assert told.err.count("\n") == 1


async def test_starts_that_fail(newest_postgres: Throwaway, tmp_path: Path) -> None:
    """A failed start is reported once, not by every process, and leaves no process running."""
    told = await composerd(
        "serve", "--storage", f"fs:{tmp_path / 'jobs'}", "--processes", "2", "--listen", "127.0.0.1:0"
    )
    assert (told.code, told.out) == (2, "")
    assert "only one process can use this storage" in told.err
    assert told.err.count("\n") == 1
    assert not (tmp_path / "jobs").exists()
    url = newest_postgres.fresh()
    nowhere = "/proc/nowhere"
    told = await composerd(
        "serve", "--storage", url, "--processes", "3", "--artifacts", nowhere, "--listen", "127.0.0.1:0"
    )
    assert (told.code, told.out) == (2, "")
    assert told.err.count(nowhere) == 1
    lines = [line for line in told.err.splitlines() if "fsync is off" not in line]  # as it is for the tests' database
    assert len(lines) == 2, told.err  # what it was, and that process 0 has ended
    assert "process 0 ended with exit code 2 before it was ready" in told.err


async def test_certificates_of_all(serve: Serve, newest_postgres: Throwaway, tmp_path: Path) -> None:
    """After SIGHUP all processes use the new certificate for new connections."""
    files = Files(tmp_path)
    server = await several(serve, newest_postgres, 2, *files.server_options)
    assert server.url.startswith("https://")

    async def shown() -> set[str]:
        return {await asyncio.to_thread(ssl.get_server_certificate, server.address) for _ in range(20)}

    before = await shown()
    assert len(before) == 1
    files.issue("server", LOOPBACK)
    server.kill(signal.SIGHUP)

    async def renewed() -> bool:
        return not (await shown()) & before

    await server.until(renewed)
    assert server.log.count(b"reloaded the certificates") == 2


async def test_a_unix_socket(serve: Serve, newest_postgres: Throwaway, tmp_path: Path) -> None:
    """A unix socket is shared, survives the death of a process, and is removed with the server."""
    path = tmp_path / "a.sock"
    server = await several(serve, newest_postgres, 2, "--listen", f"unix:{path}")
    told = [await server.line()]
    assert told == [f"listening on http+unix:{path}\n"]

    async def answered() -> bool:
        connector, limit = aiohttp.UnixConnector(str(path)), aiohttp.ClientTimeout(5)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=limit) as http,
            http.get("http://x/healthz") as answer,
        ):
            return answer.status == 200

    assert await answered()
    os.kill(children(server.pid)[0], signal.SIGTERM)
    assert await answered()

    async def again() -> bool:
        return len(children(server.pid)) == 2

    await server.until(again)
    assert await answered()
    server.kill(signal.SIGTERM)
    assert await server.exited() == 0
    assert not path.exists()


async def test_which_process_logs(serve: Serve, newest_postgres: Throwaway) -> None:
    """Every line of the log names its process, except for those of the supervisor."""
    server = await several(serve, newest_postgres, 2, "--log-format", "json")
    pids = children(server.pid)
    server.kill(signal.SIGTERM)
    assert await server.exited() == 0
    lines = [json.loads(line) for line in server.log.splitlines()]
    assert {line.get("process") for line in lines if line["message"].startswith("stopping")} == {0, 1}
    assert not any(lives(pid) for pid in pids)
    server = await several(serve, newest_postgres, 2)
    server.kill(signal.SIGTERM)
    assert await server.exited() == 0
    assert re.search(rb"INFO +process 1 \[-\] stopping", server.log)


async def test_metrics_of_one(serve: Serve, newest_postgres: Throwaway) -> None:
    """Metrics of a process have a label with its number, and metrics of the storage have none."""
    server = await several(serve, newest_postgres, 2)
    await server.submit()
    text = (await send(server, "GET", "/metrics"))[2].decode()
    samples = [line for line in text.splitlines() if line and not line.startswith("#")]
    for sample in samples:
        assert ('process="' in sample) != sample.startswith("composerd_jobs{"), sample
    assert 'composerd_jobs{state="ready"} 1.0' in text


async def test_a_database_that_is_not_there(serve: Serve, own_postgres: Throwaway) -> None:
    """Without the database the processes listen but are not ready, until it is there."""
    url = own_postgres.fresh()
    own_postgres.stop()
    server = await serve("--processes", "2", storage=url)
    assert (await send(server, "GET", "/readyz"))[0] == 503
    own_postgres.start()

    async def ready() -> bool:
        return all([(await send(server, "GET", "/readyz"))[0] == 200 for _ in range(10)])

    await server.until(ready)
    assert (await server.submit())["state"] == "ready"


def test_one_that_has_failed_for_weeks() -> None:
    """The wait before a restart has an upper limit after very many failures."""
    supervisor = Supervisor(load({"storage": "postgresql:///composerd", "processes": "2"}, {}, None), ServiceManager())
    process = supervisor._processes[0]
    process.failures = 100_000
    supervisor._schedule_restart(process)
    assert process.start_at - time.monotonic() <= RESTART_AFTER_AT_MOST

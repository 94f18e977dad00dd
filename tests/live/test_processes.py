"""Several processes that one supervises, on one database: connections spread, signals, deaths, starts that fail. Real processes."""

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

from ..throwaway import Throwaway
from .conftest import LOOPBACK, Serve, Server, send
from .test_cli import composerd
from .test_tls import Files

row = pytest.mark.row
TABLE = "Settings"


def children(pid: int) -> list[int]:
    """The processes that a process has started and that live."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append(int(stat.parent.name))
    return sorted(found)


def lives(pid: int) -> bool:
    """Whether there is such a process."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


async def which(server: Server) -> str:
    """The number of the process that answers a new connection."""
    async with aiohttp.ClientSession() as http, http.get(f"{server.url}/metrics") as answer:
        (number,) = set(re.findall(r'composerd_waits\{process="(\d+)"\}', await answer.text()))
        return str(number)


async def several(serve: Serve, postgres: Throwaway, count: int, *options: str) -> Server:
    """A server of so many processes."""
    server = await serve("--processes", str(count), *options, storage=postgres.fresh())
    assert len(children(server.pid)) == count
    return server


@row(TABLE, "--processes")
async def test_they_share_the_work(serve: Serve, newest_postgres: Throwaway) -> None:
    """Each connection is one process's, and they have about as many each; a job submitted to any is handed out by any."""
    server = await several(serve, newest_postgres, 3)
    asked = Counter([await which(server) for _ in range(150)])
    assert set(asked) == {"0", "1", "2"}
    assert min(asked.values()) >= 25  # 50 each; less happens once in a million times
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
    """SIGTERM answers every wait, of all of them, and ends all in time, without a failure; so does SIGINT to the whole group."""
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
    """Wait until so many requests wait, in all processes together."""

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
    """A process that is killed is started again, the other serves meanwhile; its number and how it ended are logged."""
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
    """It is started again ever later, and the end does not wait for that."""
    server = await several(serve, newest_postgres, 2)
    _, steady = children(server.pid)

    async def long() -> bool:
        for pid in children(server.pid):
            if pid != steady:
                os.kill(pid, signal.SIGKILL)
        return b"restarting it in 1.6 s" in server.log

    await server.until(long)
    assert re.findall(rb"restarting it in (\S+) s", server.log) == [b"0.2", b"0.4", b"0.8", b"1.6"]
    server.kill(signal.SIGTERM)
    assert await server.exited() == 0


async def test_the_supervisor_dies(serve: Serve, newest_postgres: Throwaway) -> None:
    """Its processes notice, answer who waits, and end; the next start is on the same port at once."""
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
    """What several processes share is not shared with a second server: it is told, in one sentence."""
    server = await several(serve, newest_postgres, 2)
    for count in ("1", "2"):
        told = await composerd(
            "serve", "--storage", server.storage, "--processes", count, "--listen", "{}:{}".format(*server.address)
        )
        assert (told.code, told.out) == (2, "")
        assert told.err.endswith("Address already in use\n")
        assert told.err.count("\n") == 1


async def test_starts_that_fail(newest_postgres: Throwaway, tmp_path: Path) -> None:
    """A storage that is one process's own, and what stops the first process, are said once; nothing is left running."""
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
    assert told.err.count("\n") == 2, told.err  # what it was, and that process 0 has ended
    assert "process 0 ended with exit code 2 before it was ready" in told.err


async def test_certificates_of_all(serve: Serve, newest_postgres: Throwaway, tmp_path: Path) -> None:
    """SIGHUP lets all of them meet new connections with the new certificate."""
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
    """It is shared, outlives one process's death, and its file goes with the server."""
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
    """Each line says which process it is of; the supervisor's own say none."""
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
    """What a process counts of itself is labelled; what is in the storage is not."""
    server = await several(serve, newest_postgres, 2)
    await server.submit()
    text = (await send(server, "GET", "/metrics"))[2].decode()
    samples = [line for line in text.splitlines() if line and not line.startswith("#")]
    for sample in samples:
        assert ('process="' in sample) != sample.startswith("composerd_jobs{"), sample
    assert 'composerd_jobs{state="ready"} 1.0' in text


async def test_a_database_that_is_not_there(serve: Serve, own_postgres: Throwaway) -> None:
    """They serve without it, not ready, until it is there."""
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
    """It is tried again as often as one that failed a few times."""
    supervisor = Supervisor(load({"storage": "postgresql:///composerd", "processes": "2"}, {}, None))
    process = supervisor._processes[0]
    process.failures = 100_000
    supervisor._schedule_restart(process)
    assert process.start_at - time.monotonic() <= RESTART_AFTER_AT_MOST

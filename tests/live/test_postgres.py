"""Several servers on one PostgreSQL database: news between them, outages, failover, starts and stops."""

import asyncio
import re
import signal
import sys
import time
from pathlib import Path

import psycopg2
import pytest

from composerd_postgres.sql.migrate import LOCK

from ..throwaway import Throwaway
from .conftest import COMPOSER, LOOPBACK, WORKER, Serve, Server, send, until_waiting

AT_ONCE = 3.0
"""A time in seconds in which news of another server arrive; a wait without news re-checks after 5 s."""

NO_SWEEP = ("--sweep-interval", "1m")
"""Options of a server in which only news, and no sweep, end a wait in time."""

SOON = 4.0
"""A time in seconds that is longer than a second try, and shorter than the 5 s until the next sweep."""


async def test_three_servers_are_one_queue(serve: Serve, postgres: Throwaway) -> None:
    """A job that is submitted to one server wakes a worker that waits at another; its end wakes a client at a third."""
    url = postgres.fresh()
    first, second, third = [await serve(*NO_SWEEP, storage=url) for _ in range(3)]
    waiting = asyncio.create_task(second.ask())
    await until_waiting(second, 1)
    began = time.monotonic()
    job = await first.submit(args={"n": 1})
    taken = await waiting
    assert time.monotonic() - began < AT_ONCE
    assert taken is not None
    assert (taken["id"], taken["args"]) == (job["id"], {"n": 1})
    end = asyncio.create_task(third.job(job["id"], wait="30s"))
    await until_waiting(third, 1)
    began = time.monotonic()
    assert (await first.finish(taken, {"done": True}))[0] == 200
    assert (await end)["result"] == {"done": True}
    assert time.monotonic() - began < AT_ONCE


async def test_a_cancel_reaches_the_worker_of_another_server(serve: Serve, newest_postgres: Throwaway) -> None:
    """A cancellation at one server immediately wakes a worker that watches its attempt at another."""
    url = newest_postgres.fresh()
    first, second = [await serve(*NO_SWEEP, storage=url) for _ in range(2)]
    job = await first.submit()
    taken = await second.ask()
    assert taken is not None
    watching = asyncio.create_task(second.request("GET", taken["location"] + "?wait=30s"))
    await until_waiting(second, 1)
    began = time.monotonic()
    assert (await first.request("POST", f"{COMPOSER}/jobs/{job['id']}/cancel"))[0] == 200
    assert (await watching)[1]["canceled"] is True
    assert time.monotonic() - began < AT_ONCE


async def test_artifacts_in_a_shared_directory(serve: Serve, newest_postgres: Throwaway, tmp_path: Path) -> None:
    """A file that was uploaded to one server can be downloaded from all, also from one that started meanwhile."""
    url, files = newest_postgres.fresh(), str(tmp_path / "files")
    first, second = [await serve("--artifacts", files, storage=url) for _ in range(2)]
    job = await first.submit()
    taken = await second.ask()
    assert taken is not None
    assert (await send(first, "PUT", taken["artifact_location"] + "a", b"x" * 100_000))[0] == 200
    third = await serve("--artifacts", files, storage=url)  # its first sweep keeps the files of a running attempt
    assert (await third.finish(taken, None))[0] == 200
    for server in (first, second, third):
        assert (await send(server, "GET", f"{COMPOSER}/jobs/{job['id']}/artifacts/a"))[2] == b"x" * 100_000


async def test_an_upload_to_one_of_two_servers(serve: Serve, newest_postgres: Throwaway, tmp_path: Path) -> None:
    """Uploads to two servers keep the limits together, and one ends when another server ends its attempt."""
    url, options = newest_postgres.fresh(), ("--artifacts", str(tmp_path / "files"), "--max-artifacts", "3")
    first, second = [await serve(*NO_SWEEP, *options, storage=url) for _ in range(2)]
    job = await first.submit()
    taken = await second.ask()
    assert taken is not None
    path = taken["artifact_location"]
    uploads = [send((first, second)[n % 2], "PUT", f"{path}{n}", b"x") for n in range(8)]
    statuses = [status for status, _, _ in await asyncio.gather(*uploads)]
    assert sorted(statuses) == [200] * 3 + [413] * 5
    _, writer = stalled = await asyncio.open_connection(*second.address)
    replacing = f"PUT {path}{statuses.index(200)} HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"
    writer.write(replacing.encode() + bytes(300_000))

    async def is_uploading() -> bool:
        return any((tmp_path / "files").rglob("*.part"))

    await second.until(is_uploading)
    began = time.monotonic()
    assert (await first.request("POST", f"{COMPOSER}/jobs/{job['id']}/cancel"))[0] == 200
    assert (await stalled[0].readline()).split()[1] == b"400"
    assert time.monotonic() - began < AT_ONCE
    writer.close()


async def test_the_database_is_down_at_the_start(serve: Serve, own_postgres: Throwaway) -> None:
    """A server that starts without its database answers 503, and works soon after the database is available."""
    url = own_postgres.fresh()
    own_postgres.stop()
    server = await serve(storage=url)
    assert (await server.request("GET", "/healthz"))[0] == 200
    assert (await server.request("GET", "/readyz"))[0] == 503
    assert server._http is not None
    async with server._http.post(f"{server.url}{COMPOSER}/jobs", json={"type": "build"}) as response:
        assert response.status == 503
        assert "Retry-After" not in response.headers  # some clients would repeat the request without end
    async with server._http.get(f"{server.url}{COMPOSER}/jobs") as response:
        assert response.status == 503
        assert int(response.headers["Retry-After"]) > 0
        assert (await response.json())["id"] == "28"
    own_postgres.start()
    await server.until(lambda: _is(server, "/readyz", 200), SOON)
    job = await server.submit()
    taken = await server.ask()
    assert taken is not None
    assert taken["id"] == job["id"]
    assert b"Traceback" not in server.log, server.log.decode()


async def test_a_newer_schema_ends_a_late_start(serve: Serve, own_postgres: Throwaway) -> None:
    """A server that waited for its database and then finds the schema of a later composerd stops, and says why."""
    url = own_postgres.url(schema="later")
    own_postgres.sql(
        "CREATE SCHEMA later; CREATE TABLE later.migrations (number integer, name text, composerd text); "
        "INSERT INTO later.migrations VALUES (999, 'later', '9.9')"
    )
    own_postgres.stop(signal.SIGTERM)
    server = await serve(storage=url)
    own_postgres.start()
    assert await server.exited() == 2
    assert b"needs composerd 9.9 or newer" in server.log


async def test_a_restart_of_the_database(serve: Serve, own_postgres: Throwaway) -> None:
    """A worker that waits during a restart of the database gets a job soon after it, and no attempt is lost."""
    url = own_postgres.fresh()
    first, second = [await serve(storage=url) for _ in range(2)]
    await first.submit(type="other")
    running = await first.ask("other")
    assert running is not None
    waiting = asyncio.create_task(second.ask(wait="60s"))
    await second.until(lambda: _claimed(second, 1))
    own_postgres.stop()
    status, body = await first.request("POST", f"{COMPOSER}/jobs", {"type": "build"})
    assert (status, body["id"]) == (503, "28")
    for _ in range(3):
        body = {"types": ["build"], "arch": "x86_64"}
        assert (await first.request("POST", f"{WORKER}/jobs?wait=0s", body))[0] == 503
    own_postgres.start()
    returned = time.monotonic()
    await first.until(lambda: _submitted(first), SOON)
    taken = await waiting
    assert time.monotonic() - returned < SOON
    assert taken is not None
    assert (await second.finish(running))[0] == 200
    assert first.log.count(b"the storage does not answer") == 1
    assert b"undelivered" not in first.log
    assert b"Traceback" not in first.log + second.log, (first.log + second.log).decode()


async def test_a_failover(serve: Serve, own_postgres: Throwaway) -> None:
    """After the primary dies and a standby is promoted, servers that know both go on; nothing acknowledged is lost."""
    standby = own_postgres.standby()
    try:
        hosts = f"{own_postgres.directory},{standby.directory}"
        url = own_postgres.url(host=hosts, target_session_attrs="read-write", schema="failover")
        first, second = [await serve(storage=url) for _ in range(2)]
        jobs = [await first.submit(type="other", args={"n": n}) for n in range(20)]
        running = await second.ask("other")
        assert running is not None
        waiting = asyncio.create_task(second.ask(wait="60s"))
        await second.until(lambda: _claimed(second, 2))
        own_postgres.stop()
        status, body = await first.request("POST", f"{COMPOSER}/jobs", {"type": "build"})
        assert (status, body["id"]) == (503, "28")
        await first.until(lambda: _is(first, "/readyz", 503))
        standby.sql("SELECT pg_promote()")
        promoted = time.monotonic()
        await first.until(lambda: _submitted(first), SOON)
        taken = await waiting
        assert time.monotonic() - promoted < SOON
        assert taken is not None
        assert (await first.finish(running, {"n": 0}))[0] == 200
        states = [(await second.job(job["id"]))["state"] for job in jobs]
        assert sorted(states) == ["finished", *["ready"] * 19]
        assert b"Traceback" not in first.log + second.log, (first.log + second.log).decode()
    finally:
        standby.remove()


async def test_stopped_while_the_database_hangs(serve: Serve, newest_postgres: Throwaway) -> None:
    """SIGTERM ends a server soon though statements get no answer; unacknowledged outcomes can be repeated."""
    url = newest_postgres.url(schema="hangs")
    server = await serve("--drain-timeout", "3s", storage=url)
    job = await server.submit()
    running = await server.ask()
    assert running is not None
    holder = psycopg2.connect(host=str(newest_postgres.directory), user="tests", dbname="postgres")
    holder.cursor().execute("LOCK TABLE hangs.jobs")
    calls = [asyncio.create_task(call) for call in (server.submit(), server.finish(running, None), server.ask())]
    locked = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    while len(newest_postgres.sql(locked)) < 3:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    began = time.monotonic()
    server.kill(signal.SIGTERM)
    assert await server.exited() == 0
    assert time.monotonic() - began < 10  # and not the 30 s of time_limit, twice
    await asyncio.gather(*calls, return_exceptions=True)
    holder.close()
    assert b"the storage does not answer" in server.log
    assert b"Traceback" not in server.log, server.log.decode()
    again = await serve(storage=url)
    assert (await again.finish(running, None))[0] == 200
    assert (await again.job(job["id"]))["state"] == "finished"


async def test_started_while_the_database_hangs(serve: Serve, newest_postgres: Throwaway) -> None:
    """A server whose start gets no answer serves health checks, can be stopped, and is ready once it gets one."""
    url = newest_postgres.url(schema="late")
    holder = psycopg2.connect(host=str(newest_postgres.directory), user="tests", dbname="postgres")
    holder.cursor().execute(f"SELECT pg_advisory_xact_lock({LOCK})")  # as if another server migrated, and did not end
    first, second = await asyncio.gather(*(serve(storage=url) for _ in range(2)))
    assert await _is(first, "/readyz", 503)
    began = time.monotonic()
    second.kill(signal.SIGTERM)
    assert await second.exited() == 0
    assert time.monotonic() - began < 5
    holder.close()
    await first.until(lambda: _is(first, "/readyz", 200))
    await first.submit()


async def test_a_database_that_does_not_exist(newest_postgres: Throwaway) -> None:
    """A server whose database does not exist exits with 2 and says so, with one process and with several."""
    for processes in ("1", "2"):
        serving = ("serve", "--listen", f"{LOOPBACK}:0", "--processes", processes, "--storage")
        process = await asyncio.create_subprocess_exec(
            *_composerd(*serving, newest_postgres.url("missing")), stderr=asyncio.subprocess.PIPE
        )
        _, err = await asyncio.wait_for(process.communicate(), 20)
        assert process.returncode == 2
        assert b"composerd: the database missing at" in err
        assert b'database "missing" does not exist' in err
        assert b"Traceback" not in err


@pytest.mark.parametrize("command", ["migrate", "storage info", "storage check"])
async def test_commands(newest_postgres: Throwaway, command: str, serve: Serve) -> None:
    """The commands for storages accept a PostgreSQL URL."""
    url = newest_postgres.fresh()
    server = await serve(storage=url)
    await server.submit()
    process = await asyncio.create_subprocess_exec(
        *_composerd(*command.split(), "--storage", url), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err
    if command == "storage info":
        assert b"PostgreSQL" in out


def _composerd(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "composerd.cli.main", *arguments)


async def _claimed(server: Server, count: int) -> bool:
    """Return True if the storage has answered at least this many claims."""
    _, text = await server.request("GET", "/metrics")
    answered = re.search(rb'^composerd_storage_seconds_count\{method="claim"\} (\S+)$', text, re.MULTILINE)
    return answered is not None and float(answered[1]) >= count


async def _is(server: Server, path: str, status: int) -> bool:
    return (await server.request("GET", path))[0] == status


async def _submitted(server: Server) -> bool:
    return (await server.request("POST", f"{COMPOSER}/jobs", {"type": "build"}))[0] == 201

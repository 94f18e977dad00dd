"""A storage that hangs behind a real server: when clients have an answer, which one, and what the log says."""

import asyncio
import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest

from ..throwaway import Throwaway
from .conftest import COMPOSER, Serve, Server

TIME_LIMIT = 1.0

SLACK = 2.0
"""Time in seconds that a busy machine may take in addition."""

BEGINS = "the storage does not answer: requests that need it fail until it does"
ENDS = "the storage answers again after"


@contextlib.contextmanager
def locked(postgres: Throwaway, schema: str) -> Iterator[None]:
    """Let every statement that needs jobs wait, for the length of a block."""
    connection = psycopg2.connect(host=str(postgres.directory), user="tests", dbname="postgres")
    with connection.cursor() as cursor:
        cursor.execute(f"LOCK TABLE {schema}.jobs, {schema}.leases IN ACCESS EXCLUSIVE MODE")
        yield
    connection.close()


@contextlib.contextmanager
def _stopped(postgres: Throwaway, _schema: str) -> Iterator[None]:
    serving = (
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'composerd' AND backend_type = 'client backend'"
    )
    pids = [pid for (pid,) in postgres.sql(serving)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def _unconfirmed(postgres: Throwaway, _schema: str) -> Iterator[None]:
    with postgres.commits_that_hang():
        yield


async def _timed(server: Server, method: str, path: str, body: Any = None) -> tuple[float, int, Any]:
    """Return how long an answer took, its status and its body."""
    began = time.monotonic()
    status, answer = await server.request(method, path, body)
    return time.monotonic() - began, status, answer


def _lines(server: Server, *levels: str) -> list[str]:
    return [line for line in server.log.decode().splitlines() if any(f" {level} " in f" {line} " for level in levels)]


@pytest.mark.parametrize("hang", [locked, _stopped, _unconfirmed])
async def test_a_database_that_hangs(serve: Serve, newest_postgres: Throwaway, hang: Any) -> None:
    """Twenty submissions at once have their answers within twice `time_limit`, and the log has one line."""
    storage = newest_postgres.fresh(time_limit=f"{TIME_LIMIT}s")
    match = re.search(r"schema=(\w+)", storage)
    assert match is not None
    server = await serve("--sweep-interval", "1h", storage=storage)
    first = await server.submit()
    taken = await server.ask()
    assert taken is not None
    server.forget_log()
    with hang(newest_postgres, match[1]):
        posts = [_timed(server, "POST", f"{COMPOSER}/jobs", {"type": "other"}) for _ in range(20)]
        others = [
            _timed(server, "GET", taken["location"]),
            _timed(server, "POST", f"{COMPOSER}/jobs/{first['id']}/cancel"),
            _timed(server, "GET", f"{COMPOSER}/jobs/{first['id']}"),
            _timed(server, "GET", f"{COMPOSER}/jobs/{first['id']}?wait=1s"),
            _timed(server, "GET", f"{COMPOSER}/jobs"),
        ]
        answers = await asyncio.gather(*posts, *others)
        assert max(took for took, _, _ in answers) < 2 * TIME_LIMIT + SLACK
        statuses = {status for _, status, _ in answers[:20]}
        assert statuses <= ({504} if hang is _unconfirmed else {503, 201})
        if hang is not _stopped:  # where new connections work, the outage may be over or not have been noticed
            assert [BEGINS in line for line in _lines(server, "WARNING", "ERROR")] == [True], server.log

    async def submitted() -> bool:
        return (await server.request("POST", f"{COMPOSER}/jobs", {"type": "last"}))[0] == 201

    await server.until(submitted)

    async def ended() -> bool:
        await server.submit("another")
        lines = _lines(server, "WARNING", "ERROR")
        return not lines or ENDS in lines[-1]

    await server.until(ended)
    lines = _lines(server, "WARNING", "ERROR")
    assert [BEGINS in line for line in lines] == [True, False][: len(lines)], server.log
    assert b"Traceback" not in server.log
    assert await server.ask("last") is not None


@pytest.mark.row("Errors of the worker API", "40")
@pytest.mark.row("Errors of the composer API", "40")
async def test_commits_that_hang(serve: Serve, newest_postgres: Throwaway) -> None:
    """A change of unknown outcome is error 40 and may be stored; a repetition finds it, and `/readyz` says why."""
    server = await serve(storage=newest_postgres.fresh(time_limit="5s"))
    await server.submit("earlier")
    taken = await server.ask("earlier")
    assert taken is not None

    async def ready() -> bool:
        return (await server.request("GET", "/readyz"))[0] == 200

    with newest_postgres.commits_that_hang():
        keyless = asyncio.create_task(server.request("POST", f"{COMPOSER}/jobs", {"type": "keyless"}))

        async def committing() -> bool:
            waits = "SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name = 'composerd'"
            return bool(newest_postgres.sql(waits))

        await server.until(committing)
        keyed = asyncio.create_task(
            server.request("POST", f"{COMPOSER}/jobs", {"type": "keyed", "idempotency_key": "k"})
        )

        async def unready() -> bool:
            status, text = await server.request("GET", "/readyz")
            return status == 503 and b"a write has had no answer for" in text

        finishing = asyncio.create_task(server.finish(taken, {"n": 1}))
        await server.until(unready, 5)
        for one in (keyless, keyed, finishing):
            status, answer = await one
            assert (status, answer["id"]) == (504, "40")
        assert not await ready()
    await server.until(ready)
    assert (await server.finish(taken, {"n": 1}))[0] == 200
    _, page = await server.request("GET", f"{COMPOSER}/jobs?type=keyless")
    assert len(page["items"]) == 1
    status, job = await server.request("POST", f"{COMPOSER}/jobs", {"type": "keyed", "idempotency_key": "k"})
    assert status in (200, 201)
    _, page = await server.request("GET", f"{COMPOSER}/jobs?type=keyed")
    assert [one["id"] for one in page["items"]] == [job["id"]]


async def test_an_outage_ends_no_attempt(serve: Serve, own_postgres: Throwaway) -> None:
    """A worker that heartbeats through an outage longer than its lease keeps its job; a lost one comes back later."""
    lease = 2.0
    server = await serve("--heartbeat-timeout", f"{lease}s", storage=own_postgres.fresh(connect_timeout="1"))
    await server.submit("kept")
    await server.submit("lost")
    kept, lost = await server.ask("kept"), await server.ask("lost")
    assert kept is not None
    assert lost is not None
    own_postgres.stop()
    await asyncio.sleep(1.5 * lease)  # the outage lasts for longer than a lease
    own_postgres.start()

    async def ended() -> bool:
        return ENDS.encode() in server.log

    await server.until(ended)
    await asyncio.sleep(lease / 4)  # the worker does not notice at once that the storage answers again
    again = asyncio.create_task(server.ask("lost", wait="30s"))
    while not again.done():
        status, attempt = await server.request("GET", kept["location"])
        assert status == 503 or not attempt["canceled"]
        await asyncio.sleep(lease / 10)
    requeued = await again
    assert requeued is not None
    assert requeued["id"] == lost["id"]
    assert (await server.finish(kept, {}))[0] == 200

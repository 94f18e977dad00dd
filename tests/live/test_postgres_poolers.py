"""Several servers on one PostgreSQL database behind a real PgBouncer, in each of its modes."""

import asyncio
import time

from ..throwaway import Throwaway
from .conftest import Serve, Server, until_waiting

SOON = 4.0
"""A time in seconds that is shorter than the 5 s until the next sweep."""


async def test_through_a_pooler(serve: Serve, newest_postgres: Throwaway, pgbouncer: str) -> None:
    """Behind a pooler in transaction mode, changes of another server are found by a re-check every `poll`.

    Statements of many connections alternate on two sessions of the database, and every answer is correct.
    """
    with newest_postgres.pooler(pgbouncer) as port:
        url = newest_postgres.fresh(port=str(port), pooler="yes", poll="100ms")
        first, second = await asyncio.gather(*(serve(storage=url) for _ in range(2)))
        waiting = [asyncio.create_task(second.ask()) for _ in range(20)]
        await until_waiting(second, 20)
        jobs = await asyncio.gather(*(first.submit(args={"n": n}) for n in range(20)))
        taken = await asyncio.wait_for(asyncio.gather(*waiting), SOON)
        assert {job["id"] for job in taken if job is not None} == {job["id"] for job in jobs}
        finished = await asyncio.gather(*(first.finish(job, {"of": job["args"]}) for job in taken if job is not None))
        assert [status for status, _ in finished] == [200] * 20
        for n, job in enumerate(jobs):
            assert (await second.job(job["id"]))["result"] == {"of": {"n": n}}


async def test_a_pooler_that_nobody_mentioned(serve: Serve, newest_postgres: Throwaway, pgbouncer: str) -> None:
    """Servers that do not know of their pooler in transaction mode say so, and look for each other's changes."""
    with newest_postgres.pooler(pgbouncer, ignore_startup_parameters="options") as port:
        url = newest_postgres.fresh(port=str(port), poll="100ms")
        first, second = await asyncio.gather(*(serve(storage=url) for _ in range(2)))
        for server in (first, second):
            await server.until(lambda server=server: _said(server, b"add pooler=yes to the storage URL"))  # type: ignore[misc]
        waiting = asyncio.create_task(second.ask())
        await until_waiting(second, 1)
        job = await first.submit()
        taken = await asyncio.wait_for(waiting, 1.5)
        assert taken is not None
        assert taken["id"] == job["id"]
        assert b"ERROR" in first.log
        assert first.log.count(b"pooler=yes") == 1


async def _said(server: Server, text: bytes) -> bool:
    return text in server.log


async def test_a_session_pool_that_is_too_small(serve: Serve, newest_postgres: Throwaway, pgbouncer: str) -> None:
    """Two servers share a pooler in session mode with three connections, of which each keeps one for notifications."""
    with newest_postgres.pooler(
        pgbouncer, "session", default_pool_size="3", ignore_startup_parameters="options"
    ) as port:
        url = newest_postgres.fresh(port=str(port))
        servers = [await serve(storage=url) for _ in range(2)]
        began = time.monotonic()
        await asyncio.gather(*(_run_jobs(server, 10) for server in servers for _ in range(3)))
        assert time.monotonic() - began < 10
        for server in servers:
            assert (await server.request("GET", "/readyz"))[0] == 200


async def _run_jobs(server: Server, count: int) -> None:
    """Submit jobs and run them, one after another."""
    for _ in range(count):
        await server.submit()
        job = await server.ask()
        assert job is not None
        assert (await server.finish(job))[0] == 200


async def test_a_session_pool_without_a_free_connection(
    serve: Serve, newest_postgres: Throwaway, pgbouncer: str
) -> None:
    """A server that gets no connection from the pooler says so in /readyz, and is ready once there is one."""
    with newest_postgres.pooler(
        pgbouncer, "session", default_pool_size="2", ignore_startup_parameters="options"
    ) as port:
        url = newest_postgres.fresh(port=str(port))
        first = await serve(storage=url)
        await first.submit()
        second = await serve(storage=url)
        await second.until(lambda: _is_ready(second, 503), 15)
        await first.close()
        await second.until(lambda: _is_ready(second, 200), 10)


async def _is_ready(server: Server, status: int) -> bool:
    return (await server.request("GET", "/readyz"))[0] == status

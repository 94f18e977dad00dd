"""Calls of one kind that keep the database busy, and the heartbeats of workers on the same database."""

import asyncio
import contextlib
from collections.abc import Callable

import psycopg2

from ..throwaway import Throwaway
from .conftest import COMPOSER, WORKER, Client, Serve


async def test_listings_keep_no_heartbeat(
    newest_postgres: Throwaway, serve: Serve, client: Callable[..., Client]
) -> None:
    """While more listings, and submissions, than there are connections wait for a lock, a heartbeat is answered."""
    url = newest_postgres.fresh(connections="4", time_limit="20s")
    schema = url.partition("schema=")[2].partition("&")[0]
    server = await serve(storage=url)
    worker, *greedy = [client(server) for _ in range(9)]
    assert (await worker.request("POST", f"{COMPOSER}/jobs", {"type": "build"}))[0] == 201
    status, got = await worker.request("POST", f"{WORKER}/jobs?wait=20s", {"types": ["build"], "arch": "x86_64"})
    assert status == 201, got
    locked_out = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with contextlib.closing(
        psycopg2.connect(host=str(newest_postgres.directory), user="tests", dbname="postgres")
    ) as one:
        one.cursor().execute(f"LOCK TABLE {schema}.jobs IN ACCESS EXCLUSIVE MODE")
        waiting = [
            asyncio.create_task(
                each.request("POST", f"{COMPOSER}/jobs", {"type": "other"})
                if number % 2
                else each.request("GET", f"{COMPOSER}/jobs?limit=10")
            )
            for number, each in enumerate(greedy)
        ]
        while len(newest_postgres.sql(locked_out)) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        for _ in range(5):
            async with asyncio.timeout(5):
                assert (await worker.request("GET", got["location"]))[0] == 200
            await asyncio.sleep(0.05)
    for status, _ in await asyncio.gather(*waiting):
        assert status in (200, 201)

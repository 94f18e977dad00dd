"""Servers behind Pgpool-II, which sends what it can to a standby that lags, and caches what it has read."""

import asyncio

from composerd_postgres.db.pool import Connections
from composerd_postgres.db.url import parse

from ..pgpool import PORT, behind_pgpool, queries_of_the_standby
from ..throwaway import Throwaway
from .conftest import COMPOSER, Serve

JOBS = 10
"""Number of jobs, each with a dependent."""


async def test_nothing_is_read_from_a_standby_that_lags(serve: Serve, own_postgres: Throwaway, pgpool: str) -> None:
    """Two servers on an empty database answer with what was written, not with what the standby has so far."""
    with behind_pgpool(pgpool, own_postgres):
        url = own_postgres.fresh(port=str(PORT), connections="3")
        first, second = [await serve(storage=url) for _ in range(2)]
        jobs = [await first.submit(args={"n": n}) for n in range(JOBS)]
        for n, job in enumerate(jobs):
            await first.submit("after", args=["of", n], dependencies=[job["id"]])
        for _ in range(JOBS):
            taken = await second.ask()
            assert taken is not None
            result = {"of": taken["args"]}
            assert (await second.finish(taken, result))[0] == 200
            for server in (first, second):
                assert (await server.job(taken["id"]))["result"] == result
                assert await server.request("GET", f"{COMPOSER}/jobs/{taken['id']}/result") == (200, result)
                assert (await server.request("GET", f"{COMPOSER}/jobs/{taken['id']}/args"))[1] == taken["args"]
            listed = (await second.request("GET", f"{COMPOSER}/jobs?state=finished"))[1]["items"]
            assert taken["id"] in {job["id"] for job in listed}
            dependent = await first.ask("after")
            assert dependent is not None
            assert dependent["dynamic_args"] == [result]
            assert (await first.finish(dependent, None))[0] == 200
        assert queries_of_the_standby(own_postgres) == 0
        await asyncio.gather(*(server.close() for server in (first, second)))


async def test_nothing_is_read_from_a_cache(own_postgres: Throwaway, pgpool: str) -> None:
    """A statement reads what was written by something that Pgpool-II does not see, such as a function."""
    own_postgres.sql("CREATE TABLE seen (n integer)")
    with behind_pgpool(pgpool, own_postgres):
        connection = await Connections(parse(own_postgres.url(port=str(PORT)))).dedicated()
        for written in range(3):
            for _ in range(2):
                assert await connection.fetch("SELECT count(*) FROM seen", {}) == [(written,)]
            own_postgres.sql("INSERT INTO seen VALUES (1)")
        connection.close()

"""The same history gives the same answers on PostgreSQL as in memory, with restarts and killed connections in between."""

import contextlib
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from composerd.errors import ComposerdError
from composerd.models import NewJob
from composerd_fs import MemoryDriver
from composerd_postgres import PostgresDriver

from ..throwaway import Throwaway
from .test_same_history import CHANGE, History

STEP = st.one_of(
    CHANGE,
    CHANGE,
    CHANGE,
    CHANGE,
    st.tuples(st.just("restart"), st.none()),
    st.tuples(st.just("kill"), st.none()),
)

KILL = (
    "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity "
    "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
)

TABLES = "jobs, args, results, edges, attempts, leases, artifacts, progress, workers"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEP, min_size=5, max_size=40))
async def test_postgres_and_memory_agree(newest_postgres: Throwaway, steps: list[tuple[str, Any]]) -> None:
    """Every answer, and all that is stored, is the same in PostgreSQL and in memory, whatever happens to the connections."""
    url = newest_postgres.url(schema="history")
    here, memory = History(await _opened(url)), History(MemoryDriver.from_url("memory:"))
    newest_postgres.sql(f"SET search_path TO history; TRUNCATE {TABLES}")
    await memory.driver.start()
    try:
        for kind, what in steps:
            if kind == "restart":
                if any(job.job.state == "running" for job in [one async for one in here.driver.dump()]):
                    continue  # a start gives them a new lease, which memory has no way to do
                await here.driver.close()
                here.driver = await _opened(url, here.shifted)
            elif kind == "kill":
                newest_postgres.sql(KILL)
                with contextlib.suppress(ComposerdError):  # the same as what memory does with it: nothing
                    await here.driver.enqueue(
                        [[NewJob(id=here.pick([], 0), type="t", dependencies=(here.pick([], 0),))]]
                    )
            else:
                assert await here.do(kind, what) == await memory.do(kind, what)
                assert await here.everything() == await memory.everything()
        assert (await here.driver.check()).problems == ()
    finally:
        await here.driver.close()
        await memory.driver.close()


async def _opened(url: str, shifted: float = 0.0) -> PostgresDriver:
    driver = PostgresDriver.from_url(url)
    await driver.shift_clock(shifted)
    await driver.start()
    return driver

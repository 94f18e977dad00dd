"""Reading a storage without changing it: by a role that may only read, on a standby, and beside a server."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

from composerd.models import JobFilter, JobState
from composerd.testing.kit.instance import Instance, add_jobs_in_every_state
from composerd_postgres import PostgresDriver

from ...throwaway import Throwaway
from ..conftest import created

TABLES = "SELECT table_name FROM information_schema.tables WHERE table_schema = '{}' AND table_type = 'BASE TABLE'"


@contextlib.contextmanager
def reader(postgres: Throwaway, schema: str) -> Iterator[str]:
    """Provide the URL of a role that has the documented rights of one that reads."""
    postgres.sql("CREATE ROLE reader LOGIN")
    postgres.sql(f"GRANT USAGE ON SCHEMA {schema} TO reader")
    postgres.sql(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO reader")
    postgres.sql(f"REVOKE SELECT ON {schema}.secret FROM reader")
    postgres.sql(f"GRANT SELECT ON SEQUENCE {schema}.places TO reader")
    try:
        yield f"postgresql:///postgres?host={postgres.directory}&user=reader&schema={schema}"
    finally:
        postgres.sql("DROP OWNED BY reader; DROP ROLE reader")


def rows(postgres: Throwaway, schema: str) -> dict[str, list[Any]]:
    """Return everything in the tables of a schema, with the transactions that wrote it."""
    tables = [name for (name,) in postgres.sql(TABLES.format(schema))]
    return {name: postgres.sql(f"SELECT t.xmin, t.* FROM {schema}.{name} t ORDER BY t::text") for name in tables}


async def test_a_role_that_may_only_read(newest_postgres: Throwaway) -> None:
    """A role that may read the tables can check, count and dump the storage, and nothing in it changes."""
    driver = await created(newest_postgres.fresh())
    await driver.start()
    await add_jobs_in_every_state(Instance(driver, lambda: PostgresDriver(driver.options)))
    counted = (await driver.info()).jobs
    expected = [job async for job in driver.dump()]
    await driver.close()
    schema = driver.options.schema
    before = rows(newest_postgres, schema)
    with reader(newest_postgres, schema) as url:
        check = await PostgresDriver.from_url(url).check()
        assert (check.problems, check.jobs) == ((), counted)
        reading = PostgresDriver.from_url(url)
        await reading.start_reading()
        assert (await reading.info()).jobs == counted
        assert [job async for job in reading.dump()] == expected
        ids = [job.id for job in (await reading.list(JobFilter(), None, 1000)).jobs]
        assert len(await reading.artifacts(ids)) == len(ids)
        await reading.close()
    assert rows(newest_postgres, schema) == before


async def test_a_sequence_that_was_left_behind(newest_postgres: Throwaway) -> None:
    """A reader does not set the sequence of the jobs, and does not give leases their time back."""
    driver = await created(newest_postgres.fresh())
    await driver.start()
    instance = Instance(driver, lambda: PostgresDriver(driver.options))
    await instance.take(await instance.add())
    await driver.close()
    schema = driver.options.schema
    newest_postgres.sql(f"SELECT setval('{schema}.places', 1, false)")
    before = rows(newest_postgres, schema)
    reading = PostgresDriver(driver.options)
    await reading.shift_clock(7200.0)
    await reading.start_reading()
    assert (await reading.info()).jobs[JobState.RUNNING] == 1
    await reading.close()
    assert rows(newest_postgres, schema) == before
    assert newest_postgres.sql(f"SELECT last_value, is_called FROM {schema}.places") == [(1, False)]


async def test_a_standby(own_postgres: Throwaway) -> None:
    """A standby can be checked and looked at, although it accepts no writes."""
    standby = own_postgres.standby()
    try:
        driver = await created(own_postgres.fresh())
        await driver.start()
        job_id = await Instance(driver, lambda: PostgresDriver(driver.options)).add()
        await driver.close()
        there = standby.url(schema=driver.options.schema)
        while not await asyncio.to_thread(_has_jobs, standby, driver.options.schema):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert (await PostgresDriver.from_url(there).check()).problems == ()
        reading = PostgresDriver.from_url(there)
        await reading.start_reading()
        assert [job.id for job in (await reading.list(JobFilter(), None, 10)).jobs] == [job_id]
        assert await reading.artifacts([job_id]) == [()]
        assert (await reading.info()).jobs[JobState.READY] == 1
        await reading.close()
    finally:
        standby.remove()


def _has_jobs(postgres: Throwaway, schema: str) -> bool:
    """Return whether the tables of a schema have been copied to a standby, with a job."""
    exists = postgres.sql(f"SELECT to_regclass('{schema}.jobs') IS NOT NULL") == [(True,)]
    return exists and bool(postgres.sql(f"SELECT FROM {schema}.jobs"))

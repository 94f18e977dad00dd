"""What replication asks of the tables, and what it leaves behind."""

import asyncio

from composerd.models import JobState
from composerd.testing.kit.instance import Instance, add_jobs_in_every_state
from composerd_postgres import PostgresDriver

from ...throwaway import Throwaway


async def test_a_publication_of_all_tables(postgres: Throwaway) -> None:
    """While a publication contains all tables, a start and every call that writes work."""
    database = postgres.fresh_database()
    postgres.sql("CREATE PUBLICATION everything FOR ALL TABLES", database)
    driver = PostgresDriver.from_url(postgres.url(database))
    await driver.start()
    instance = Instance(driver, lambda: PostgresDriver(driver.options))
    await add_jobs_in_every_state(instance)
    short = await instance.add(retention=1.0, priority=99)
    token = await instance.take(short, lease=10.0)
    await instance.touch(token, b"{}")
    assert short in await instance.pass_time(11.0)
    assert await instance.state(short) is JobState.READY
    await instance.reopen()
    await instance.end(short)
    await instance.shift(10.0)
    assert (await instance.driver.purge(100)).items == [short]
    await instance.empty()
    await instance.close()
    await asyncio.to_thread(postgres.drop_database, database)


async def test_every_table_has_a_primary_key(newest_postgres: Throwaway) -> None:
    """Every table that replication can contain has a primary key, which identifies its rows to a subscriber."""
    driver = PostgresDriver.from_url(newest_postgres.fresh())
    await driver.migrate()
    without = (
        "SELECT c.relname FROM pg_class c WHERE c.relkind = 'r' AND c.relpersistence = 'p' "
        f"AND c.relnamespace = '{driver.options.schema}'::regnamespace "
        "AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)"
    )
    assert newest_postgres.sql(without) == []

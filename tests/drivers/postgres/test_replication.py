"""The demands of replication on the tables, and the state in which it leaves them."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

import pytest

from composerd.models import JobFilter, JobState
from composerd.testing.kit.instance import Instance, add_jobs_in_every_state
from composerd_postgres import PostgresDriver

from ...throwaway import Throwaway
from ..conftest import Open, created

Fill = Callable[[Instance], Awaitable[None]]


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
    driver = await created(newest_postgres.fresh())
    without = (
        "SELECT c.relname FROM pg_class c WHERE c.relkind = 'r' AND c.relpersistence = 'p' "
        f"AND c.relnamespace = '{driver.options.schema}'::regnamespace "
        "AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)"
    )
    assert newest_postgres.sql(without) == []


async def _moved(publisher: Throwaway, subscriber: Throwaway, fill: Fill) -> str:
    """Fill a storage, move it to another server by logical replication, and return the URL of the moved one."""
    origin, target = publisher.fresh_database(), subscriber.fresh_database()
    source = PostgresDriver.from_url(publisher.url(origin))
    await source.start()
    await fill(Instance(source, lambda: PostgresDriver(source.options)))
    await source.close()
    await created(subscriber.url(target))
    subscriber.sql("TRUNCATE composerd.clock, composerd.migrations", target)
    publisher.sql("CREATE PUBLICATION everything FOR ALL TABLES", origin)
    # The slot is created apart, because one server may be both.
    publisher.sql(f"SELECT pg_create_logical_replication_slot('{target}', 'pgoutput')", origin)
    connection = f"host={publisher.directory} user=tests dbname={origin}"
    subscription = f"CREATE SUBSCRIPTION {target} CONNECTION '{connection}' PUBLICATION everything"
    subscriber.sql(f"{subscription} WITH (create_slot = false, slot_name = '{target}')", target)
    while subscriber.sql("SELECT FROM pg_subscription_rel WHERE srsubstate <> 'r'", target):  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    subscriber.sql(f"DROP SUBSCRIPTION {target}", target)
    return subscriber.url(target)


async def test_a_move_by_logical_replication(
    postgres: Throwaway, newest_postgres: Throwaway, caplog: pytest.LogCaptureFixture
) -> None:
    """A storage that was moved to another server accepts submissions at once, and gives later positions to them."""
    returned: list[UUID | None] = []

    async def fill(instance: Instance) -> None:
        jobs = [instance.new() for _ in range(1200)]
        await instance.submit(*jobs)
        returned.extend([(await instance.release(await instance.take())).job_id for _ in range(5)])

    url = await _moved(postgres, newest_postgres, fill)
    driver = PostgresDriver.from_url(url)
    (problem,) = (await driver.check()).problems
    assert "sequence of the jobs is at 0 and behind them, at 1205" in problem
    await driver.start()
    assert "set it from 0 to 1205" in caplog.text
    instance = Instance(driver, lambda: PostgresDriver(driver.options))
    instance._ids = 1_000_000
    new = await instance.add()
    waiting = [await instance.take() for _ in range(1195)]
    assert len(waiting) == 1195
    for expected in (*returned, new):
        await instance.take(expected)
    assert (await driver.check()).problems == ()
    await instance.close()
    caplog.clear()
    await instance.reopen()
    assert "the sequence of the jobs" not in caplog.text
    await instance.close()


async def test_a_sequence_that_falls_behind_meanwhile(open_instance: Open, newest_postgres: Throwaway) -> None:
    """Servers that run while the sequence is set back set it again, and refuse no submission."""
    instances = [await open_instance() for _ in range(2)]
    await instances[0].submit(*[instances[0].new() for _ in range(1000)])
    assert isinstance(instances[0].driver, PostgresDriver)
    newest_postgres.sql(f"SELECT setval('{instances[0].driver.options.schema}.places', 1, false)")
    new = await asyncio.gather(*(instance.add() for instance in instances * 4))
    assert len(set(new)) == len(new)
    page = await instances[0].driver.list(JobFilter(), None, len(new))
    assert {job.id for job in page.jobs} == set(new)

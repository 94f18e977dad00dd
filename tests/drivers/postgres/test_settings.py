"""Settings of roles and databases: those that would cut connections and statements, and those that lose jobs."""

import asyncio
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from composerd_postgres import PostgresDriver
from composerd_postgres.db.durability import dangers, durability

from ...throwaway import Throwaway
from ..conftest import Open


@pytest.fixture
def hasty(postgres: Throwaway) -> Iterator[str]:
    """Return the storage URL of a role whose statements, waits and idle sessions the database ends after 100 ms."""
    postgres.sql("CREATE ROLE hasty LOGIN SUPERUSER")
    limits = ["statement_timeout", "lock_timeout", "idle_session_timeout"]
    if postgres.sql("SELECT FROM pg_settings WHERE name = 'transaction_timeout'"):
        limits.append("transaction_timeout")
    for name in limits:
        postgres.sql(f"ALTER ROLE hasty SET {name} = '100ms'")
    yield postgres.fresh(user="hasty")
    postgres.sql("DROP OWNED BY hasty; DROP ROLE hasty")


async def test_limits_of_a_role(hasty: str, open_instance: Open) -> None:
    """Limits that a role has in the database cut off none of our statements, waits for locks and idle connections."""
    instance = await open_instance(hasty)
    connections = instance.driver._session.connections  # type: ignore[attr-defined]
    watching = instance.driver.watch()
    assert (await anext(watching)).recheck
    news = asyncio.ensure_future(anext(watching))
    async with connections.one() as connection:
        await connection.fetch("BEGIN; SELECT pg_sleep(0.2); COMMIT", {})
        await asyncio.sleep(0.2)
        await connection.fetch("SELECT 1", {})
    assert not news.done()
    news.cancel()
    await asyncio.wait([news])
    await instance.driver.close()


async def test_limits_that_the_url_sets(open_instance: Open, newest_postgres: Throwaway) -> None:
    """Limits that the storage URL itself names are kept."""
    options = "options=-c%20statement_timeout%3D7s%20-c%20transaction_timeout%3D8s"
    instance = await open_instance(f"{newest_postgres.fresh()}&{options}")
    connections = instance.driver._session.connections  # type: ignore[attr-defined]
    asked = "SELECT current_setting('statement_timeout') AS one, current_setting('transaction_timeout') AS other"
    assert await connections.fetch(asked, {}) == [("7s", "8s")]


async def test_a_role_that_may_lose_jobs(newest_postgres: Throwaway, caplog: pytest.LogCaptureFixture) -> None:
    """If settings may lose acknowledged jobs, the start of a server logs which, and info and check only show it."""
    newest_postgres.sql("CREATE ROLE careless LOGIN SUPERUSER")
    newest_postgres.sql("ALTER ROLE careless SET synchronous_commit = off")
    driver = PostgresDriver.from_url(newest_postgres.fresh(user="careless"))
    again = PostgresDriver(driver.options)
    try:
        await driver.start()
        await again.start(create=False)
        info, check = await again.info(), await PostgresDriver(driver.options).check()
    finally:
        await driver.close()
        await again.close()
        newest_postgres.sql("DROP OWNED BY careless; DROP ROLE careless")
    for setting in ("synchronous_commit is off", "fsync is off"):  # the tests' servers do not flush
        assert caplog.text.count(setting) == 1
        assert setting in info.details["durability"]
        assert setting in check.details["durability"]
    assert not check.problems


class Settings(NamedTuple):
    """The settings of a database, by default the careful ones."""

    synchronous_commit: str = "on"
    standbys: str = ""
    fsync: str = "on"
    full_page_writes: str = "on"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (Settings(), []),
        (Settings(synchronous_commit="remote_write", standbys="*"), []),
        (Settings(synchronous_commit="local"), []),
        (Settings(synchronous_commit="local", standbys="*"), ["synchronous_commit is local"]),
        (Settings(synchronous_commit="off", standbys="*"), ["synchronous_commit is off"]),
        (Settings(fsync="off", full_page_writes="off"), ["fsync is off", "full_page_writes is off"]),
    ],
)
def test_dangerous_settings(settings: Settings, named: list[str]) -> None:
    """Only settings with which acknowledged jobs may be lost are named."""
    assert [danger.partition(":")[0] for danger in dangers(settings)] == named
    assert durability(settings) == ("; ".join(dangers(settings)) or "whatever is acknowledged survives a crash")

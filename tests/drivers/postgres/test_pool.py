"""The pool of connections behind a real PgBouncer in session mode that has fewer connections than callers want."""

import asyncio
from collections.abc import Iterator

import pytest

from composerd.errors import DriverTimeout, Unavailable
from composerd_postgres import PostgresDriver
from composerd_postgres.db import pool
from composerd_postgres.db.pool import Connections

from ...throwaway import Throwaway
from ..conftest import Open

AT_ONCE = 2.0
"""A time in seconds that is long enough for any statement, and shorter than the limit of connecting."""


@pytest.fixture
def narrow(newest_postgres: Throwaway, pgbouncer: str) -> Iterator[str]:
    """Return the storage URL of a pooler in session mode with two connections to the database."""
    with newest_postgres.pooler(pgbouncer, "session", ignore_startup_parameters="options") as port:
        yield newest_postgres.fresh(port=str(port))


def _connections(instance: object) -> Connections:
    driver = instance.driver  # type: ignore[attr-defined]
    assert isinstance(driver, PostgresDriver)
    return driver._session.connections


async def test_a_returned_connection_comes_before_a_new_one(narrow: str, open_instance: Open) -> None:
    """A caller for whom a connection is being opened gets one that is returned meanwhile."""
    connections = _connections(await open_instance(narrow))
    async with connections.one(), connections.one():  # the pooler has no more
        waiting = asyncio.create_task(connections.fetch("SELECT 1 AS one", {}))
        while not connections._opening:  # noqa: ASYNC110
            await asyncio.sleep(0)
    async with asyncio.timeout(AT_ONCE):
        assert await waiting == [(1,)]


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_connection_that_comes_too_late(
    narrow: str, open_instance: Open, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    """A connection whose caller got another one is kept, unless the pooler had none to spare: others wait for it."""
    monkeypatch.setattr(pool, "QUEUED_AFTER", 60.0 if at_once else 0.0)
    connections = _connections(await open_instance(narrow))
    async with connections.one():
        async with connections.one():
            waiting = asyncio.create_task(connections.fetch("SELECT 1 AS one", {}))
            while not connections._opening:  # noqa: ASYNC110
                await asyncio.sleep(0)
        await waiting
        opening = list(connections._opening)
    connections.close_idle()
    async with asyncio.timeout(AT_ONCE):
        (late,) = await asyncio.gather(*opening)
    assert (late in connections._idle) == at_once
    assert late.closed != at_once


async def test_a_server_gives_to_others_what_it_does_not_use(narrow: str, open_instance: Open) -> None:
    """Behind a pooler, a server gives connections that it opened a while ago to others, even while it uses them."""
    first = await open_instance(narrow)
    connections = _connections(first)

    async def use() -> None:
        while True:
            await connections.fetch("SELECT pg_sleep(0.01)", {})

    async with connections.one(), connections.one():
        pass
    using = [asyncio.create_task(use()) for _ in range(4)]
    second = await open_instance(narrow, connect_timeout="9")
    await second.add()
    for task in using:
        task.cancel()
    await asyncio.wait(using)


async def test_nothing_to_be_had(narrow: str, open_instance: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a pooler has no connection to spare, ping fails, and a call fails once it has tried to connect, saying why."""
    monkeypatch.setattr("composerd_postgres.driver.PING_LIMIT", 0.5)
    first = await open_instance(narrow)
    second = await open_instance(narrow, connect_timeout="1")
    _connections(second).close_idle()
    async with _connections(first).one(), _connections(first).one():
        with pytest.raises(DriverTimeout):
            await second.driver.ping()
        with pytest.raises(Unavailable, match="no connection to the database to spare"):
            await second.add()
    await asyncio.wait_for(second.add(), AT_ONCE)


async def test_a_canceled_caller_leaks_nothing(open_instance: Open) -> None:
    """A connection that is handed to a caller at the moment it is canceled is lent again."""
    connections = _connections(await open_instance(connections="1"))
    async with connections.one():
        waiting = asyncio.create_task(connections.fetch("SELECT 1 AS one", {}))
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert connections._lent == 0
    async with asyncio.timeout(AT_ONCE):
        assert await connections.fetch("SELECT 1 AS one", {}) == [(1,)]


async def test_a_direct_connection_is_kept(open_instance: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that go to the database without a pooler are kept, however old they are."""
    monkeypatch.setattr(pool, "HELD_FOR", 0.0)
    connections = _connections(await open_instance())
    before = await connections.fetch("SELECT pg_backend_pid()", {})
    assert await connections.fetch("SELECT pg_backend_pid()", {}) == before

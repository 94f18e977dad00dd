"""Writes while the database's queue of notifications is full, because a session of somebody else keeps it so."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest

from composerd.models import News
from composerd.testing.kit.instance import BUILD, Instance
from composerd_postgres import PostgresDriver

from ...conftest import NEWEST, PostgresServers
from ...throwaway import Throwaway


@pytest.fixture
def small_queue(postgres_servers: PostgresServers) -> Iterator[Throwaway]:
    """Start a server with the smallest queue of notifications."""
    server = postgres_servers.start(NEWEST, max_notify_queue_pages="64")
    yield server
    server.remove()


class Listener:
    """A session that listens and then stays in a transaction, so that it reads nothing."""

    def __init__(self, postgres: Throwaway) -> None:
        self._postgres = postgres
        self._connection = psycopg2.connect(host=str(postgres.directory), user="tests", dbname="postgres")
        with self._connection.cursor() as cursor:
            cursor.execute("LISTEN other; COMMIT; BEGIN")

    def leave(self) -> None:
        """End the session, and wait until the server has noticed."""
        process = self._connection.info.backend_pid
        self._connection.close()
        while self._postgres.sql(f"SELECT FROM pg_stat_activity WHERE pid = {process}"):
            time.sleep(0.01)


def fill(postgres: Throwaway) -> None:
    """Send notifications until there is no room for another one."""
    with contextlib.suppress(psycopg2.errors.ProgramLimitExceeded):
        while True:
            postgres.sql("SELECT pg_notify('other', repeat('x', 7000) || n) FROM generate_series(1, 10) n")


async def _use(instance: Instance) -> None:
    """Make every kind of write that announces something."""
    failing, delayed = await instance.add(retry_on_failure=1, retry_backoff=1.0), await instance.add()
    await instance.finish(await instance.take(failing), failed=True)
    await instance.release(await instance.take(delayed))
    assert failing in await instance.pass_time(2.0)
    await instance.cancel(delayed)
    await instance.end(failing)


async def test_a_full_queue(small_queue: Throwaway, caplog: pytest.LogCaptureFixture) -> None:
    """While the queue stays full, writes succeed unannounced, and one warning says why."""
    driver = PostgresDriver.from_url(small_queue.fresh())
    await driver.start()
    instance = Instance(driver, lambda: PostgresDriver(driver.options))
    listener = Listener(small_queue)
    fill(small_queue)
    await _use(instance)
    assert caplog.text.count("notification queue of the database is full") == 1
    listener.leave()
    await instance.close()


@pytest.mark.parametrize("probes", [True, False])
async def test_a_queue_that_was_full(
    small_queue: Throwaway, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, probes: bool
) -> None:
    """Once nobody keeps the queue full, the next write makes room and is announced, and no listening server is lost."""
    monkeypatch.setattr("composerd_postgres.news.watch.PROBE_AFTER", 0.05 if probes else 60.0)
    url = small_queue.fresh()
    driver, other = PostgresDriver.from_url(url), PostgresDriver.from_url(url)
    await driver.start()
    await other.start()
    watching = other.watch()
    assert (await anext(watching)).recheck
    listener = Listener(small_queue)
    fill(small_queue)
    news: asyncio.Task[News] = asyncio.ensure_future(anext(watching))
    probed = "SELECT FROM pg_stat_activity WHERE query LIKE '/*%pg_notify(''composerd%' AND state = 'idle'"
    while probes and not small_queue.sql(probed):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    listener.leave()
    instance = Instance(driver, lambda: PostgresDriver(driver.options))
    await instance.add()
    assert (await news).ready == {BUILD: 1}
    assert "queue" not in caplog.text
    await watching.aclose()  # type: ignore[attr-defined]
    await instance.close()
    await other.close()


async def test_behind_a_pooler_nobody_is_notified(newest_postgres: Throwaway) -> None:
    """With `pooler=yes` no notification is sent, because no server of the storage can receive it."""
    driver = PostgresDriver.from_url(newest_postgres.fresh(pooler="yes"))
    await driver.start()
    listener: Any = psycopg2.connect(host=str(newest_postgres.directory), user="tests", dbname="postgres")
    listener.autocommit = True
    with listener.cursor() as cursor:
        cursor.execute(f"LISTEN composerd_{driver.options.schema}")
        await Instance(driver, lambda: PostgresDriver(driver.options)).add()
        cursor.execute("SELECT 1")
    assert listener.notifies == []
    listener.close()
    await driver.close()

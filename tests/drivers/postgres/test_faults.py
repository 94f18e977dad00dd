"""Faults of the PostgreSQL driver's connections: they break, or a statement gets no answer."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from composerd.errors import DriverTimeout, OutcomeUnknown, Unavailable
from composerd.models import Claim, JobState, Outcome, Verdict
from composerd.queue.repeating import call_until_answered
from composerd.testing.kit.instance import BUILD, PLENTY, Instance
from composerd_postgres import PostgresDriver
from composerd_postgres.db.connection import Broken, Connection, Transaction
from composerd_postgres.jobs import claims, propagate

from ...throwaway import Throwaway
from ..conftest import Open
from .locks import locked
from .relay import Relay


def _schema(instance: Instance) -> str:
    assert isinstance(instance.driver, PostgresDriver)
    return instance.driver.options.schema


async def _blocked(postgres: Throwaway, than: int = 0) -> int:
    """Wait until a statement waits for a lock, and return its process; ignore the process `than`."""
    while True:
        rows = postgres.sql(f"SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND pid <> {than}")
        if rows:
            return int(rows[0][0])
        await asyncio.sleep(0.01)


async def test_killed_in_a_statement(open_instance: Open, newest_postgres: Throwaway) -> None:
    """When a backend is killed in the middle of a statement, the repetition finds nothing done, and does it."""
    instance = await open_instance()
    job_id = await instance.add()
    token = await instance.take(job_id)
    async with locked(newest_postgres, f"SELECT FROM {_schema(instance)}.jobs FOR UPDATE"):
        finishing = asyncio.create_task(call_until_answered(instance.driver.finish, [Outcome(token, b"1")]))
        pid = await _blocked(newest_postgres)
        newest_postgres.sql(f"SELECT pg_terminate_backend({pid})")
        await _blocked(newest_postgres, pid)
    answers = await finishing
    assert [one.verdict for one in answers.items] == [Verdict.ACCEPTED]  # type: ignore[union-attr]
    assert await instance.result(job_id) == b"1"


async def test_settings_of_the_database_that_would_break_it(newest_postgres: Throwaway) -> None:
    """The driver works on a database whose default settings would break it: the time zone, isolation and encoding."""
    name = newest_postgres.fresh_database()
    newest_postgres.sql(f"ALTER DATABASE {name} SET timezone = 'America/New_York'")
    newest_postgres.sql(f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'")
    newest_postgres.sql(f"ALTER DATABASE {name} SET client_encoding = 'LATIN1'")
    driver = PostgresDriver.from_url(newest_postgres.url(name))
    await driver.start()
    instance = Instance(driver, lambda: PostgresDriver(driver.options))
    try:
        job_id = await instance.add(not_before=datetime(1, 1, 1, tzinfo=UTC), type="ready→")
        job = (await driver.get([job_id]))[0]
        assert job is not None
        assert job.not_before == datetime(1, 1, 1, tzinfo=UTC)
        shown = (
            "SELECT current_setting('transaction_isolation') AS isolation, "
            "current_setting('client_encoding') AS encoding"
        )
        connections = driver._session.connections
        assert await connections.fetch(shown, {}) == [("read committed", "UTF8")]
        async with connections.one() as connection:
            transaction = Transaction(connection)
            assert await transaction.begin(shown, {}) == [("read committed", "UTF8")]
            await transaction.commit()
    finally:
        await driver.close()


async def test_a_connection_lost_in_commit(open_instance: Open) -> None:
    """After a connection is lost in COMMIT, the repetition finds the jobs, and a re-check replaces the lost news."""
    instance = await open_instance()
    job = instance.new()
    real = _Losing(instance.driver)
    with pytest.raises(OutcomeUnknown):
        await instance.driver.enqueue([[job]])
    assert real.lost == 1
    batch = await instance.driver.enqueue([[job]])
    assert batch.items[0].created == (True,)  # type: ignore[union-attr]
    assert batch.news.recheck
    assert len(await instance.dump()) == 1
    assert not (await instance.driver.enqueue([[instance.new()]])).news.recheck


class _Losing:
    """Loses the connection once, just after a COMMIT was executed."""

    def __init__(self, driver: Any) -> None:
        self.lost = 0
        copy = Connection.copy

        async def losing(connection: Connection, statement: str, parameters: Any, tables: Any) -> None:
            await copy(connection, statement, parameters, tables)
            assert statement.endswith("COMMIT")
            if not self.lost:
                self.lost += 1
                connection.close()
                raise Broken("lost")

        connections = driver._session.connections
        for connection in connections._idle:
            connection.copy = losing.__get__(connection)


async def test_all_connections_are_busy(open_instance: Open, newest_postgres: Throwaway) -> None:
    """A call that gets no connection in time fails with a timeout; calls succeed again once connections are free."""
    instance = await open_instance(connections="2", time_limit="300ms")
    job_id = await instance.add()
    async with locked(newest_postgres, f"LOCK TABLE {_schema(instance)}.jobs"):
        calls = await asyncio.gather(*[instance.driver.get([job_id]) for _ in range(6)], return_exceptions=True)
    assert [type(one) for one in calls] == [DriverTimeout] * 6
    assert await instance.state(job_id) is JobState.READY


async def test_a_ping_waits_for_no_connection(open_instance: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ping fails within its own limit while all connections are lent; it does not wait until one is free."""
    instance = await open_instance(connections="1")
    monkeypatch.setattr("composerd_postgres.driver.PING_LIMIT", 0.2)
    assert isinstance(instance.driver, PostgresDriver)
    async with instance.driver._session.connections.one():
        async with asyncio.timeout(5):
            with pytest.raises(DriverTimeout):
                await instance.driver.ping()
    await instance.driver.ping()


async def test_a_canceled_caller_cuts_nothing(open_instance: Open, newest_postgres: Throwaway) -> None:
    """The cancellation of a caller interrupts neither its statement nor its connection."""
    instance = await open_instance(connections="1")
    job_id = await instance.add()
    async with locked(newest_postgres, f"LOCK TABLE {_schema(instance)}.jobs"):
        call = asyncio.create_task(instance.driver.get([job_id]))
        pid = await _blocked(newest_postgres)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert await instance.state(job_id) is JobState.READY
    assert newest_postgres.sql(f"SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}") == [(1,)]


async def test_a_statement_that_the_server_cancels(open_instance: Open, newest_postgres: Throwaway) -> None:
    """A statement that the database cancels is a timeout for the caller, not a cancellation, and needs no traceback."""
    instance = await open_instance()
    job_id = await instance.add()
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
    async with locked(newest_postgres, f"LOCK TABLE {_schema(instance)}.jobs"):
        call = asyncio.create_task(instance.driver.get([job_id]))
        newest_postgres.sql(f"SELECT pg_cancel_backend({await _blocked(newest_postgres)})")
        with pytest.raises(DriverTimeout):
            await call
    assert await instance.state(job_id) is JobState.READY
    assert complaints == []


async def test_a_timeout_closes_idle_connections(open_instance: Open, newest_postgres: Throwaway) -> None:
    """After a statement without an answer, idle connections from before it are not used: they may be dead too."""
    instance = await open_instance(time_limit="300ms")
    connections = instance.driver._session.connections  # type: ignore[attr-defined]
    async with connections.one() as one, connections.one() as other:
        before = [await each.fetch("SELECT pg_backend_pid()", {}) for each in (one, other)]
    assert await connections.fetch("SELECT pg_backend_pid()", {}) in before
    async with locked(newest_postgres, f"LOCK TABLE {_schema(instance)}.jobs"):
        with pytest.raises(DriverTimeout):
            await instance.driver.get([instance.id()])
    assert await connections.fetch("SELECT pg_backend_pid()", {}) not in before


async def test_a_dead_listener_closes_idle_connections(open_instance: Open, newest_postgres: Throwaway) -> None:
    """When the connection that listens is found dead, idle connections from before are not used anymore."""
    instance = await open_instance()
    connections = instance.driver._session.connections  # type: ignore[attr-defined]
    before = await connections.fetch("SELECT pg_backend_pid()", {})
    watching = instance.driver.watch()
    assert (await anext(watching)).recheck
    newest_postgres.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '/%/LISTEN%'")
    with pytest.raises(Unavailable):
        await anext(watching)
    assert await connections.fetch("SELECT pg_backend_pid()", {}) != before


async def test_a_cancellation_that_comes_with_the_answer(open_instance: Open) -> None:
    """A cancellation that comes together with the database's answer is not lost, as it is by Python 3.11's wait_for."""
    instance = await open_instance()
    connections = instance.driver._session.connections  # type: ignore[attr-defined]

    async def ask() -> None:
        async with connections.one() as connection:
            create_waiter = connection.raw._create_waiter

            def answered(name: str) -> "asyncio.Future[None]":
                waiter: asyncio.Future[None] = create_waiter(name)
                waiter.add_done_callback(lambda _: asking.cancel())
                return waiter

            connection.raw._create_waiter = answered
            while True:  # an answer that is there at once needs no wait
                await connection.fetch("SELECT 1", {})

    asking = asyncio.create_task(ask())
    await asyncio.wait([asking])
    assert asking.cancelled()
    assert await instance.state(await instance.add()) is JobState.READY


async def test_closed_while_the_database_hangs(open_instance: Open, newest_postgres: Throwaway) -> None:
    """Close waits only a moment for calls in progress, which then fail."""
    instance = await open_instance()
    async with locked(newest_postgres, f"LOCK TABLE {_schema(instance)}.jobs"):
        calls = [asyncio.create_task(instance.driver.get([instance.id()])) for _ in range(20)]
        await _blocked(newest_postgres)
        async with asyncio.timeout(10):  # and not the 30 s of time_limit
            await instance.driver.close()
            answers = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(one) for one in answers} == {Unavailable}


async def test_a_connection_lost_while_propagating(open_instance: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finish succeeds though its propagation loses the connection, and asks for a re-check of the dependents."""
    instance = await open_instance()
    first = await instance.add()
    second = await instance.add(first)
    token = await instance.take(first)
    real = propagate._propagate_some

    async def lost(*args: Any) -> Any:
        await real(*args)
        raise Broken("lost in COMMIT")

    monkeypatch.setattr(propagate, "_propagate_some", lost)
    finished = await instance.driver.finish([Outcome(token, b"1")])
    assert finished.items[0].verdict is Verdict.ACCEPTED
    assert finished.news.recheck
    assert await instance.state(second) is JobState.READY


async def test_a_lock_is_waited_out_in_a_claim(
    open_instance: Open, newest_postgres: Throwaway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim waits for a ready job that is locked for a moment; it does not answer that there is no job."""
    instance = await open_instance()
    job_id = await instance.add()
    found_locked = asyncio.Event()
    real = claims._claim

    async def observed(*args: Any) -> Any:
        answer = await real(*args)
        if answer.contended:
            found_locked.set()
        return answer

    monkeypatch.setattr(claims, "_claim", observed)
    async with locked(newest_postgres, f"SELECT FROM {_schema(instance)}.jobs FOR UPDATE"):
        claiming = asyncio.create_task(instance.claim())
        await found_locked.wait()
        assert not claiming.done()
    claimed = await claiming
    assert claimed is not None
    assert claimed.job_id == job_id


async def test_the_connection_that_listens_dies(open_instance: Open, newest_postgres: Throwaway) -> None:
    """When the connection that listens is killed, watch fails at once, and the next watch begins with a re-check."""
    instance = await open_instance()
    watching = instance.driver.watch()
    assert (await anext(watching)).recheck
    newest_postgres.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '/%/LISTEN%'")
    with pytest.raises(Unavailable):
        await anext(watching)
    again = instance.driver.watch()
    assert (await anext(again)).recheck
    await again.aclose()  # type: ignore[attr-defined]


async def test_a_half_open_connection_is_found(
    open_instance: Open, newest_postgres: Throwaway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Watch finds out by a notification to itself that the connection that listens is dead."""
    monkeypatch.setattr("composerd_postgres.news.watch.PROBE_AFTER", 0.1)
    monkeypatch.setattr("composerd_postgres.news.watch.PROBE_LIMIT", 0.3)
    async with Relay(newest_postgres, tmp_path) as relay:
        first = await open_instance()
        url = f"postgresql://tests@/postgres?host={tmp_path}&schema={_schema(first)}"
        instance = await open_instance(url)
        watching = instance.driver.watch()
        assert (await anext(watching)).recheck
        listening = asyncio.ensure_future(anext(watching))
        await first.add()
        assert (await listening).ready == {BUILD: 1}
        waiting = asyncio.ensure_future(anext(watching))
        relay.silent.set()
        with pytest.raises(Unavailable):
            await waiting
        relay.silent.clear()


async def test_a_lock_delays_no_other_key(open_instance: Open, newest_postgres: Throwaway) -> None:
    """While the only job of a key is locked, a claim hands out jobs of other keys, and reports that one as ready."""
    instance = await open_instance()
    held, other = BUILD._replace(type="held"), BUILD._replace(type="other")
    held_id, other_id = await instance.add(type="held"), await instance.add(type="other")
    requests = [Claim(instance.id(), (held,), 60.0), Claim(instance.id(), (other,), 60.0)]
    async with locked(newest_postgres, f"SELECT FROM {_schema(instance)}.jobs WHERE type = 'held' FOR UPDATE"):
        batch = await instance.driver.claim(requests, PLENTY)
    first, second = batch.items
    assert first is None
    assert second is not None
    assert second.job_id == other_id
    assert batch.news.ready == {held: 1}
    (again,) = (await instance.driver.claim(requests[:1], PLENTY)).items
    assert again is not None
    assert again.job_id == held_id

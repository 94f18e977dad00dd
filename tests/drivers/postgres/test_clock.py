"""The PostgreSQL driver when the database's clock jumps, and when servers are away, are stopped or keep starting."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID

import pytest

from composerd.errors import Unavailable
from composerd.models import AttemptState
from composerd.testing.kit.instance import Instance
from composerd_postgres import PostgresDriver
from composerd_postgres.db.connection import Transaction
from composerd_postgres.jobs.clock import ATTEND_EVERY

from ...throwaway import Throwaway
from ..conftest import Open
from .old_schemas import JOB, old_storage

HOUR = 3600.0
DAY = 24 * HOUR


OpenAt = Callable[..., Awaitable[Instance]]


@pytest.fixture
async def open_at(postgres_clock: Throwaway) -> AsyncIterator[OpenAt]:
    """Return a function that opens a storage in a database whose clock can be stepped: one more server at each call."""
    postgres_clock.set_clock(0)
    url = postgres_clock.fresh()
    instances: list[Instance] = []

    async def open_one(shifted: float = 0.0) -> Instance:
        driver = PostgresDriver.from_url(url)
        instance = Instance(driver, lambda: PostgresDriver.from_url(url))
        instance._ids = 1_000_000 * len(instances)
        instances.append(instance)
        await instance.shift(shifted)
        await driver.start()
        return instance

    yield open_one
    for instance in instances:
        await instance.close()


async def _advance(instance: Instance) -> Sequence[UUID]:
    return (await instance.driver.advance(100)).items


async def _expire(instance: Instance, *job_ids: UUID) -> float:
    """Call `advance` as often as it wants to be called until the attempts at jobs end; return how long that took."""
    began = time.monotonic()
    missing = set(job_ids)
    while True:
        batch = await instance.driver.advance(100)
        missing -= set(batch.items)
        if not missing:
            return time.monotonic() - began
        assert batch.news.due_in is not None
        assert time.monotonic() - began < 20, "the attempts do not end"
        await asyncio.sleep(batch.news.due_in)


async def _timeout_in(instance: Instance, job_id: UUID) -> float:
    """Return the seconds after which the running attempt of a job exceeds the job's timeout."""
    session: Any = instance.driver._session  # type: ignore[attr-defined]
    (row,) = await session.connections.fetch(
        f"SELECT extract(epoch FROM timeout_at - clock_timestamp())::double precision AS seconds "
        f'FROM "{session.options.schema}".leases WHERE job_id = %(job_id)s',
        {"job_id": str(job_id)},
    )
    return float(row.seconds)


async def test_a_clock_that_jumps_ahead_ends_no_attempt(
    open_at: OpenAt, postgres_clock: Throwaway, caplog: pytest.LogCaptureFixture
) -> None:
    """After a jump of 60 s every attempt with a lease of 20 s goes on, and its time limit is as far away as before."""
    one, other = await open_at(), await open_at()
    job_id = await one.add(timeout=100.0)
    token = await one.take(lease=20.0)
    assert [await _advance(instance) for instance in (one, other)] == [[], []]
    postgres_clock.set_clock(60)
    assert [await _advance(instance) for instance in (other, one, other)] == [[], [], []]
    assert await one.touch(token) is AttemptState.RUNNING
    assert 95 < await _timeout_in(one, job_id) < 101
    jumps = [record.getMessage() for record in caplog.records if "the clock jumped forward by 60.0 s" in record.message]
    assert len(jumps) == 2


async def test_a_suspended_server_sees_no_jump(open_instance: Open, caplog: pytest.LogCaptureFixture) -> None:
    """A server whose machine was suspended, with its monotonic clock, does not take the others' time for a jump."""
    suspended, other = await open_instance(), await open_instance()
    job_id = await other.add(timeout=300.0)
    await other.take(lease=60.0)
    for instance in (suspended, other):
        assert await _advance(instance) == []
    await other.shift(50.0)
    assert await _advance(other) == []
    await suspended.driver.jump_clock(50.0)
    assert await _advance(suspended) == []
    assert "the clock jumped" not in caplog.text
    for instance in (suspended, other):
        await instance.shift(15.0)
    assert await _advance(suspended) == [job_id]


@pytest.mark.parametrize("back", [600, 3600], ids=["10 minutes", "1 hour"])
async def test_a_clock_that_is_set_back_keeps_no_lease(open_at: OpenAt, postgres_clock: Throwaway, back: float) -> None:
    """After the clock was set back, attempts of before and of after end when their lease is over, and not before."""
    one, other = await open_at(), await open_at()
    before = await one.add(timeout=2 * HOUR)
    await one.take(before, lease=1.5)
    assert [await _advance(instance) for instance in (one, other)] == [[], []]
    postgres_clock.set_clock(-back)
    after = await other.add()
    await other.take(after, lease=1.0)
    assert [await _advance(instance) for instance in (one, other)] == [[], []]
    assert 2 * HOUR - 60 < await _timeout_in(one, before) < 2 * HOUR
    assert await _expire(one, before, after) > 0.9


async def test_a_start_after_the_clock_was_set_back(open_at: OpenAt, postgres_clock: Throwaway) -> None:
    """A server that starts after the clock was set back gives a full lease, and no more than that."""
    postgres_clock.set_clock(HOUR)
    instance = await open_at()
    job_id = await instance.add()
    await instance.take(job_id, lease=2.0)
    await _advance(instance)
    await instance.close()
    postgres_clock.set_clock(0)
    instance = await open_at()
    assert (await instance.get(await instance.add())).queued_at < (await instance.get(job_id)).queued_at
    assert await _expire(instance, job_id) > 1.5


async def test_a_wrong_clock_purges_nothing(
    open_at: OpenAt, postgres_clock: Throwaway, caplog: pytest.LogCaptureFixture
) -> None:
    """When the database restarts with a clock 400 days ahead, no job is purged until an operator confirms the clock."""
    running = await open_at()
    job_id = await running.add(retention=10 * DAY)
    await running.end(job_id)
    postgres_clock.stop()
    postgres_clock.set_clock(400 * DAY)
    postgres_clock.start()
    while True:
        try:
            assert (await running.driver.purge(10)).items == []
            break
        except Unavailable:  # its connections are lost
            await asyncio.sleep(0.01)
    assert "the clock jumped forward by 400.0 days" in caplog.text
    started = await open_at()
    for instance in (running, started):
        await instance.shift(200.0)
        await _advance(instance)
        assert (await instance.driver.purge(10)).items == []
        assert "clock" in (await instance.driver.info()).details
    await running.driver.confirm_clock()
    assert (await started.driver.purge(10)).items == [job_id]
    assert "clock" not in (await started.driver.info()).details


async def test_a_server_that_keeps_starting(open_instance: Open) -> None:
    """A server that restarts every 2 s beside another one keeps no lost job: it ends with its lease of 20 s."""
    living = await open_instance()
    job_id = await living.add()
    await living.take(job_id, lease=20.0)
    done: list[UUID] = []
    while not done:
        await living.shift(2.0)
        done += await _advance(living)
        await _start_and_die(living)
        assert living.shifted < 30
    assert done == [job_id]
    assert living.shifted >= 20


async def test_only_a_server_that_keeps_starting(open_instance: Open) -> None:
    """A server that restarts every 2 s and is alone keeps no lost job: it ends after a lease in which it was there."""
    instance = await open_instance()
    job_id = await instance.add()
    await instance.take(job_id, lease=20.0)
    done: list[UUID] = []
    while not done:
        await instance.driver.close()
        instance.shifted += 0.7
        instance.driver = instance.make_driver()
        await instance.driver.shift_clock(instance.shifted)
        await instance.driver.start()
        for _ in range(2):
            done += await _advance(instance)
            await instance.shift(ATTEND_EVERY)
        assert instance.shifted < 60
    assert done == [job_id]


async def test_one_start_after_another(open_instance: Open) -> None:
    """Of several servers that start after a time without any, one gives the time back to the leases."""
    instance = await open_instance()
    job_id = await instance.add()
    token = await instance.take(job_id, lease=60.0)
    await _advance(instance)
    await instance.driver.close()
    instance.shifted = 20.0
    drivers = [instance.make_driver() for _ in range(4)]
    for driver in drivers:
        await driver.shift_clock(instance.shifted)
    await asyncio.gather(*[driver.start() for driver in drivers])
    instance.driver = drivers.pop()
    assert await instance.pass_time(58.0) == []
    assert await instance.touch(token, confirm=False) is AttemptState.RUNNING
    assert await instance.pass_time(4.0) == [job_id]
    for driver in drivers:
        await driver.close()


async def test_stopped_while_it_looks_for_what_is_due(open_instance: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is stopped while it asks what is due ends no attempt: its workers had nobody to ask meanwhile."""
    instance = await open_instance()
    await instance.add()
    token = await instance.take(lease=4.0)
    await _advance(instance)
    await instance.shift(3.0)
    await instance.touch(token)
    connections: Any = instance.driver._session.connections  # type: ignore[attr-defined]
    fetch = connections.fetch

    async def stopped(*args: Any) -> Any:
        monkeypatch.undo()
        time.sleep(3.2)  # noqa: ASYNC251  # the whole process does not run
        return await fetch(*args)

    await instance.shift(1.5)  # the leases are read again
    monkeypatch.setattr(connections, "fetch", stopped)
    assert await _advance(instance) == []
    assert await instance.touch(token) is AttemptState.RUNNING


async def test_stopped_while_it_gives_time_to_leases(open_instance: Open) -> None:
    """A server that is stopped in the middle of giving leases time stops the others for a few seconds only."""
    stopped, other = await open_instance(), await open_instance()
    session: Any = stopped.driver._session  # type: ignore[attr-defined]
    began = time.monotonic()
    async with session.connections.one() as connection:
        await Transaction(connection).begin(session.statements["lock_clock"], {})
        await other.driver.grace()
        connection.close()
    assert time.monotonic() - began < 15  # and not the 60 s of other transactions


async def test_the_first_start_on_an_old_schema(newest_postgres: Throwaway) -> None:
    """A storage whose time was ahead of the database's comes back to it, and its leases get their full length once."""
    driver = await old_storage(newest_postgres, 4)
    schema = driver.options.schema
    newest_postgres.sql(
        f"UPDATE {schema}.leases SET began = began + interval '1 day', deadline = deadline + interval '1 day'; "
        f"UPDATE {schema}.clock SET ahead = '1 day'; "
    )
    await driver.start()
    instance = Instance(driver, lambda: PostgresDriver(driver.options))
    assert newest_postgres.sql(f"SELECT ahead::text FROM {schema}.clock") == [("00:00:00",)]
    assert await instance.pass_time(55.0) == []
    assert await instance.pass_time(6.0) == [JOB]
    await driver.close()


async def _start_and_die(living: Instance) -> None:
    """Open the storage of another server as one more, let it do what is due, and leave without a word."""
    driver = living.make_driver()
    await driver.shift_clock(living.shifted)
    await driver.start()
    await driver.advance(100)
    await driver.close()

"""Leases that could not be renewed for a while: the database could not be written, or gave heartbeats no answer."""

import asyncio
import time

import pytest

from composerd.driver.tokens import hashed
from composerd.errors import DriverTimeout, Unavailable
from composerd.models import AttemptState
from composerd.testing.kit.instance import Instance
from composerd_postgres import PostgresDriver
from composerd_postgres.jobs import clock

from ...throwaway import Throwaway
from ..conftest import Open
from .locks import locked


def _schema(instance: Instance) -> str:
    assert isinstance(instance.driver, PostgresDriver)
    return instance.driver.options.schema


async def test_an_outage_ends_no_lease(open_instance: Open, newest_postgres: Throwaway) -> None:
    """A lease that expires while nothing can be written is ended only a full lease later."""
    instance = await open_instance(time_limit="300ms")
    job_id = await instance.add()
    token = await instance.take(job_id, lease=2.0)
    assert await instance.pass_time(0) == []
    async with locked(newest_postgres, f"LOCK TABLE {_schema(instance)}.clock"):
        for _ in range(11):
            with pytest.raises(DriverTimeout):
                await instance.driver.advance(10)
    assert await instance.pass_time(0) == []
    assert await instance.touch(token, confirm=False) is AttemptState.RUNNING
    assert await instance.pass_time(1.5) == []
    assert await instance.pass_time(0.6) == [job_id]


async def test_a_heartbeat_without_an_answer_ends_no_lease(open_instance: Open, newest_postgres: Throwaway) -> None:
    """While a heartbeat gets no answer, no lease is ended, and later those that are over get that time back."""
    instance = await open_instance()
    job_ids = [await instance.add() for _ in range(2)]
    held, _ = [await instance.take(job_id, lease=2.0) for job_id in job_ids]
    assert await instance.pass_time(0) == []
    lease = f"SELECT FROM {_schema(instance)}.leases WHERE token_hash = '{hashed(held)}' FOR UPDATE"
    async with locked(newest_postgres, lease):
        touching = asyncio.create_task(instance.touch(held))
        await asyncio.sleep(3.2)
        assert await instance.pass_time(0) == []
    await touching
    assert await instance.pass_time(0) == []
    assert sorted(await instance.pass_time(2.1)) == job_ids


async def test_commits_that_hang_end_no_lease(own_postgres: Throwaway) -> None:
    """While commits wait for a standby that is gone, no lease ends, and then those that are over get that time back."""
    driver = PostgresDriver.from_url(own_postgres.url(time_limit="300ms"))
    await driver.start()
    instance = Instance(driver, lambda: PostgresDriver(driver.options))
    job_id = await instance.add()
    token = await instance.take(job_id, lease=3.0)
    assert await instance.pass_time(0) == []
    own_postgres.sql("ALTER SYSTEM SET synchronous_standby_names = 'gone'")
    own_postgres.sql("SELECT pg_reload_conf()")
    began = time.monotonic()
    while time.monotonic() - began < 4:
        try:
            assert await instance.pass_time(0) == []
        except DriverTimeout:
            continue
    own_postgres.sql("ALTER SYSTEM RESET synchronous_standby_names")
    own_postgres.sql("SELECT pg_reload_conf()")
    while True:
        try:
            assert await instance.pass_time(0) == []
            break
        except Unavailable:
            await asyncio.sleep(0.01)
    assert await instance.touch(token, confirm=False) is AttemptState.RUNNING
    assert await instance.pass_time(3.1) == [job_id]
    await driver.close()


async def test_a_listing_that_takes_too_long_keeps_no_lease(open_instance: Open, newest_postgres: Throwaway) -> None:
    """A statement without an answer that concerns no lease does not delay the requeue of a lost worker's job."""
    instance = await open_instance(time_limit="300ms")
    job_id = await instance.add()
    await instance.take(job_id, lease=60.0)
    async with locked(newest_postgres, f"LOCK TABLE {_schema(instance)}.jobs"):
        with pytest.raises(DriverTimeout):
            await instance.driver.get([job_id])
    assert await instance.pass_time(61.0) == [job_id]


async def test_a_slow_server_keeps_no_lease(open_instance: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that has to wait for the database every time it looks after the leases ends those that are over."""
    monkeypatch.setattr(clock, "ATTENDED_WITHIN", 0.9)
    instance = await open_instance()
    job_id = await instance.add()
    await instance.take(job_id, lease=2.2)
    began = time.monotonic()
    while (await instance.driver.advance(10)).items != [job_id]:
        assert time.monotonic() - began < 8
        await asyncio.sleep(0.6)
    assert time.monotonic() - began >= 2.1


async def test_a_locked_job_keeps_no_other(open_instance: Open, newest_postgres: Throwaway) -> None:
    """A server that was stopped while it had locked a job does not keep the jobs of other lost workers."""
    instance = await open_instance(time_limit="1s")
    job_ids = [await instance.add() for _ in range(2)]
    for job_id in job_ids:
        await instance.take(job_id, lease=2.0)
    async with locked(newest_postgres, f"SELECT FROM {_schema(instance)}.jobs WHERE id = '{job_ids[0]}' FOR UPDATE"):
        await instance.driver.advance(10)  # a server that had not looked after the leases lately would renew them
        await instance.shift(2.1)
        assert (await instance.driver.advance(10)).items == job_ids[1:]
        batch = await instance.driver.advance(10)
        assert (batch.items, batch.news.due_in) == ([], clock.ATTEND_EVERY), "it is not tried all the time"
    assert (await instance.driver.advance(10)).items == job_ids[:1]

"""Counts of the jobs of each channel by triggers: for every server, without waiting, and after an upgrade too."""

import asyncio
from typing import Any

import pytest

from composerd.driver import Usage
from composerd.models import Artifact, Attachment
from composerd.testing.kit.instance import BUILD, Instance
from composerd_postgres import PostgresDriver

from ...throwaway import Throwaway
from ..conftest import Open
from .old_schemas import ENDED, JOB, old_storage

OWN = BUILD._replace(channel="own")


def postgres_driver(instance: Instance) -> PostgresDriver:
    """Return the driver of an instance."""
    assert isinstance(instance.driver, PostgresDriver)
    return instance.driver


async def used(instance: Instance, channel: str = OWN.channel) -> Usage:
    """Return what the jobs of a channel use."""
    (found,) = await instance.driver.usage([channel])
    return found


async def test_an_old_storage_is_counted(postgres: Throwaway) -> None:
    """An upgrade counts the jobs that are stored, with their results and files."""
    driver = await old_storage(postgres, 6)
    schema = driver.options.schema
    postgres.sql(f"INSERT INTO {schema}.artifacts VALUES ('{JOB}', 'a', 7, 'ab', 'x'), ('{ENDED}', 'a', 9, 'ab', 'y')")
    await driver.start()
    assert await driver.usage([""]) == [Usage(0, 1, 5, 16)]
    await driver.delete([ENDED])
    await driver.cancel([JOB])
    assert await driver.usage([""]) == [Usage(0, 0, 2, 0)]
    await driver.close()
    assert (await driver.check()).problems == ()


def as_before(driver: PostgresDriver) -> None:
    """Let a driver write as servers of earlier versions do, which know no sizes of results."""
    statements = driver._session.statements
    for name, text, before in [
        ("save_jobs", ",\n    result_size = r.result_size", ""),
        ("insert_jobs", "args_size, result_size\n)", "args_size\n)"),
        ("insert_jobs", ",\n    r.result_size\n", "\n"),
    ]:
        assert text in statements[name]
        statements[name] = statements[name].replace(text, before)


async def test_servers_of_earlier_versions_are_counted(open_instance: Open) -> None:
    """Jobs and results are counted also if a server has stored them that knows nothing of counts."""
    instance, old = await open_instance(), await open_instance()
    as_before(postgres_driver(old))
    first = await old.add(channel=OWN.channel, args=b"123")
    strict = await old.add(first, channel=OWN.channel, args=None)
    token = await old.take(first, (OWN,))
    await old.driver.attach([Attachment(token, Artifact("a", 8, "ab" * 32, "x"))])
    assert await used(instance) == Usage(1, 1, 3, 8)
    await old.finish(token, b"45")
    assert await used(instance) == Usage(1, 0, 5, 8)
    dumped = await old.dump()
    await old.empty()
    assert await used(instance) == Usage()
    await old.driver.load(dumped)
    assert await used(instance) == Usage(1, 0, 5, 8)
    await instance.finish(await instance.take(strict, (OWN,)), b"6")
    assert await used(instance) == Usage(0, 0, 6, 8)
    assert (await postgres_driver(old).check()).problems == ()


async def test_nobody_waits_for_a_count(open_instance: Open) -> None:
    """A server whose transaction has counted a job keeps no other one from counting, and from folding."""
    one, other = await open_instance(), await open_instance()
    job_id = await one.add(channel=OWN.channel, args=None)
    driver = postgres_driver(one)
    async with driver._session.connections.one() as connection:
        await connection.fetch(f"BEGIN; UPDATE {driver.options.schema}.jobs SET state = 'running'", {})
        await other.add(channel=OWN.channel, args=None)
        await other.driver.purge(10)
        assert await used(other) == Usage(waiting=2)
        await connection.fetch("ROLLBACK", {})
    assert await used(one) == Usage(waiting=2)
    await one.take(job_id, (OWN,))
    assert await used(other) == Usage(1, 1)


async def test_counts_are_folded(open_instance: Open, newest_postgres: Throwaway) -> None:
    """A purge leaves one row of each channel that has jobs, and none of others, and changes no sum."""
    instances = [await open_instance() for _ in range(4)]
    for n, instance in enumerate(instances):
        for channel in ("a", "b", f"c{n}"):
            await instance.add(channel=channel, args=b"12")
    for instance in instances:
        gone = await instance.add(channel="gone", args=None)
        await instance.cancel(gone)
        await instance.delete(gone)
    channels = ["a", "b", "c0", "c3", "gone"]
    before = await instances[0].driver.usage(channels)
    info = (await instances[0].driver.info()).jobs
    table = f"{postgres_driver(instances[0]).options.schema}.counts"
    assert len(newest_postgres.sql(f"SELECT FROM {table} WHERE channel = 'a'")) > 1
    await asyncio.gather(*[instance.driver.purge(10) for instance in instances])
    rows = newest_postgres.sql(f"SELECT channel, slot FROM {table} ORDER BY channel")
    assert rows == [(channel, 0) for channel in ("a", "b", "c0", "c1", "c2", "c3")]
    assert await instances[1].driver.usage(channels) == before
    assert (await instances[1].driver.info()).jobs == info
    assert (await postgres_driver(instances[0]).check()).problems == ()


@pytest.mark.parametrize("wrong", ["waiting", "payloads", "files"])
async def test_wrong_counts_are_mended(open_instance: Open, newest_postgres: Throwaway, wrong: str) -> None:
    """A check names the channel that was counted wrong, and the statement that counts again."""
    instance = await open_instance()
    await instance.end(await instance.add())
    job_id = await instance.add(channel=OWN.channel)
    driver = postgres_driver(instance)
    newest_postgres.sql(f"UPDATE {driver.options.schema}.counts SET {wrong} = {wrong} + 1 WHERE channel = 'own'")
    newest_postgres.sql(f"UPDATE {driver.options.schema}.jobs SET files_size = 5 WHERE id = '{job_id}'")
    before: Any = await used(instance)
    (problem,) = (await driver.check()).problems
    assert "channel 'own' is wrong" in problem
    newest_postgres.sql(problem.partition("execute ")[2])
    assert (await driver.check()).problems == ()
    assert await used(instance) == Usage(waiting=1, payloads=7) != before

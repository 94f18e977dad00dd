"""The workers that the database remembers: bounded in bytes, by client."""

from uuid import UUID

import pytest

from composerd.models import Worker
from composerd_postgres.jobs import workers

from ...throwaway import Throwaway
from ..conftest import Open
from .old_schemas import old_storage

ROOM = 40_000


async def test_the_bytes_of_workers(
    open_instance: Open, newest_postgres: Throwaway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients that invent workers share what others leave, and lose those that were not seen for longest."""
    monkeypatch.setattr(workers, "MAX_BYTES", ROOM)
    instance = await open_instance()
    driver = instance.driver
    schema = driver.options.schema  # type: ignore[attr-defined]
    quiet = [instance.id() for _ in range(3)]
    await driver.seen([Worker(one, "x86_64", ("build",), client="quiet") for one in quiet])
    invented = {client: [instance.id() for _ in range(workers.FORGET_EVERY)] for client in ("loud", "louder")}
    for client, ids in invented.items():
        await driver.seen([Worker(one, "x86_64", ("build",), client=client) for one in ids])
    ((size,),) = newest_postgres.sql(f"SELECT sum(pg_column_size(w)) FROM {schema}.workers w")
    assert ROOM / 2 < size < 1.1 * ROOM  # PostgreSQL adds a few bytes to a row that it does not only store
    kept = [one.id for one in await driver.workers(60)]
    assert set(quiet) <= set(kept)
    for ids in invented.values():
        left = [one for one in ids if one in kept]
        assert len(left) >= 50
        assert left == ids[-len(left) :]


async def test_the_workers_of_an_earlier_version(postgres: Throwaway) -> None:
    """Workers that an earlier version has stored are listed after the upgrade, and may say a problem and sign off."""
    driver = await old_storage(postgres, 6)
    worker = UUID(int=7)
    postgres.sql(
        f"INSERT INTO {driver.options.schema}.workers (id, arch, types, channel, seen_at) "
        f"VALUES ('{worker}', 'x86_64', '{{build}}', '', clock_timestamp())"
    )
    await driver.start()
    try:
        assert [(one.id, one.types, one.problem) for one in await driver.workers(60)] == [(worker, ("build",), None)]
        await driver.seen([Worker(worker, "", client="a", problem="full", age=0.5)])
        assert [(one.types, one.problem) for one in await driver.workers(60)] == [(("build",), "full")]
        await driver.sign_off([Worker(worker, "", client="a")])
        assert await driver.workers(60) == []
    finally:
        await driver.close()


async def test_a_clock_that_was_set_back(open_instance: Open) -> None:
    """After the clock of the database was set back, workers describe themselves again at once."""
    instance = await open_instance()
    driver = instance.driver
    problem, gone = instance.id(), instance.id()
    await driver.jump_clock(500.0)
    await driver.seen([Worker(one, "x86_64", ("build",), client="a", problem="full") for one in (problem, gone)])
    await driver.sign_off([Worker(gone, "", client="a")])
    await driver.jump_clock(-400.0)
    await driver.seen([Worker(gone, "", client="a")])
    assert [one.id for one in await driver.workers(60)] == [problem]
    await driver.seen([Worker(one, "x86_64", ("test",), client="a") for one in (problem, gone)])
    found = await driver.workers(60)
    assert [(one.id, one.types, one.problem) for one in found] == [(gone, ("test",), None), (problem, ("test",), None)]

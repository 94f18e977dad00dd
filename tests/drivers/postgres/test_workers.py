"""The workers that the database remembers: bounded in bytes, by client."""

import pytest

from composerd.models import Worker
from composerd_postgres.jobs import workers

from ...throwaway import Throwaway
from ..conftest import Open

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

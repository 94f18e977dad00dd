"""A graph of many levels on PostgreSQL, which a client cancels while others work."""

import asyncio
from collections.abc import Callable

from ..throwaway import Throwaway
from .conftest import COMPOSER, Client, Serve

LEVELS = 500


async def test_a_cancel_of_a_long_chain(own_postgres: Throwaway, serve: Serve, client: Callable[..., Client]) -> None:
    """Canceling the first of many jobs that depend on each other takes few transactions, and others work meanwhile."""
    server = await serve(storage=own_postgres.fresh(), environment={"COMPOSERD_SWEEP_INTERVAL": "10m"})
    greedy, quiet = client(server), client(server)
    jobs = [{"type": "chain", "ref": str(n), "dependencies": [str(n - 1)] if n else []} for n in range(LEVELS)]
    status, submitted = await greedy.request("POST", f"{COMPOSER}/jobs/batch", {"jobs": jobs})
    assert status == 201, submitted
    first, last = (f"{COMPOSER}/jobs/{submitted['items'][n]['id']}" for n in (0, -1))
    before = _transactions(own_postgres)
    canceling = asyncio.create_task(greedy.request("POST", f"{first}/cancel"))
    await quiet.work()
    status, canceled = await canceling
    assert status == 200, canceled
    assert (await quiet.request("GET", f"{last}?wait=10s"))[1]["state"] == "canceled"
    assert _transactions(own_postgres) - before < LEVELS / 5


def _transactions(postgres: Throwaway) -> int:
    ((count,),) = postgres.sql("SELECT xact_commit FROM pg_stat_database WHERE datname = 'postgres'")
    return int(count)

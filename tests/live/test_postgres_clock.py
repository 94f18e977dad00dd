"""Servers on a PostgreSQL database whose clock jumps."""

import asyncio
from collections.abc import Sequence
from functools import partial

from ..throwaway import Throwaway
from .conftest import Serve, Server

LEASE = 2.0


async def test_a_clock_that_jumps(serve: Serve, postgres_clock: Throwaway) -> None:
    """After the database's clock has jumped by a minute, a living worker keeps its job, and a lost job comes back."""
    url = postgres_clock.fresh()
    servers = [await serve("--heartbeat-timeout", f"{LEASE}s", storage=url) for _ in range(2)]
    await servers[0].submit()
    job = await servers[0].ask()
    assert job is not None
    for ahead in (60, -3600):
        assert await _beats(servers[1], [job["location"]]) == [False]
        postgres_clock.set_clock(ahead)
        for server in servers:
            await server.until(partial(_noticed, server), 10)
            server.forget_log()
        assert await _beats(servers[1], [job["location"]]) == [False]
    again = await servers[1].ask(wait="20s")
    assert again is not None
    assert again["id"] == job["id"]
    assert (await servers[0].finish(again, {}))[0] == 200


async def _beats(server: Server, locations: Sequence[str]) -> list[bool]:
    """Send a heartbeat for each attempt, and return which of them have ended."""
    answers = await asyncio.gather(*[server.request("GET", location) for location in locations])
    return [answer["canceled"] for _, answer in answers]


async def _noticed(server: Server) -> bool:
    return b"the clock jumped" in server.log

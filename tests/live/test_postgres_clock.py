"""Servers on PostgreSQL whose clocks jump, and that are stopped for longer than a lease."""

import asyncio
import signal
from collections.abc import Sequence

from ..throwaway import Throwaway
from .conftest import Serve, Server

LEASE = 2.0


async def test_a_stopped_server_ends_no_attempt(serve: Serve, newest_postgres: Throwaway) -> None:
    """After the only server was stopped for longer than a lease, 30 workers that ask a moment later keep theirs."""
    server = await serve(
        "--heartbeat-timeout", f"{LEASE}s", "--sweep-interval", "100ms", storage=newest_postgres.fresh()
    )
    await asyncio.gather(*[server.submit() for _ in range(30)])
    jobs = await asyncio.gather(*[server.ask() for _ in range(30)])  # together, as their leases are short
    locations = [job["location"] for job in jobs if job is not None]
    assert await _beats(server, locations) == [False] * 30
    server.kill(signal.SIGSTOP)
    await asyncio.sleep(1.5 * LEASE)
    server.kill(signal.SIGCONT)
    await asyncio.sleep(LEASE / 4)  # the workers do not notice at once that it answers again
    assert await _beats(server, locations) == [False] * 30


async def test_a_clock_that_jumps(serve: Serve, postgres_clock: Throwaway) -> None:
    """After the database's clock has jumped by a minute, a living worker keeps its job, and a lost job comes back."""
    url = postgres_clock.fresh()
    servers = [await serve("--heartbeat-timeout", f"{LEASE}s", storage=url) for _ in range(2)]
    await servers[0].submit()
    job = await servers[0].ask()
    assert job is not None
    for ahead in (60, -3600):
        postgres_clock.set_clock(ahead)
        for server in servers:
            await _until_noticed(server, job["location"])
            server.forget_log()
    again = await servers[1].ask(wait="20s")
    assert again is not None
    assert again["id"] == job["id"]
    assert (await servers[0].finish(again, {}))[0] == 200


async def _beats(server: Server, locations: Sequence[str]) -> list[bool]:
    """Send a heartbeat for each attempt, and return which of them have ended."""
    answers = await asyncio.gather(*[server.request("GET", location) for location in locations])
    return [answer["canceled"] for _, answer in answers]


async def _until_noticed(server: Server, location: str) -> None:
    """Send heartbeats until the server has noticed that the clock jumped."""

    async def noticed() -> bool:
        assert await _beats(server, [location]) == [False]
        return b"the clock jumped" in server.log

    await server.until(noticed, 10)

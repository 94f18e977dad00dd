"""Waits that something between client and server ends: shorter ones are asked for from then on."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from composerd_client import ComposerClient, ServerUnreachable
from composerd_client.waits import Waits
from composerd_protocol.units import parse_duration

from .conftest import Server
from .http_relay import Relay, relaying
from .test_client_behind_proxies import worker

LIMIT = 1.2
"""Seconds after which the relay ends a request."""


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let waits get short enough for the limit of the tests."""
    monkeypatch.setattr("composerd_client.waits._SHORTEST", 0.5)


@pytest.fixture(params=[504, 200, 204, None])
async def relay(server: Server, request: pytest.FixtureRequest) -> AsyncIterator[Relay]:
    """Start a relay that ends waits with a page, or by closing the connection."""
    async with relaying(server.url) as relay:

        async def limit(asked: web.Request) -> web.StreamResponse | None:
            if parse_duration(asked.query.get("wait", "0s")) <= LIMIT:
                return None
            await asyncio.sleep(LIMIT)
            if request.param is None:
                assert asked.transport is not None
                asked.transport.close()
            return relay.page(request.param or 200)

        relay.hook = limit
        yield relay


async def asked_for_less(relay: Relay, path: str) -> list[float]:
    """Wait until a shorter wait is asked for, and return all that were asked for."""
    async with asyncio.timeout(20):
        while True:
            found = [parse_duration(one.query["wait"]) for one in relay.requests if path in one.path and one.query]
            if found and found[-1] < LIMIT:
                return found
            await asyncio.sleep(0.05)


async def test_a_worker_asks_for_shorter_waits(server: Server, relay: Relay, caplog: pytest.LogCaptureFixture) -> None:
    """A worker whose waits are ended asks for shorter ones, says so once, and runs a job that comes then."""
    async with worker(relay, lambda _job: asyncio.sleep(LIMIT + 1)):
        asked = await asked_for_less(relay, "/worker/v1/jobs")
        assert asked[0] == 20
        assert len(asked) <= 3
        assert 0.5 <= asked[-1] <= LIMIT * 0.9
        job = await server.submit()
        ended = await server.job(job["id"], wait="30s")
    assert (ended["state"], ended["retries"]) == ("finished", 0)
    said = [record.getMessage() for record in caplog.records if "a wait of" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("a wait of 20 s was ended after 1.")
    waits = [parse_duration(one.query["wait"]) for one in relay.requests if one.query]
    assert sum(wait > LIMIT for wait in waits) <= 2  # heartbeats ask for no more than the request for a job has learned


async def test_a_wait_for_a_job_that_is_ended(server: Server, relay: Relay) -> None:
    """`wait` goes on without an error, also without patience, and asks for shorter waits."""
    job = await server.submit()
    async with ComposerClient(relay.url, patience=0) as composer:
        waiting = asyncio.create_task(composer.wait(job["id"], timeout=30))
        asked = await asked_for_less(relay, job["id"])
        assert len(asked) <= 3
        await server.request("POST", f"/api/composer/v1/jobs/{job['id']}/cancel")
        assert (await waiting).state == "canceled"
    assert len(relay.requests) < 20


async def test_waits_that_are_refused_at_once(server: Server) -> None:
    """If something refuses each request that waits, `wait` looks less and less often, and notices the end."""
    async with relaying(server.url) as relay:
        looked = asyncio.Event()

        async def refuse(asked: web.Request) -> web.StreamResponse | None:
            if len(relay.requests) == 8:
                looked.set()
            return relay.page(504) if asked.query else None

        relay.hook = refuse
        job = await server.submit()
        async with ComposerClient(relay.url, patience=0) as composer:
            began = asyncio.get_running_loop().time()
            waiting = asyncio.create_task(composer.wait(job["id"], timeout=30))
            await looked.wait()
            assert asyncio.get_running_loop().time() - began > 0.7  # four pauses, each at least half of 0.1 s, 0.2 s, …
            await server.request("POST", f"/api/composer/v1/jobs/{job['id']}/cancel")
            assert (await waiting).state == "canceled"


async def test_waits_that_end_together() -> None:
    """Two waits whose connections break together, as if the server was killed, show no limit; one after another do."""
    waits = Waits()
    broken = ServerUnreachable("broken")
    assert not waits.ended(20, 1.1, broken)
    assert not waits.ended(20, 1.1, broken)
    assert waits.allowed(20) == 20
    await asyncio.sleep(1.1)  # as long as the next wait lasts
    assert waits.ended(20, 1.1, broken)
    assert waits.allowed(20) < 1.1


async def test_connections_that_are_not_established(caplog: pytest.LogCaptureFixture) -> None:
    """A connection that is closed before TLS is established was no wait, and the error says what has happened."""

    async def close(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(LIMIT)
        writer.close()

    async with await asyncio.start_server(close, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        async with ComposerClient(f"https://127.0.0.1:{port}", patience=4 * LIMIT) as client:
            with pytest.raises(ServerUnreachable, match=r"the connection was closed before TLS was established$"):
                await client.wait("00000000-0000-0000-0000-000000000000")
    assert "cannot " in caplog.text
    assert "was ended after" not in caplog.text

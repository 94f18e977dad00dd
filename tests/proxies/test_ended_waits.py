"""Our worker and client behind proxies that end waits after a few seconds, each in its own way."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable

import pytest

from composerd_client import ComposerClient, Worker

from ..live.conftest import Serve, Server
from .conftest import Run
from .kinds import UNTOUCHED, Proxy


def _limited() -> list[Proxy]:
    """Return the proxies with a limit of 3 s for answers, which they give by 502, 503 or 504."""
    nginx, haproxy, apache, varnish = (UNTOUCHED[name] for name in ("nginx", "haproxy", "apache", "varnish"))
    return [
        nginx._replace(
            adapted=lambda text: nginx.adapted(
                text.replace("proxy_pass", "proxy_read_timeout 3s;\n            proxy_pass")
            )
        ),
        haproxy._replace(
            adapted=lambda text: haproxy.adapted(text.replace("timeout server  50000", "timeout server 3s"))
        ),
        apache._replace(adapted=lambda text: apache.adapted(text) + "\nProxyTimeout 3\n"),
        varnish._replace(
            arguments=lambda address, port, scratch: [
                *varnish.arguments(address, port, scratch),
                *("-p", "first_byte_timeout=3"),
            ]
        ),
    ]


async def _work_and_wait(server: Server, url: str, name: str, learned: Callable[[], Awaitable[None]]) -> None:
    """Wait for a job behind a proxy, and run another one that takes longer than a wait may."""
    worker = Worker(url, arch="x86_64")
    worker.handler(name)(lambda _job: time.sleep(4))
    running = asyncio.create_task(worker.run())
    other = await server.submit("nobody")
    try:
        async with ComposerClient(url, patience=0) as composer:
            waiting = asyncio.create_task(composer.wait(other["id"], timeout=60))
            await learned()
            job = await server.submit(name)
            ended = await server.job(job["id"], wait="30s")
            assert (ended["state"], ended["retries"]) == ("finished", 0), name
            await server.request("POST", f"/api/composer/v1/jobs/{other['id']}/cancel")
            assert (await waiting).state == "canceled"
        assert not running.done(), name
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_proxies_that_end_waits(serve: Serve, run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Behind each proxy the worker and the client ask for shorter waits, say so once, and go on."""
    server = await serve(storage="memory:")
    proxies = await asyncio.gather(*(run(proxy, server) for proxy in _limited()))

    def said() -> list[str]:
        return [line for line in (one.getMessage() for one in caplog.records) if line.startswith("a wait of 20 s was")]

    async def learned() -> None:
        async with asyncio.timeout(30):
            while len(said()) < 2 * len(proxies):  # noqa: ASYNC110  # a log line sets no event
                await asyncio.sleep(0.1)

    await asyncio.gather(*(_work_and_wait(server, one.url, one.name, learned) for one in proxies))
    assert len(said()) == 2 * len(proxies), said()
    assert all(re.search(r"ended after [23]\.\d s, asking for 2\.\d s at most", line) for line in said()), said()

"""The pages of a live server that belong to neither API: front page, health, readiness, metrics."""

import asyncio
import signal

from prometheus_client.parser import text_string_to_metric_families

from .conftest import COMPOSER, NOBODY, Server, send


async def metrics(server: Server) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return the samples by name and labels."""
    status, headers, body = await send(server, "GET", "/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


async def test_front_page_and_health(server: Server) -> None:
    """The front page names both APIs, and health and readiness are 200."""
    status, headers, body = await send(server, "GET", "/")
    assert status == 200
    assert b"/api/worker/v1" in body
    assert b"/api/composer/v1" in body
    assert "X-Operation-Id" in headers
    for path in ("/healthz", "/readyz"):
        assert (await send(server, "GET", path))[0] == 200


async def test_metrics(server: Server) -> None:
    """Requests by endpoint and status, calls of the storage, jobs by state and waiting requests are counted."""
    await server.submit()
    await server.submit()
    await server.ask()
    await server.request("GET", f"{COMPOSER}/jobs/{NOBODY}")
    await server.request("GET", "/nowhere")
    asking = asyncio.create_task(server.ask("nothing"))

    async def waiting() -> bool:
        return (await metrics(server))["composerd_waits", ()] == 1

    await server.until(waiting)
    found = await metrics(server)
    assert found["composerd_requests_total", (("operation", "submitJob"), ("status", "201"))] == 2
    assert found["composerd_requests_total", (("operation", "RequestJob"), ("status", "201"))] == 1
    assert found["composerd_requests_total", (("operation", "getJob"), ("status", "404"))] == 1
    assert found["composerd_requests_total", (("operation", ""), ("status", "404"))] == 1
    assert found["composerd_jobs", (("state", "ready"),)] == 1
    assert found["composerd_jobs", (("state", "running"),)] == 1
    assert found["composerd_storage_seconds_count", (("method", "enqueue"),)] == 2
    assert found["composerd_storage_errors_total", (("method", "enqueue"),)] == 0
    assert found["composerd_connections", ()] >= 2
    assert found["process_open_fds", ()] > 5
    server.kill(signal.SIGTERM)
    assert await asking is None

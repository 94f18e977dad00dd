"""The pages of a live server that belong to neither API: front page, health, readiness, metrics."""

import asyncio
import importlib.metadata
import signal
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ..throwaway import Throwaway
from .conftest import COMPOSER, NOBODY, WORKER, Serve, Server, send
from .test_outages import locked


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


async def test_the_version_is_told(server: Server) -> None:
    """The version is in a header of every answer, whatever answers it, in the status of both APIs and in a metric."""
    version = importlib.metadata.version("composerd")
    job = await server.submit(args="x" * 300_000)
    attempt = await server.ask()
    assert attempt is not None
    paths = ["/", "/healthz", "/readyz", "/metrics", "/nowhere", f"{job['href']}/args", attempt["location"], "//"]
    for path in [*paths, f"{COMPOSER}/jobs/{NOBODY}", f"{WORKER}/openapi"]:
        assert (await send(server, "GET", path))[1]["Composerd-Version"] == version, path
    for method, path in (("PUT", "/"), ("PUT", f"{attempt['artifact_location']}a"), ("DELETE", job["href"])):
        assert (await send(server, method, path))[1]["Composerd-Version"] == version, path
    reader, writer = await asyncio.open_connection(*server.address)
    writer.write(b"nonsense\r\n\r\n")
    assert f"\r\nComposerd-Version: {version}\r\n".encode() in await reader.read()
    writer.close()
    for base in (COMPOSER, WORKER):
        assert (await server.request("GET", f"{base}/status"))[1]["version"] == version
    assert (await metrics(server))["composerd_build_info", (("version", version),)] == 1


async def test_metrics_while_the_storage_is_away(serve: Serve, own_postgres: Throwaway) -> None:
    """Metrics that need no storage are answered soon before it has started, when it is lost and while it hangs."""
    url = own_postgres.url(schema="away")
    own_postgres.stop()
    server = await serve("--artifacts", "none", storage=url)

    async def up(value: float) -> None:
        async def holds() -> bool:
            began = time.monotonic()
            found = await metrics(server)
            assert time.monotonic() - began < 8
            assert found["process_open_fds", ()] > 5
            assert ("composerd_jobs", (("state", "ready"),)) in found or not found["composerd_storage_up", ()]
            return found["composerd_storage_up", ()] == value

        await server.until(holds)

    await up(0)
    own_postgres.start()
    await up(1)
    with locked(own_postgres, "away"):
        await up(0)
    await up(1)
    own_postgres.stop()
    await up(0)
    own_postgres.start()
    await up(1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), b"WARNING [-] artifacts are switched off, because this storage has no place for them"),
        (("--artifacts", "none"), b"INFO    [-] artifacts are switched off, as the setting artifacts says"),
    ],
)
async def test_a_server_without_artifacts_says_so(serve: Serve, options: tuple[str, ...], said: bytes) -> None:
    """A server that refuses uploads logs that once when it starts."""
    server = await serve(*options, storage="memory:")
    assert server.log.count(said) == 1
    assert server.log.count(b"artifacts are switched off") == 1

"""Every bound that is a setting of `composerd serve`, and its effect on a live server: one test for each row."""

import asyncio
import json
from datetime import datetime, timedelta
from pathlib import Path

import aiohttp
import pytest

from .conftest import COMPOSER, JSON, WORKER, Serve, error, send, until_waiting
from .test_cli import composerd

row = pytest.mark.row
TABLE = "Settings"


@row(TABLE, "--retention")
async def test_retention(serve: Serve) -> None:
    """A job without its own retention is removed this long after its end."""
    server = await serve("--retention", "1h")
    job = await server.submit()
    _, canceled = await server.request("POST", f"{job['href']}/cancel")
    ended, expires = (datetime.fromisoformat(canceled[name]) for name in ("finished_at", "expires_at"))
    assert expires - ended == timedelta(hours=1)
    server = await serve("--retention", "0", storage="memory:")
    job = await server.submit()
    _, canceled = await server.request("POST", f"{job['href']}/cancel")
    assert canceled["expires_at"] is None


@row(TABLE, "--max-retention")
async def test_max_retention(serve: Serve) -> None:
    """A job may ask for a retention up to this long, and a longer one is error 19 that names the limit."""
    server = await serve("--retention", "1h", "--max-retention", "2h")
    await server.submit(retention="2h")
    job = {"type": "build", "retention": "3h"}
    assert await error(server, "POST", f"{COMPOSER}/jobs", json.dumps(job).encode(), **JSON) == (
        400,
        19,
        {"field": "retention", "problem": "must be greater than 0 and at most 2h", "limit": "2h"},
    )


@row(TABLE, "--max-body-size")
async def test_max_body_size(serve: Serve) -> None:
    """A request body up to this size is accepted, and a larger one is refused."""
    server = await serve("--max-body-size", "1KiB")
    for size, status in ((1024, 201), (1025, 413)):
        body = b'{"type":"a","args":"' + b"x" * (size - 22) + b'"}'
        assert (await send(server, "POST", f"{COMPOSER}/jobs", body, **JSON))[0] == status


@row(TABLE, "--max-body-size")
async def test_max_body_size_of_the_storage() -> None:
    """A limit above that of the storage stops the start with a sentence that names the storage's limit."""
    told = await composerd("serve", "--storage", "memory:", "--max-body-size", "2GiB", "--listen", "127.0.0.1:0")
    assert (told.code, told.out) == (2, "")
    assert told.err == (
        "composerd: max_body_size is 2147483648 bytes, but the storage accepts at most 1073741824 bytes: "
        "lower max_body_size\n"
    )


@pytest.mark.parametrize(
    ("rate", "pause", "status"),
    [
        pytest.param("0", 0.02, 201, marks=row(TABLE, "--min-rate")),
        pytest.param("100KiB", 0.02, 503, marks=row(TABLE, "--min-rate")),
        pytest.param("0", 60, 503, marks=row(TABLE, "--body-timeout")),
    ],
)
async def test_body_timeout_and_min_rate(serve: Serve, rate: str, pause: float, status: int) -> None:
    """A body that stands still for this long, or is slower than this, is answered with 503."""
    server = await serve("--body-timeout", "200ms", "--min-rate", rate)
    reader, writer = await asyncio.open_connection(*server.address)
    writer.write(
        f"POST {COMPOSER}/jobs HTTP/1.1\r\nHost: a\r\n"
        "Content-Type: application/json\r\nContent-Length: 30\r\n\r\n".encode()
    )
    answered = asyncio.ensure_future(reader.readuntil(b"\r\n\r\n"))
    for byte in b'{"type":"a"}                  ':
        writer.write(bytes([byte]))
        await asyncio.wait([answered], timeout=pause)
        if answered.done():
            break
    assert int((await answered).split()[1]) == status
    writer.close()


@row(TABLE, "--max-artifact-size")
async def test_max_artifact_size(serve: Serve) -> None:
    """An artifact up to this size is accepted, and a larger one is refused."""
    server = await serve("--max-artifact-size", "1KiB")
    await server.submit()
    attempt = await server.ask()
    assert attempt is not None
    for size, status in ((1024, 200), (1025, 413)):
        assert (await send(server, "PUT", attempt["artifact_location"] + "a", b"x" * size))[0] == status


@row(TABLE, "--max-artifacts")
async def test_max_artifacts(serve: Serve) -> None:
    """An attempt may have so many artifacts, and a further one is refused unless it replaces one of them."""
    server = await serve("--max-artifacts", "2")
    await server.submit()
    attempt = await server.ask()
    assert attempt is not None
    for name, status in (("a", 200), ("b", 200), ("c", 413), ("b", 200)):
        assert (await send(server, "PUT", attempt["artifact_location"] + name, b"x"))[0] == status
    assert await error(server, "PUT", attempt["artifact_location"] + "c", b"x") == (
        413,
        25,
        {"problem": "the attempt would have more than 2 artifacts", "limit": 2},
    )


@row(TABLE, "--max-artifacts-size")
async def test_max_artifacts_size(serve: Serve) -> None:
    """The artifacts of an attempt may have so many bytes together, without those that are replaced."""
    server = await serve("--max-artifacts-size", "1KiB")
    await server.submit()
    attempt = await server.ask()
    assert attempt is not None
    for name, size, status in (("a", 1000, 200), ("b", 24, 200), ("c", 1, 413), ("b", 25, 413), ("a", 999, 200)):
        assert (await send(server, "PUT", attempt["artifact_location"] + name, b"x" * size))[0] == status
    assert await error(server, "PUT", attempt["artifact_location"] + "c", b"xx") == (
        413,
        25,
        {"problem": "all artifacts of the attempt together would have more than 1024 bytes", "limit": 1024},
    )


@row(TABLE, "--min-free-space")
async def test_min_free_space(serve: Serve, tmp_path: Path) -> None:
    """While less is free on the disk, submissions and uploads are refused; with 0 they never are before it is full."""
    server = await serve("--min-free-space", "0", storage=f"fs:{tmp_path / 'storage'}")
    await server.submit()
    server.kill()
    await server.exited()
    server = await serve("--min-free-space", "900000TiB", storage=f"fs:{tmp_path / 'storage'}")
    assert (await error(server, "POST", f"{COMPOSER}/jobs", b'{"type":"a"}', **JSON))[:2] == (507, 31)
    attempt = await server.ask()
    assert attempt is not None
    assert (await error(server, "PUT", attempt["artifact_location"] + "a", b"x"))[:2] == (507, 31)
    assert (await server.finish(attempt))[0] == 200


@row(TABLE, "--max-connections")
async def test_max_connections(serve: Serve) -> None:
    """One connection too many gets 503 for its first request and is closed, until another one is closed."""
    server = await serve("--max-connections", "1")
    _, first = await asyncio.open_connection(*server.address)
    async with aiohttp.ClientSession() as http:

        async def status() -> int:
            async with http.get(f"{server.url}/readyz") as answer:
                assert (answer.status == 200) is ("Connection" not in answer.headers)
                return answer.status

        assert await status() == 503
        first.close()

        async def accepted() -> bool:
            return await status() == 200

        await server.until(accepted)


@row(TABLE, "--max-waits")
async def test_max_waits(serve: Serve) -> None:
    """One waiting request too many is answered with 503."""
    server = await serve("--max-waits", "1")
    waiting = asyncio.create_task(server.ask())
    await until_waiting(server, 1)
    status, _ = await server.request("POST", f"{WORKER}/jobs?wait=10ms", {"types": ["x"], "arch": "x"})
    assert status == 503
    job = await server.submit()
    taken = await waiting
    assert taken is not None
    assert taken["id"] == job["id"]

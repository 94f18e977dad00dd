"""Artifacts with a real server: spellings of names, complete and incomplete uploads, ranges."""

import asyncio
import base64
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest

from .conftest import COMPOSER, Serve, Server, error, send

NAMES = ["a", "a b", "é", "日本語.txt", "x" * 255, "a%b", "a+b", "a..b", "~", "a?b#c&d", "\U0001f600", "-rf", "{a}"]
BAD_NAMES = {
    "nothing": "",
    "a leading dot": ".a",
    "dots": "%2E%2E",
    "an encoded slash": "a%2Fb",
    "a backslash": "a%5Cb",
    "NUL": "a%00b",
    "a control character": "a%0Ab",
    "another one": "a%C2%85b",
    "256 bytes": "%C3%A9" * 128,
    "bad UTF-8": "%FF",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spelling", ["plain", "every byte"])
async def test_names_of_artifacts(server: Server, name: str, spelling: str) -> None:
    """An artifact can be uploaded, listed and downloaded with every spelling of its name in the URL."""
    sent = quote(name, safe="+&~-") if spelling == "plain" else "".join(f"%{byte:02x}" for byte in name.encode())
    job = await server.submit()
    attempt = await server.ask()
    assert attempt is not None
    assert (await send(server, "PUT", attempt["artifact_location"] + sent, b"data"))[0] == 200
    await server.finish(attempt)
    _, listed = await server.request("GET", f"{COMPOSER}/jobs/{job['id']}/artifacts")
    (item,) = listed["items"]
    assert (item["name"], item["id"], item["size"]) == (name, name, 4)
    assert item["sha256"] == hashlib.sha256(b"data").hexdigest()
    for path in (item["href"], f"{COMPOSER}/jobs/{job['id']}/artifacts/{sent}"):
        status, headers, body = await send(server, "GET", path)
        assert (status, body) == (200, b"data")
        assert headers["Content-Disposition"].endswith(f"; filename*=UTF-8''{quote(name, safe='')}")


@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES)
async def test_invalid_names(server: Server, name: str) -> None:
    """An invalid name is error 23 for uploads and downloads, and nothing is stored."""
    job = await server.submit()
    attempt = await server.ask()
    assert attempt is not None
    assert (await error(server, "PUT", attempt["artifact_location"] + name, b"data"))[:2] == (400, 23)
    await server.finish(attempt)
    assert (await server.request("GET", f"{COMPOSER}/jobs/{job['id']}/artifacts"))[1]["items"] == []
    assert (await error(server, "GET", f"{COMPOSER}/jobs/{job['id']}/artifacts/{name}"))[:2] == (400, 23)


async def raw_put(server: Server, location: str, head: str, body: bytes, *, ends: bool = True) -> int:
    """Send an upload as raw bytes, close the sending side if `ends`, and return the status, 0 without an answer."""
    reader, writer = await asyncio.open_connection(*server.address)
    writer.write(f"PUT {location} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}\r\n\r\n".encode() + body)
    if ends:
        writer.write_eof()
    line = await reader.readline()
    writer.close()
    return int(line.split()[1]) if line else 0


async def test_incomplete_uploads(server: Server) -> None:
    """An incomplete upload, or one with a wrong digest, gets error 24 or no answer, and adds no artifact."""
    job = await server.submit()
    attempt = await server.ask()
    assert attempt is not None
    location = attempt["artifact_location"]
    wrong = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
    right = base64.b64encode(hashlib.sha256(b"data").digest()).decode()
    for digest in (f"sha-256=:{wrong}:", "sha-256=:nonsense:"):
        assert (await error(server, "PUT", location + "digest", b"data", Content_Digest=digest))[:2] == (400, 24)
    assert await raw_put(server, location + "short", "Content-Length: 10", b"data") in (0, 400)
    assert await raw_put(server, location + "chunked", "Transfer-Encoding: chunked", b"4\r\ndata\r\n") in (0, 400)
    digest = f"sha-512=:AAAA:, sha-256=:{right}:;n=1"
    assert (await send(server, "PUT", location + "good", b"data", Content_Digest=digest))[0] == 200
    assert (
        await raw_put(server, location + "good2", "Transfer-Encoding: chunked", b"4\r\ndata\r\n0\r\n\r\n", ends=False)
        == 200
    )
    await server.finish(attempt)
    _, listed = await server.request("GET", f"{COMPOSER}/jobs/{job['id']}/artifacts")
    assert [item["name"] for item in listed["items"]] == ["good", "good2"]


async def test_uploads_over_the_limit(server: Server) -> None:
    """An upload over the limit is error 25, with and without Content-Length; one at the limit is accepted."""
    attempt = await server.submit() and await server.ask()
    assert attempt is not None
    limit = 1024 * 1024

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield bytes(limit // 4)

    for body in (bytes(limit + 1), chunks()):
        assert (await error(server, "PUT", attempt["artifact_location"] + "a", body))[:2] == (413, 25)
    assert (await send(server, "PUT", attempt["artifact_location"] + "a", bytes(limit)))[0] == 200


async def test_the_last_upload_of_a_name_counts(server: Server) -> None:
    """A second upload of a name replaces the first, and only the attempt that finishes the job leaves artifacts."""
    job = await server.submit()
    first = await server.ask()
    assert first is not None
    await send(server, "PUT", first["artifact_location"] + "old", b"old")
    await server.request("POST", f"{first['location']}/release", {})
    second = await server.ask()
    assert second is not None
    for data in (b"one", b"three"):
        await send(server, "PUT", second["artifact_location"] + "a", data)
    await server.finish(second)
    path = f"{COMPOSER}/jobs/{job['id']}/artifacts"
    assert [item["name"] for item in (await server.request("GET", path))[1]["items"]] == ["a"]
    assert (await send(server, "GET", f"{path}/a"))[2] == b"three"


@pytest.mark.parametrize(
    ("requested", "status", "body", "content_range"),
    [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=5-", 206, b"56789", "bytes 5-9/10"),
        ("bytes=-2", 206, b"89", "bytes 8-9/10"),
        ("bytes=8-100", 206, b"89", "bytes 8-9/10"),
        ("bytes=10-", 416, None, "bytes */10"),
        ("bytes=-0", 416, None, "bytes */10"),
        ("bytes=-100", 206, b"0123456789", "bytes 0-9/10"),
    ],
)
async def test_ranges(server: Server, requested: str, status: int, body: bytes | None, content_range: str) -> None:
    """A Range header returns a part of an artifact, and If-Range with another ETag returns all of it."""
    job = await server.submit()
    attempt = await server.ask()
    assert attempt is not None
    await send(server, "PUT", attempt["artifact_location"] + "a", b"0123456789")
    await server.finish(attempt)
    path = f"{COMPOSER}/jobs/{job['id']}/artifacts/a"
    answered, headers, data = await send(server, "GET", path, Range=requested)
    assert (answered, headers["Content-Range"]) == (status, content_range)
    assert body is None or data == body
    assert (await send(server, "GET", path, Range=requested, If_Range='"other"'))[2] == b"0123456789"
    etag = headers["ETag"]
    assert etag == f'"{hashlib.sha256(b"0123456789").hexdigest()}"'
    assert (await send(server, "GET", path, If_None_Match=etag))[0] == 304
    status, headers, data = await send(server, "HEAD", path)
    assert (status, headers["Content-Length"], data) == (200, "10", b"")


@pytest.mark.parametrize("requested", ["bytes=5-3", "bytes=x", "bytes=0-1,3-4", "bytes=-", "lines=0-1"])
async def test_ignored_ranges(server: Server, requested: str) -> None:
    """Several ranges, other units and malformed ranges are ignored, and every Range of a HEAD request."""
    job = await server.submit()
    attempt = await server.ask()
    assert attempt is not None
    await send(server, "PUT", attempt["artifact_location"] + "a", b"0123456789")
    await server.finish(attempt)
    path = f"{COMPOSER}/jobs/{job['id']}/artifacts/a"
    status, headers, data = await send(server, "GET", path, Range=requested)
    assert (status, data, "Content-Range" in headers) == (200, b"0123456789", False)
    status, headers, _ = await send(server, "HEAD", path, Range="bytes=0-1")
    assert (status, headers["Content-Length"]) == (200, "10")
    for known in (f'"other", {headers["ETag"]}', f"W/{headers['ETag']}", "*"):
        assert (await send(server, "GET", path, If_None_Match=known))[0] == 304
    status, number, details = await error(server, "GET", path, Range="bytes=10-")
    assert (status, number, details["field"]) == (416, 19, "Range")


async def test_a_missing_file(server: Server) -> None:
    """A removed file is error 35; a truncated one closes the connection in the middle of the download."""
    job = await server.submit()
    attempt = await server.ask()
    assert attempt is not None
    await send(server, "PUT", attempt["artifact_location"] + "a", bytes(700_000))
    await server.finish(attempt)
    path = f"{COMPOSER}/jobs/{job['id']}/artifacts/a"
    (file,) = (Path(server.storage.removeprefix("fs:")) / "artifacts" / job["id"]).rglob("*-*-*")
    with file.open("r+b") as opened:
        opened.truncate(300_000)
    with pytest.raises(aiohttp.ClientPayloadError):
        await send(server, "GET", path)
    assert b"is truncated" in server.log
    server.forget_log()  # the warning is expected
    file.unlink()
    assert (await error(server, "GET", path))[:2] == (404, 35)


async def test_artifacts_switched_off(serve: Serve) -> None:
    """With `--artifacts none` an upload is error 26."""
    server = await serve("--artifacts", "none")
    attempt = await server.submit() and await server.ask()
    assert attempt is not None
    assert (await error(server, "PUT", attempt["artifact_location"] + "a", b"x"))[:2] == (400, 26)


async def test_an_upload_to_a_killed_server(serve: Serve) -> None:
    """The file of an upload that was in progress when the server was killed is removed after the next start."""
    server = await serve()
    job = await server.submit()
    attempt = await server.ask()
    assert attempt is not None
    _, writer = await asyncio.open_connection(*server.address)
    head = f"PUT {attempt['artifact_location']}a HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
    writer.write(head.encode() + bytes(600_000))
    await writer.drain()
    files = Path(server.storage.removeprefix("fs:")) / "artifacts" / job["id"]

    async def begun() -> bool:
        return any(files.rglob("*-*-*"))

    await server.until(begun)
    server.kill()
    await server.exited()
    writer.close()
    await server.start()
    assert (await server.finish(attempt))[0] == 200

    async def swept() -> bool:
        return not files.exists()

    await server.until(swept)


def peak(server: Server) -> int:
    """Return the peak of the server's memory in KiB since `forget_peak`."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def forget_peak(server: Server) -> None:
    """Reset the peak of the server's memory to the current use."""
    Path(f"/proc/{server.pid}/clear_refs").write_text("5")


SIZE = int(os.environ.get("ARTIFACT_MIB", "128")) * 1024 * 1024
"""The size of the artifact in bytes. For a longer test with 2 GiB: `ARTIFACT_MIB=2048 pytest -k memory_is_flat`."""


async def test_memory_is_flat(serve: Serve) -> None:
    """Uploads and downloads of any size let the server's memory grow by less than 16 MiB, even with a slow client."""
    server = await serve()
    job = await server.submit()
    attempt = await server.ask()
    assert attempt is not None
    await send(server, "PUT", attempt["artifact_location"] + "warm", bytes(1024 * 1024))
    forget_peak(server)
    before = peak(server)
    part = os.urandom(1024 * 1024)

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(SIZE // len(part)):
            yield part

    assert (await send(server, "PUT", attempt["artifact_location"] + "a", parts()))[0] == 200
    await server.finish(attempt)
    assert server._http is not None
    received = 0
    async with server._http.get(f"{server.url}{COMPOSER}/jobs/{job['id']}/artifacts/a") as response:
        await asyncio.sleep(0.5)  # let the server fill its buffers
        async for some in response.content.iter_chunked(1024 * 1024):
            received += len(some)
    assert received == SIZE
    assert peak(server) - before < 16 * 1024

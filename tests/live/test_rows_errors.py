"""Every predefined error of both APIs is listed as in the reference, and caused by a request: one test for each row."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any
from uuid import uuid4

import pytest

from ..rows import Row, table_of
from .conftest import COMPOSER, JSON, NOBODY, WORKER, Serve, Server, error, send, until_waiting

Request = tuple[str, str, bytes | AsyncIterator[bytes] | None, Mapping[str, str]]
Cause = Callable[[Server], Awaitable[Request]]


def plain(method: str, path: str, body: bytes | None = None, **headers: str) -> Cause:
    """Return a request that needs no preparation."""

    async def make(_server: Server) -> Request:
        return method, path, body, headers

    return make


def attempted(method: str, path: str, body: bytes | None = None, after: str = "", **headers: str) -> Cause:
    """Return a request with the token of an attempt that may have been canceled, finished or released before."""

    async def make(server: Server) -> Request:
        job = await server.submit()
        attempt = await server.ask()
        assert attempt is not None
        if after == "cancel":
            await server.request("POST", f"{job['href']}/cancel")
        elif after == "finish":
            await server.finish(attempt, 1)
        elif after == "release":
            await server.request("POST", f"{attempt['location']}/release", {})
        return method, attempt["location"] + path, body, headers

    return make


def submitted(method: str, path: str, body: bytes | None = None, after: str = "", **headers: str) -> Cause:
    """Return a request about a job that may have been canceled or finished before; `JOB` stands for its id."""

    async def make(server: Server) -> Request:
        job = await server.submit(idempotency_key="k")
        if after == "cancel":
            await server.request("POST", f"{job['href']}/cancel")
        elif after == "finish":
            attempt = await server.ask()
            assert attempt is not None
            await server.finish(attempt)
        whole = None if body is None else body.replace(b"JOB", job["id"].encode())
        return method, path.replace("JOB", job["id"]), whole, headers

    return make


def asked_again() -> Cause:
    """Return a request for a job with an id whose job is finished."""

    async def make(server: Server) -> Request:
        name = str(uuid4())
        await server.submit()
        attempt = await server.ask(request_id=name)
        assert attempt is not None
        await server.finish(attempt, 1)
        body = {"types": ["build"], "arch": "x86_64", "request_id": name}
        return "POST", f"{WORKER}/jobs", json.dumps(body).encode(), JSON

    return make


async def shorter(server: Server) -> Request:
    """Return an upload without length and digest of a name that has a longer file."""
    method, path, _, _ = await attempted("PUT", "/artifacts/a")(server)
    assert (await send(server, method, path, b"longer"))[0] == 200
    return method, path, chunks(b"short"), {}


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    """Yield the parts of a body of unknown length."""
    for part in parts:
        yield part


async def changed(server: Server) -> Request:
    """Return a download of an artifact on the condition that it is another one."""
    method, path, _, _ = await attempted("PUT", "/artifacts/a")(server)
    assert (await send(server, method, path, b"x"))[0] == 200
    await server.finish({"location": path.removesuffix("/artifacts/a")})
    (job,) = (await server.request("GET", f"{COMPOSER}/jobs"))[1]["items"]
    return "GET", f"{job['href']}/artifacts/a", None, {"If_Match": '"other"'}


ASK = b'{"types":["build"],"arch":"x86_64"}'
LARGE = b'"' + b"x" * 2**21 + b'"'
DIGEST = "sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:"

WORKER_CAUSES: Mapping[str, Cause] = {
    "3": plain("POST", f"{WORKER}/jobs", ASK, Content_Type="text/plain"),
    "5": plain("GET", f"{WORKER}/jobs/{NOBODY}"),
    "6": attempted("PATCH", "", b'{"result":1}', "cancel", **JSON),
    "7": plain("PATCH", f"{WORKER}/jobs/me", b'{"result":1}', **JSON),
    "8": plain("GET", f"{WORKER}/jobs/me"),
    "9": plain("GET", f"{WORKER}/errors/ten"),
    "10": plain("POST", f"{WORKER}/jobs", b"{", **JSON),
    "11": plain("GET", f"{WORKER}/nothing"),
    "12": plain("DELETE", f"{WORKER}/jobs"),
    "14": plain("GET", f"{WORKER}/errors/4"),
    "15": plain("POST", f"{WORKER}/jobs", b'{"types":["manifest-id-only"],"arch":"x"}', **JSON),
    "17": plain("POST", f"{WORKER}/workers/me/status"),
    "18": plain("POST", f"{WORKER}/workers/{NOBODY}/status"),
    "19": plain("POST", f"{WORKER}/jobs", b'{"types":[],"arch":"x"}', **JSON),
    "20": attempted("PATCH", "", b'{"result":2}', "finish", **JSON),
    "21": attempted("PATCH", "", b'{"partial":2}', "finish", **JSON),
    "22": attempted("PATCH", "", b'{"result":2}', "release", **JSON),
    "23": attempted("PUT", "/artifacts/.hidden", b"x"),
    "24": attempted("PUT", "/artifacts/a", b"x", Content_Digest=DIGEST),
    "25": attempted("PUT", "/artifacts/a", LARGE),
    "27": attempted("PATCH", "", b'{"result":' + LARGE + b"}", **JSON),
    "44": asked_again(),
    "41": attempted("PATCH", "", b'{"result":1,"artifacts":[{"name":"a"}]}', **JSON),
    "42": shorter,
}

COMPOSER_CAUSES: Mapping[str, Cause] = {
    "3": plain("POST", f"{COMPOSER}/jobs", b'{"type":"a"}', Content_Type="text/plain"),
    "9": plain("GET", f"{COMPOSER}/errors/ten"),
    "10": plain("POST", f"{COMPOSER}/jobs", b"{", **JSON),
    "11": plain("GET", f"{COMPOSER}/nothing"),
    "12": plain("PUT", f"{COMPOSER}/jobs"),
    "14": plain("GET", f"{COMPOSER}/errors/4"),
    "19": plain("POST", f"{COMPOSER}/jobs", b"{}", **JSON),
    "23": submitted("GET", f"{COMPOSER}/jobs/JOB/artifacts/.hidden", after="finish"),
    "27": plain("POST", f"{COMPOSER}/jobs", b'{"type":"a","args":' + LARGE + b"}", **JSON),
    "32": plain("GET", f"{COMPOSER}/jobs/{NOBODY}"),
    "33": submitted("POST", f"{COMPOSER}/jobs/JOB/cancel", after="finish"),
    "34": submitted("DELETE", f"{COMPOSER}/jobs/JOB"),
    "35": submitted("GET", f"{COMPOSER}/jobs/JOB/artifacts/a", after="finish"),
    "36": plain("POST", f"{COMPOSER}/jobs", f'{{"type":"a","dependencies":["{NOBODY}"]}}'.encode(), **JSON),
    "37": submitted("POST", f"{COMPOSER}/jobs", b'{"type":"a","dependencies":["JOB"]}', "cancel", **JSON),
    "38": submitted("POST", f"{COMPOSER}/jobs", b'{"type":"other","idempotency_key":"k"}', **JSON),
    "39": plain("GET", f"{COMPOSER}/jobs?limit=0"),
    "43": changed,
}


def rows_of(table: str) -> list[object]:
    """Return the rows of a table as parameters of a test."""
    return [pytest.param(row, marks=pytest.mark.row(table, row.name), id=row.name) for row in table_of(table)]


async def holds(server: Server, base: str, row: Row, causes: Mapping[str, Cause]) -> None:
    """Check that the error is listed as in the row, and that the request that causes it gets it."""
    number, status, reason = row.cells
    listed = (await server.request("GET", f"{base}/errors/{number}"))[1]
    assert (listed["id"], listed["reason"]) == (number, reason)
    if number in causes:
        method, path, body, headers = await causes[number](server)
        assert (await error(server, method, path, body, **headers))[:2] == (int(status), int(number))


@pytest.mark.parametrize("row", rows_of("Errors of the worker API"))
async def test_worker_errors(server: Server, row: Row) -> None:
    """Every error of the worker API is listed and answered as in the reference."""
    await holds(server, WORKER, row, WORKER_CAUSES)


@pytest.mark.parametrize("row", rows_of("Errors of the composer API"))
async def test_composer_errors(server: Server, row: Row) -> None:
    """Every error of the composer API is listed and answered as in the reference."""
    await holds(server, COMPOSER, row, COMPOSER_CAUSES)


@pytest.mark.row("Errors of the worker API", "26")
async def test_artifacts_are_not_accepted(serve: Serve) -> None:
    """An upload to a server without artifacts is error 26."""
    server = await serve("--artifacts", "none")
    method, path, body, headers = await attempted("PUT", "/artifacts/a", b"x")(server)
    assert (await error(server, method, path, body, **headers))[:2] == (400, 26)


@pytest.mark.row("Errors of the worker API", "28")
@pytest.mark.row("Errors of the composer API", "28")
async def test_unavailable(serve: Serve) -> None:
    """One waiting request too many is error 28, in both APIs."""
    server = await serve("--max-waits", "1")
    job = await server.submit("other")
    waiting = asyncio.create_task(server.ask())

    await until_waiting(server, 1)
    assert (await error(server, "POST", f"{WORKER}/jobs", ASK, **JSON))[:2] == (503, 28)
    assert (await error(server, "GET", f"{job['href']}?wait=5s"))[:2] == (503, 28)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting


async def test_every_error_is_one_of_the_table(server: Server) -> None:
    """The server lists exactly the errors of the reference."""
    for base, table in ((WORKER, "Errors of the worker API"), (COMPOSER, "Errors of the composer API")):
        listed: Any = (await server.request("GET", f"{base}/errors"))[1]["items"]
        assert {one["id"] for one in listed} == {row.name for row in table_of(table)}

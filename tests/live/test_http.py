"""Malformed and unsupported HTTP that reaches no handler, sent to a live server over raw sockets."""

import asyncio
import json
import uuid

import pytest

from .conftest import COMPOSER, NOBODY, WORKER, Serve, Server, error, send, until_waiting


async def answer(server: Server, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes unchanged and return status, headers and body of the answer, after which the connection must end."""
    reader, writer = await asyncio.open_connection(*server.address)
    writer.write(request)
    async with asyncio.timeout(10):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body


HOST = b" HTTP/1.1\r\nHost: x\r\n"
TOKEN = str(uuid.uuid4()).encode()

REFUSED = {
    "an unknown method": (b"FOO WORKER/jobs" + HOST + b"\r\n", 405, 12),
    "a method in lower case": (b"get COMPOSER/jobs" + HOST + b"\r\n", 405, 12),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, 19),
    "NUL in a header": (b"GET WORKER/status" + HOST + b"X: \x00\r\n\r\n", 400, 19),
    "a length that is none": (b"POST COMPOSER/jobs" + HOST + b"Content-Length: x\r\n\r\n", 400, 19),
    "a long header": (b"GET COMPOSER/jobs" + HOST + b"A: " + b"x" * 100_000 + b"\r\n\r\n", 400, 19),
    "a long path": (b"GET COMPOSER/jobs/" + b"x" * 9_000 + HOST + b"\r\n", 400, 19),
    "bytes in a path": (b"GET WORKER/jobs/" + TOKEN + b"\xff" + HOST + b"\r\n", 400, 19),
    "no host": (b"GET COMPOSER/jobs HTTP/1.1\r\n\r\n", 400, 19),
    "a version that is none": (b"GET COMPOSER/jobs HTTP/3.9\r\nHost: x\r\n\r\n", 400, 19),
    "an unknown expectation": (
        b"POST COMPOSER/jobs" + HOST + b"Expect: luck\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        400,
        19,
    ),
}


@pytest.mark.parametrize(("request_", "status", "number"), REFUSED.values(), ids=REFUSED)
async def test_requests_that_are_refused(server: Server, request_: bytes, status: int, number: int) -> None:
    """A refused request gets a predefined error of the API in its path, with a request id; the log has no token."""
    of_composer = b"COMPOSER" in request_
    sent = request_.replace(b"COMPOSER", COMPOSER.encode()).replace(b"WORKER", WORKER.encode())
    answered, headers, raw = await answer(server, sent)
    body = json.loads(raw)
    base, prefix = (COMPOSER, "COMPOSERD-") if of_composer else (WORKER, "IMAGE-BUILDER-WORKER-")
    assert (answered, body["href"], body["code"]) == (status, f"{base}/errors/{number}", f"{prefix}{number}")
    assert body["operation_id"] == headers["X-Operation-Id"]
    assert headers["Content-Type"].startswith("application/json")
    assert (await send(server, "GET", "/healthz"))[0] == 200
    assert TOKEN not in server.log


@pytest.mark.row("Settings", "--log-format")
async def test_no_token_in_the_log(serve: Serve) -> None:
    """A failed request is logged with its request id and its job id, and without its token."""
    server = await serve("--log-format", "json", "--max-waits", "1")
    await server.submit()
    attempt = await server.ask()
    assert attempt is not None
    first = asyncio.create_task(server.request("GET", f"{attempt['location']}?wait=20s"))

    await until_waiting(server, 1)
    status, refused = await server.request("GET", f"{attempt['location']}?wait=20s")
    assert status == 503
    status, other = await server.request("GET", f"{COMPOSER}/jobs/{attempt['id']}?wait=20s")
    assert status == 503
    await server.finish(attempt)
    await first

    async def logged() -> bool:
        return server.log.count(b"unavailable") == 2

    await server.until(logged)
    lines = {line["operation_id"]: line for line in map(json.loads, server.log.splitlines())}
    assert "jobs/TOKEN" in lines[refused["operation_id"]]["message"]
    assert lines[other["operation_id"]]["job_id"] == attempt["id"]
    assert attempt["location"].rpartition("/")[2] not in server.log.decode()


@pytest.mark.parametrize(
    ("request_", "connection"),
    [
        (b"GET PATH HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "close"),
        (b"HEAD PATH HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "close"),
        (b"GET PATH HTTP/1.0\r\n\r\n", "close"),
        (b"GET PATH HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET PATH HTTP/1.0\r\n\r\n", "keep-alive"),
    ],
    ids=["close", "HEAD", "1.0", "1.0 kept"],
)
async def test_the_head_of_an_answer(server: Server, request_: bytes, connection: str) -> None:
    """An answer has the headers that HTTP requires, in every version, and its length also if the body is left out."""
    answered, headers, raw = await answer(server, request_.replace(b"PATH", f"{COMPOSER}/status".encode()))
    assert answered == 200
    assert headers["Content-Type"] == "application/json"
    assert headers["Connection"] == connection
    assert headers.keys() >= {"Content-Length", "Date", "Server", "X-Operation-Id"}
    body = raw[: int(headers["Content-Length"])]
    assert len(raw) == 0 if request_.startswith(b"HEAD") else json.loads(body)["status"] == "OK"
    if connection == "keep-alive":
        assert raw[len(body) :].startswith(b"HTTP/1.0 200 OK")


@pytest.mark.parametrize(
    ("method", "path", "details"),
    [
        ("patch", f"{WORKER}/jobs/{NOBODY}", {"method": "patch", "problem": "PATCH"}),
        ("Post", f"{COMPOSER}/jobs?x=1", {"method": "Post", "problem": "POST"}),
        ("patch", f"{WORKER}/jobs", None),
        ("patch", f"{WORKER}/nothing", None),
        ("foo", f"{WORKER}/jobs", None),
    ],
)
async def test_methods_are_case_sensitive(
    server: Server, method: str, path: str, details: dict[str, str] | None
) -> None:
    """Error 12 names the method that is meant if it was sent in lower case, and would be allowed."""
    body = b'{"result": 1}'
    sent = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    status, headers, raw = await answer(server, sent)
    refused = json.loads(raw)
    assert (status, refused["id"], headers["Connection"]) == (405, "12", "close")
    if details is not None:
        details["problem"] = f"names of methods are case sensitive: send {details['problem']}"
    assert refused.get("details") == details
    assert NOBODY not in raw.decode()


async def test_the_content_type_that_came(server: Server) -> None:
    """Error 3 names the content type, or the encoding, that was sent."""
    path = f"{COMPOSER}/jobs"
    assert await error(server, "POST", path, b"{}", Content_Type="application/xml") == (
        415,
        3,
        {"content_type": "application/xml"},
    )
    assert await error(server, "POST", path, b"{}", Content_Type="application/json; charset=latin1") == (
        415,
        3,
        {"content_type": "application/json; charset=latin1"},
    )
    _, number, details = await error(server, "POST", path, b"{}", Content_Type="text/plain;charset=UTF-8")
    assert (number, details["content_type"]) == (3, "text/plain;charset=UTF-8")
    _, number, details = await error(
        server, "POST", path, b"{}", Content_Type="application/json", Content_Encoding="gzip"
    )
    assert (number, details["content_encoding"]) == (3, "gzip")
    _, _, raw = await answer(
        server, b"POST " + path.encode() + HOST + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}"
    )
    assert json.loads(raw)["details"] == {"problem": "there is no Content-Type"}


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        (f"{WORKER}/jobs/", "there is a slash at the end: remove it"),
        (f"{COMPOSER}/jobs/{NOBODY}/", "there is a slash at the end: remove it"),
        (f"/{WORKER}/jobs", "there are two slashes in a row: send only one"),
        (f"{WORKER}/jobs/{NOBODY}/artifacts//log", "there are two slashes in a row: send only one"),
        (f"{WORKER}/nothing", None),
    ],
)
async def test_slashes_that_are_too_much(server: Server, path: str, problem: str | None) -> None:
    """Error 11 names the slash that is too much in a path."""
    status, _, raw = await send(
        server, "PUT" if "log" in path else "POST", path, b"{}", Content_Type="application/json"
    )
    refused = json.loads(raw)
    assert (status, refused["id"]) == (404, "11")
    assert refused.get("details") == (None if problem is None else {"field": "path", "problem": problem})


@pytest.mark.parametrize("body", [b"0\r\n\r\n", b"2\r\n{}\r\n0\r\n\r\n"])
@pytest.mark.parametrize("typed", [False, True])
async def test_chunked_bodies_that_may_be_empty(server: Server, body: bytes, typed: bool) -> None:
    """A release with an empty chunked body needs no content type; one that has a body does."""
    await server.submit()
    attempt = await server.ask()
    assert attempt is not None
    head = f"POST {attempt['location']}/release HTTP/1.1\r\nHost: x\r\nConnection: close\r\n".encode()
    if typed:
        head += b"Content-Type: application/json\r\n"
    status, _, _ = await answer(server, head + b"Transfer-Encoding: chunked\r\n\r\n" + body)
    assert status == (200 if typed or body.startswith(b"0") else 415)


async def test_who_is_told_to_repeat(serve: Serve) -> None:
    """Error 28 has `Retry-After` for GET and HEAD only: some clients repeat all that has it, without end."""
    server = await serve("--max-waits", "1")
    await server.submit()
    attempt = await server.ask()
    assert attempt is not None
    waiting = asyncio.create_task(server.request("GET", f"{attempt['location']}?wait=20s"))
    await until_waiting(server, 1)
    path = f"{COMPOSER}/jobs/{attempt['id']}?wait=20s"
    for method in ("GET", "HEAD"):
        status, headers, _ = await send(server, method, path)
        assert (status, headers["Retry-After"]) == (503, "1")
    body = json.dumps({"types": ["other"], "arch": "a"}).encode()
    status, headers, _ = await send(server, "POST", f"{WORKER}/jobs?wait=20s", body, Content_Type="application/json")
    assert (status, headers.get("Retry-After")) == (503, None)
    await server.finish(attempt)
    await waiting

"""Malformed and unsupported HTTP that reaches no handler, sent to a live server over raw sockets."""

import asyncio
import json
import uuid

import pytest

from .conftest import COMPOSER, WORKER, Serve, Server, send, until_waiting


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

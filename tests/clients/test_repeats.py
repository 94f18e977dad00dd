"""Requests and uploads that clients send again by themselves, with their defaults."""

import asyncio
import io
import json
import time
import uuid
from collections.abc import Iterator

import pycurl
import pytest
import urllib3

from .conftest import WORKER, ServeRelayed


@pytest.mark.parametrize("fields", [{"request_id": str(uuid.uuid4())}, {}], ids=["request_id", "same_bytes"])
async def test_a_repeated_request_for_a_job(relayed: ServeRelayed, fields: dict[str, str]) -> None:
    """A POST that libcurl sends again by itself on a new connection gets the same job at once."""
    server, relay = await relayed("--handover-timeout", "1h")
    body = {"types": ["build"], "arch": "x86_64", "confirm": True, **fields}
    curl = pycurl.Curl()
    curl.setopt(pycurl.PROXY, "")

    def ask(wait: str) -> tuple[int, bytes]:
        answer = io.BytesIO()
        curl.setopt(pycurl.URL, f"{relay.url}{WORKER}/jobs?wait={wait}")
        curl.setopt(pycurl.HTTPHEADER, ["Content-Type: application/json"])
        curl.setopt(pycurl.POSTFIELDS, json.dumps(body))
        curl.setopt(pycurl.WRITEDATA, answer)
        curl.perform()
        return curl.getinfo(pycurl.RESPONSE_CODE), answer.getvalue()

    assert (await asyncio.to_thread(ask, "10ms"))[0] == 204
    relay.lose = "POST jobs"
    job = await server.submit()
    status, answer = await asyncio.to_thread(ask, "20s")
    assert (status, json.loads(answer)["id"]) == (201, job["id"])
    assert [(request.call, request.connection) for request in relay.requests] == [("POST jobs", 1)] * 2 + [
        ("POST jobs", 2)
    ]
    assert (await server.finish(json.loads(answer)))[0] == 200
    assert (await server.job(job["id"]))["retries"] == 0


async def test_a_repeated_stream(relayed: ServeRelayed) -> None:
    """urllib3 sends only the rest of a stream again: the result that lists the whole file is refused, and names why."""
    server, relay = await relayed()
    await server.submit()
    attempt = await server.ask()
    assert attempt is not None
    relay.sever = "PUT output"
    chunks = [b"a" * 100_000 for _ in range(10)]
    url = f"{relay.url}{attempt['artifact_location']}output"
    answer = await asyncio.to_thread(urllib3.request, "PUT", url, body=iter(chunks))
    assert answer.status == 200
    artifacts = [{"name": "output", "size": 1_000_000}]
    status, error = await server.request("PATCH", attempt["location"], {"result": None, "artifacts": artifacts})
    assert (status, error["id"]) == (409, "41"), error


async def test_an_upload_that_is_unavailable(relayed: ServeRelayed) -> None:
    """urllib3 does not repeat an upload that was answered 503, because the answer has no `Retry-After`."""
    server, relay = await relayed("--body-timeout", "300ms")
    await server.submit()
    attempt = await server.ask()
    assert attempt is not None

    def stalled() -> Iterator[bytes]:
        yield b"a"
        time.sleep(2)
        yield b"b"

    url = f"{relay.url}{attempt['artifact_location']}output"
    answer = await asyncio.to_thread(urllib3.request, "PUT", url, body=stalled())
    assert (answer.status, answer.json()["id"], [request.call for request in relay.requests]) == (
        503,
        "28",
        ["PUT output"],
    )

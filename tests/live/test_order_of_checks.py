"""Errors of requests that have several faults: the order is that of osbuild-composer."""

import asyncio
import io
import itertools
import json
import time
from typing import Any

import pytest

from .conftest import COMPOSER, NOBODY, WORKER, Serve, Server, error, send

SIZE = 2 << 20
JSON_TYPE = "application/json"
UPDATE = ("id", "content type", "size", "json", "token", "meaning")
FAULTS: dict[str, tuple[str, ...]] = {
    "UpdateJob": UPDATE,
    "UpdateJobWithPost": UPDATE,
    "ReleaseJob": UPDATE,
    "GetJob": ("size", "id", "token", "meaning"),
    "UploadJobArtifact": ("id", "name", "token", "digest"),
    "RequestJob": ("content type", "size", "json", "meaning"),
    "postWorkers": ("content type", "size", "json", "meaning"),
    "postWorkerStatus": ("id", "size", "worker"),
}
"""Faults of a request for each operation, in the order in which they are reported."""

METHODS = {"UpdateJob": "PATCH", "GetJob": "GET", "UploadJobArtifact": "PUT"}
NUMBERS = {"content type": 3, "size": 27, "json": 10, "meaning": 19, "name": 23, "digest": 24, "worker": 18}
STATES = {"unknown": 5, "canceled": 6, "finished": 21, "superseded": 22}
"""The error for a token, by the state of its attempt."""


def number_of(operation: str, fault: str, state: str) -> int:
    """Return the number of the error for a fault."""
    if fault == "id":
        return {"GetJob": 8, "postWorkerStatus": 17}.get(operation, 7)
    return STATES[state] if fault == "token" else NUMBERS[fault]


def path_of(operation: str, faults: set[str], token: str) -> str:
    """Return the path of a request with faults."""
    if operation == "RequestJob":
        return f"{WORKER}/jobs"
    if operation == "postWorkers":
        return f"{WORKER}/workers"
    if operation == "postWorkerStatus":
        return f"{WORKER}/workers/{'x' if 'id' in faults else NOBODY}/status"
    location = f"{WORKER}/jobs/{'x' if 'id' in faults else token}"
    if operation == "UploadJobArtifact":
        return f"{location}/artifacts/{'.hidden' if 'name' in faults else 'log'}"
    if operation == "GetJob" and "meaning" in faults:
        return f"{location}?wait=long"
    return location + ("/release" if operation == "ReleaseJob" else "")


def body_of(operation: str, faults: set[str]) -> bytes | None:
    """Return the body of a request with faults."""
    if operation == "UploadJobArtifact":
        return b"file"
    body = b"" if operation == "GetJob" else b'{"result": 1}'
    if "meaning" in faults and operation != "GetJob":
        body = b'{"other": 1}' if operation.startswith("UpdateJob") else b"[1]"
    if "json" in faults:
        body = b"{" + body
    return body + b" " * (SIZE + 1) if "size" in faults else body or None


async def request(server: Server, operation: str, faults: set[str], token: str) -> int:
    """Send a request with faults, and return the number of its error."""
    headers = {"Content_Type": "application/xml" if "content type" in faults else JSON_TYPE}
    if "digest" in faults:
        headers["Content_Digest"] = "sha-256=:x:"
    method = METHODS.get(operation, "POST")
    body = body_of(operation, faults)
    return (await error(server, method, path_of(operation, faults, token), body, **headers))[1]


async def attempt_in(server: Server, state: str) -> str:
    """Return the token of an attempt in a state."""
    if state == "unknown":
        return NOBODY
    await server.submit()
    attempt = await server.ask(confirm=True)
    assert attempt is not None
    if state == "canceled":
        assert (await server.request("POST", f"{COMPOSER}/jobs/{attempt['id']}/cancel"))[0] == 200
    elif state == "finished":
        assert (await server.finish(attempt))[0] == 200
    elif state == "superseded":
        assert (await server.request("POST", f"{attempt['location']}/release", {}))[0] == 200
        again = await server.ask()
        assert again is not None
        await server.finish(again)
    return str(attempt["location"].rpartition("/")[2])


@pytest.mark.parametrize("state", STATES)
async def test_two_faults(server: Server, state: str) -> None:
    """Of two faults of a request, the one that comes first in the order is said, for every operation and pair."""
    token = await attempt_in(server, state)
    wrong = []
    for operation, faults in FAULTS.items():
        if state != "unknown" and "token" not in faults:
            continue
        for pair in itertools.combinations(faults, 2):
            if operation == "GetJob" and "token" in pair and state != "unknown":
                continue  # see below
            got = await request(server, operation, set(pair), token)
            if got != number_of(operation, pair[0], state):
                wrong.append((operation, pair, got))
    assert wrong == []


@pytest.mark.parametrize(("state", "number"), [("canceled", 19), ("finished", 5), ("superseded", 22)])
async def test_a_heartbeat_with_a_bad_wait(server: Server, state: str, number: int) -> None:
    """A GET with a malformed wait gets the error of its token, if a GET with a good one would get it."""
    token = await attempt_in(server, state)
    assert await request(server, "GetJob", {"meaning"}, token) == number


async def test_a_bad_body_of_a_running_attempt(serve: Serve) -> None:
    """A body that is refused is error 19 while the attempt runs, and renews no lease: the job comes back in time."""
    server = await serve("--heartbeat-timeout", "1500ms", "--sweep-interval", "100ms")
    await server.submit()
    attempt = await server.ask()
    assert attempt is not None
    token = attempt["location"].rpartition("/")[2]
    began = time.monotonic()
    got = 19
    while got == 19:
        assert time.monotonic() - began < 15, "the lease was renewed"
        for operation in ("UpdateJob", "ReleaseJob", "GetJob"):
            if (got := await request(server, operation, {"meaning"}, token)) != 19:
                break
        await asyncio.sleep(0.02)
    assert got == 22
    assert time.monotonic() - began > 1


async def test_the_same_result_is_accepted_with_a_bad_one_between(server: Server) -> None:
    """A refused body changes nothing: the attempt can be finished after it, and the same result can be repeated."""
    await server.submit()
    attempt = await server.ask()
    assert attempt is not None
    token = attempt["location"].rpartition("/")[2]
    assert await request(server, "UpdateJob", {"meaning"}, token) == 19
    for _ in range(2):
        status, _, raw = await send(
            server, "POST", attempt["location"], io.BytesIO(b'{"result": [1]}'), Content_Type=JSON_TYPE
        )
        assert (status, json.loads(raw)["kind"]) == (200, "UpdateJobResponse")
    ended: Any = await server.job(attempt["id"])
    assert (ended["state"], ended["result"]) == ("finished", [1])

"""Request bodies against a live server: malformed JSON, wrong shapes, and payloads that are kept byte for byte."""

import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from .conftest import COMPOSER, JSON, NOBODY, WORKER, Serve, Server, error, send

# Payloads that a parser in between would change.
SPELLINGS = [
    b"null",
    b'{"b":1,"a":2,"b":3}',
    b"[1.0, 1e400, -0, 0.10, 1E+2, 123456789012345678901234567890123456789012345678901234567890]",
    b'{"\\u0000":"\\u0000", "\\u00e9":"\xc3\xa9", "s":"\\ud83d\\ude00 \xf0\x9f\x98\x80 \\/"}',
    b'"\x7f\xe2\x80\xa8"',
    b"[ \n\t 1 ,{ } , [ ] ]",
]

NOT_JSON = {
    "nothing": b"",
    "bad UTF-8": b'{"type":"\xff"}',
    "an overlong spelling": b'{"type":"\xc0\xaf"}',
    "a byte order mark": b'\xef\xbb\xbf{"type":"a"}',
    "UTF-16": '{"type":"a"}'.encode("utf-16"),
    "NaN": b'{"type":"a","args":NaN}',
    "Infinity": b'{"type":"a","args":[-Infinity]}',
    "a lone surrogate": b'{"type":"a","args":"\\ud800"}',
    "a lone low surrogate": b'{"type":"a","args":"\\udc00x"}',
    "a lone surrogate in a key": b'{"type":"a","args":{"\\ud800":1}}',
    "trailing data": b'{"type":"a"} {}',
    "a trailing comma": b'{"type":"a",}',
    "a single quote": b"{'type':'a'}",
    "a comment": b'{"type":"a"}//',
    "a leading zero": b'{"type":"a","args":01}',
    "a raw control character": b'{"type":"a","args":"\x01"}',
    "an unknown escape": b'{"type":"a","args":"\\x41"}',
    "half of it": b'{"type":"a","args":[1,2',
    "an open string": b'{"type":"a","args":"',
}

WRONG_JOBS: dict[str, tuple[Any, str]] = {
    "a list": ([], "body"),
    "no type": ({}, "type"),
    "an unknown field": ({"type": "a", "colour": 1}, "colour"),
    "a long type": ({"type": "a" * 129}, "type"),
    "a type with a space": ({"type": "a b"}, "type"),
    "an empty type": ({"type": ""}, "type"),
    "an empty arch": ({"type": "a", "arch": ""}, "arch"),
    "a channel with a newline": ({"type": "a", "channel": "a\n"}, "channel"),
    "an empty key": ({"type": "a", "idempotency_key": ""}, "idempotency_key"),
    "priority 101": ({"type": "a", "priority": 101}, "priority"),
    "priority as text": ({"type": "a", "priority": "1"}, "priority"),
    "a priority that is true": ({"type": "a", "priority": True}, "priority"),
    "retries": ({"type": "a", "max_retries": -1}, "max_retries"),
    "a duration without a unit": ({"type": "a", "timeout": "5"}, "timeout"),
    "no time at all": ({"type": "a", "timeout": "0s"}, "timeout"),
    "a time without a zone": ({"type": "a", "not_before": "2030-01-01T00:00:00"}, "not_before"),
    "a date": ({"type": "a", "not_before": "2030-01-01"}, "not_before"),
    "a time of a week": ({"type": "a", "not_before": "2030-W01-1T00:00:00Z"}, "not_before"),
    "a time before there were computers": ({"type": "a", "not_before": "0001-01-01T00:00:00Z"}, "not_before"),
    "the last of all times": ({"type": "a", "not_before": "9999-12-31T23:59:59Z"}, "not_before"),
    "the thirteenth month": ({"type": "a", "not_before": "2030-13-01T00:00:00Z"}, "not_before"),
    "a wrong time": ({"type": "a", "not_before": "tomorrow"}, "not_before"),
    "a wrong choice": ({"type": "a", "on_dependency_failure": "maybe"}, "on_dependency_failure"),
    "too many dependencies": ({"type": "a", "dependencies": [NOBODY] * 1001}, "dependencies"),
    "a ref outside a batch": ({"type": "a", "ref": "r"}, "ref"),
    "retention": ({"type": "a", "retention": "-1d"}, "retention"),
    "tries": ({"type": "a", "retry_on_failure": 101}, "retry_on_failure"),
    "a backoff in words": ({"type": "a", "retry_backoff": "soon"}, "retry_backoff"),
}


@pytest.mark.parametrize("payload", SPELLINGS, ids=range(len(SPELLINGS)))
async def test_payloads_are_kept_byte_for_byte(serve: Serve, payload: bytes) -> None:
    """Args, result, partial and dynamic_args are kept byte for byte, also over a restart."""
    server = await serve()
    status, _, raw = await send(server, "POST", f"{COMPOSER}/jobs", b'{"args": ' + payload + b' ,"type":"a"}', **JSON)
    assert status == 201
    first = json.loads(raw)["id"]
    await server.submit("b", dependencies=[first])
    status, _, raw = await send(server, "POST", f"{WORKER}/jobs", b'{"types":["a"],"arch":"x"}', **JSON)
    assert b'"args":' + payload in raw
    location = json.loads(raw)["location"]
    assert (await send(server, "PATCH", location, b'{"partial":' + payload + b"}", **JSON))[0] == 200
    assert b'"partial":' + payload in (await send(server, "GET", f"{COMPOSER}/jobs/{first}"))[2]
    assert (await send(server, "PATCH", location, b'{ "result" :' + payload + b"}", **JSON))[0] == 200
    server.kill()
    await server.exited()
    await server.start()
    for name in ("args", "result"):
        assert (await send(server, "GET", f"{COMPOSER}/jobs/{first}/{name}"))[2] == payload
    assert b'"result":' + payload in (await send(server, "GET", f"{COMPOSER}/jobs/{first}"))[2]
    status, _, raw = await send(server, "POST", f"{WORKER}/jobs", b'{"types":["b"],"arch":"x"}', **JSON)
    assert b'"dynamic_args":[' + payload + b"]" in raw


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON)
async def test_what_is_not_json(server: Server, body: bytes) -> None:
    """A body that is not JSON is error 10 with the position, on every endpoint with a body, and nothing is stored."""
    job = await server.submit()
    assigned = await server.ask(job["type"])
    assert assigned is not None
    location = assigned["location"]
    calls = [
        ("POST", f"{COMPOSER}/jobs"),
        ("POST", f"{COMPOSER}/jobs/batch"),
        ("POST", f"{WORKER}/jobs"),
        ("PATCH", location),
    ]
    for method, path in calls:
        status, number, details = await error(server, method, path, body, **JSON)
        assert (status, number) == (400, 10)
        assert details["problem"]
        assert 0 <= details["at"] <= len(body)
    assert len((await server.request("GET", f"{COMPOSER}/jobs"))[1]["items"]) == 1
    assert (await server.request("GET", location))[1]["canceled"] is False


@pytest.mark.parametrize(("job", "field"), WRONG_JOBS.values(), ids=WRONG_JOBS)
async def test_jobs_of_the_wrong_shape(server: Server, job: Any, field: str) -> None:
    """A job of the wrong shape, alone or in a batch, is error 19 that names the field, and nothing is stored."""
    status, number, details = await error(server, "POST", f"{COMPOSER}/jobs", json.dumps(job).encode(), **JSON)
    assert (status, number) == (400, 19)
    assert details["field"].startswith(field)
    if not (isinstance(job, dict) and "ref" in job):
        batch = json.dumps({"jobs": [{"type": "fine"}, job]}).encode()
        status, number, details = await error(server, "POST", f"{COMPOSER}/jobs/batch", batch, **JSON)
        assert (status, number) == (400, 19)
        assert details["field"].startswith("jobs[")
    assert (await server.request("GET", f"{COMPOSER}/jobs"))[1]["items"] == []


async def test_depth(server: Server) -> None:
    """JSON nested 500 deep is accepted and deeper JSON is error 19; brackets in strings do not count."""
    for inner, expected in [
        (b"[" * 499 + b"]" * 499, 201),
        (b'"' + b"[{" * 600 + b'"', 201),
        (b"[" * 500 + b"]" * 500, 400),
    ]:
        status, _, raw = await send(server, "POST", f"{COMPOSER}/jobs", b'{"type":"a","args":' + inner + b"}", **JSON)
        assert status == expected
        assert status == 201 or json.loads(raw)["id"] == "19"
    status, number, _ = await error(server, "POST", f"{COMPOSER}/jobs", b'{"type":"a","args":' + b"[" * 10**6, **JSON)
    assert (status, number) == (400, 19)


@pytest.mark.parametrize(
    ("value", "accepted"),
    [
        ("application/json", True),
        ("Application/JSON; charset=UTF-8", True),
        ('application/json;charset="utf-8"', True),
        ("application/json; charset=latin-1", False),
        ("application/json; boundary=x", False),
        ("application/problem+json", False),
        ("text/json", False),
        ("text/plain", False),
        ("application/x-www-form-urlencoded", False),
        ("", False),
    ],
)
async def test_content_types(server: Server, value: str, accepted: bool) -> None:
    """Only a content type that means JSON in UTF-8 is accepted, in every spelling."""
    status, _, raw = await send(server, "POST", f"{COMPOSER}/jobs", b'{"type":"a"}', Content_Type=value)
    assert status == (201 if accepted else 415)
    assert accepted or json.loads(raw)["id"] == "3"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "nonsense"])
async def test_encoded_bodies(server: Server, encoding: str) -> None:
    """An encoded body is refused with error 3, but the encoding `identity` is accepted."""
    body = gzip.compress(b'{"type":"a"}')
    sent = await error(server, "POST", f"{COMPOSER}/jobs", body, **JSON, Content_Encoding=encoding)
    assert sent[:2] == (415, 3)
    plain = b'{"type":"a"}'
    assert (await send(server, "POST", f"{COMPOSER}/jobs", plain, **JSON, Content_Encoding="identity"))[0] == 201


async def test_bodies_over_the_limit(server: Server) -> None:
    """A body over the size limit is error 27, with or without a Content-Length; a body at the limit is accepted."""
    room = 2 * 1024 * 1024 - len(b'{"type":"a","args":""}')
    fits = b'{"type":"a","args":"' + b"x" * room + b'"}'
    assert (await send(server, "POST", f"{COMPOSER}/jobs", fits, **JSON))[0] == 201

    async def chunks() -> AsyncIterator[bytes]:
        for begin in range(0, len(fits), 65536):
            yield fits[begin : begin + 65536]
        yield b" "

    for body in (fits + b" ", chunks()):
        assert (await error(server, "POST", f"{COMPOSER}/jobs", body, **JSON))[:2] == (413, 27)

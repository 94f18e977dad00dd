"""JSON that is expensive to decode, and errors that would quote it."""

import asyncio
import json
import time
from collections.abc import Callable

import pytest

from .conftest import COMPOSER, WORKER, Client, Serve, Server

Quiet = Callable[[Server], Client]

SIZE = 31 * 1024 * 1024


def items(item: bytes) -> bytes:
    """Return a JSON array of this item again and again."""
    return b"[" + b",".join([item] * (SIZE // (len(item) + 1))) + b"]"


BODIES = {
    "types": (f"{WORKER}/jobs", b'{"arch":"a","types":%s}' % items(b'"a"')),
    "tiny jobs": (f"{COMPOSER}/jobs/batch", b'{"jobs":%s}' % items(b'{"type":"a"}')),
    "dependencies": (f"{COMPOSER}/jobs", b'{"type":"a","dependencies":%s}' % items(b'""')),
    "dependencies of a batch": (f"{COMPOSER}/jobs/batch", b'{"jobs":[{"type":"a","dependencies":%s}]}' % items(b'""')),
    "an unknown key": (f"{COMPOSER}/jobs", b'{"type":"a","%s":1}' % (b"k" * SIZE)),
    "an unknown value": (f"{COMPOSER}/jobs", b'{"type":"a","on_dependency_failure":"%s"}' % (b"k" * SIZE)),
    "a long type": (f"{COMPOSER}/jobs", b'{"type":"%s"}' % (b"k" * SIZE)),
    "repeated keys": (f"{COMPOSER}/jobs", b'{"type":"a"%s}' % (b',"type":"a"' * (SIZE // 11))),
}


@pytest.mark.parametrize("kind", BODIES)
async def test_large_bodies_of_small_things(serve: Serve, client: Quiet, kind: str) -> None:
    """A large body in place of a small one is refused with a short error, and nobody else has to wait."""
    server = await serve()
    sender, quiet = client(server), client(server)
    path, body = BODIES[kind]
    slowest = 0.0
    sending = asyncio.ensure_future(sender.send("POST", path, body))
    while not sending.done():
        began = time.monotonic()
        assert (await quiet.request("POST", f"{COMPOSER}/jobs", {"type": "quiet"}))[0] == 201
        slowest = max(slowest, time.monotonic() - began)
        await asyncio.sleep(0.001)
    status, error = await sending
    assert (status, error["id"]) in ((400, "19"), (413, "27"))
    assert len(json.dumps(error)) < 1000
    assert slowest < 1  # building all these values takes several seconds


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("jobs", {"type": "a", "dependencies": ["d" * 5000]}),
        ("jobs", {"type": "t" * 5000}),
        ("jobs", {"type": "a", "timeout": "s" * 5000}),
        ("jobs", {"type": "a", "not_before": "2" * 5000}),
        ("jobs", {"type": "a", "u" * 5000: 1}),
        ("jobs", {"type": "a", "u\n" * 2000: 1}),
        ("jobs", {"type": "a", "on_dependency_failure": "o" * 5000}),
        ("jobs/batch", {"jobs": [{"type": "a", "ref": "r" * 5000}]}),
        ("jobs/batch", {"jobs": [{"type": "a", "u" * 5000: 1}]}),
        (f"jobs?wait={'w' * 5000}", {}),
    ],
)
async def test_errors_quote_little(serve: Serve, client: Quiet, path: str, body: object) -> None:
    """Whatever is wrong, an error has no more than 100 characters of what was sent."""
    server = await serve()
    quiet = client(server)
    method = "GET" if "?" in path else "POST"
    status, error = await quiet.request(method, f"{COMPOSER}/{path}", body if method == "POST" else None)
    assert status == 400
    assert max(len(text) for text in error["details"].values() if isinstance(text, str)) <= 200
    for sent in ("d", "t", "s", "2", "u", "u\\n", "o", "r", "w"):
        assert sent * 101 not in json.dumps(error)

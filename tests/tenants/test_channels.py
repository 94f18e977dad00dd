"""Channels that an administrator names: any word may be one, and nothing else."""

import json

import pytest

from composerd.identity.roles import Role

from .world import COMPOSER, WORKER, Caller, World, nobody

ADMIN = Caller(Role.ADMIN)


@pytest.mark.parametrize("channel", ["a b", "\0", "\u2028", "x" * 129, "\x7f", "a\n"])
def test_no_words(world: World, channel: str) -> None:
    """A channel that is no word is error 19 wherever a body or a query names one, and error 39 in a listing."""
    worker = {"arch": "x86_64", "channel": channel}
    quoted = "".join(f"%{byte:02x}" for byte in channel.encode())
    for method, path, body in (
        ("POST", f"{WORKER}/workers", worker),
        ("POST", f"{WORKER}/workers/{nobody()}/status", worker),
        ("POST", f"{WORKER}/workers/{nobody()}/status", {**worker, "types": ["t"]}),
        ("POST", f"{WORKER}/jobs?wait=1ms", {**worker, "types": ["t"]}),
        ("DELETE", f"{WORKER}/workers/{nobody()}?channel={quoted}", None),
        ("POST", f"{COMPOSER}/jobs", {"type": "t", "channel": channel}),
        ("POST", f"{COMPOSER}/jobs/batch", {"jobs": [{"type": "t", "channel": channel}]}),
    ):
        assert world.send(ADMIN, method, path, body).error == (400, 19), (method, path)
    assert world.send(ADMIN, "GET", f"{COMPOSER}/jobs?channel={quoted}").error == (400, 39)


@pytest.mark.parametrize("channel", ["", "org-acme", "x" * 128, "ü/?&=%", "🚀"])
def test_words(world: World, channel: str) -> None:
    """A worker of an administrator gets jobs of the channel that it names, and signs off there."""
    quoted = "".join(f"%{byte:02x}" for byte in channel.encode())
    type, worker_id = world.type(), nobody()
    job = world.sent(ADMIN, "POST", f"{COMPOSER}/jobs", {"type": type, "channel": channel})
    asking = {"types": [type], "arch": "x86_64", "channel": channel, "worker_id": worker_id}
    attempt = world.sent(ADMIN, "POST", f"{WORKER}/jobs?wait=30s", asking)
    world.sent(ADMIN, "PATCH", attempt["location"], {"result": 1})
    assert attempt["id"] == job["id"]
    (ended,) = world.sent(ADMIN, "GET", f"{COMPOSER}/jobs?channel={quoted}&type={type}")["items"]
    assert (ended["id"], ended["state"], ended["worker_id"]) == (job["id"], "finished", worker_id)

    def listed() -> list[str]:
        workers = world.sent(ADMIN, "GET", f"{COMPOSER}/workers")["items"]
        return [json.dumps(one["channel"]) for one in workers if one["id"] == worker_id]

    assert listed() == [json.dumps(channel)]
    assert world.send(ADMIN, "DELETE", f"{WORKER}/workers/{worker_id}?channel={quoted}").status == 204
    assert listed() == []


@pytest.mark.parametrize("query", ["channel=%ff", "channel=%ed%a0%80", "channel=%", "channel"])
def test_queries_that_are_no_text(world: World, query: str) -> None:
    """A query that is not UTF-8 is answered as any other."""
    assert world.send(ADMIN, "DELETE", f"{WORKER}/workers/{nobody()}?{query}").status in (204, 400)
    assert world.send(ADMIN, "GET", f"{COMPOSER}/jobs?{query}").status in (200, 400)

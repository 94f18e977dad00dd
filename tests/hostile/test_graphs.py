"""Graphs with many edges: what a submission may have, and what their jobs cost others."""

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from .conftest import COMPOSER, Client, Serve

BATCH = f"{COMPOSER}/jobs/batch"
NEAR = 6000
"""Number of dependents of the job that is the hub of a graph."""


def jobs_that_name(ids: Sequence[str], count: int) -> dict[str, Any]:
    """Return a batch of jobs that all depend on the same ones."""
    return {"jobs": [{"type": "far", "dependencies": list(ids)}] * count}


async def submitted(client: Client, batch: dict[str, Any]) -> list[str]:
    """Submit a batch, and return the ids of its jobs."""
    status, answer = await client.request("POST", BATCH, batch)
    assert status == 201, answer
    return [job["id"] for job in answer["items"]]


async def hub_of_many(client: Client) -> tuple[str, list[str]]:
    """Submit a job and many others that depend on it, in several batches; return its id and theirs."""
    (hub,) = await submitted(client, {"jobs": [{"type": "hub"}]})
    near = [one for _ in range(NEAR // 1000) for one in await submitted(client, jobs_that_name([hub], 1000))]
    return hub, near


async def is_ready(client: Client, job_id: str) -> bool:
    """Return True if a job is ready."""
    _, job = await client.request("GET", f"{COMPOSER}/jobs/{job_id}")
    return bool(job["state"] == "ready")


async def test_a_batch_with_too_many_edges(serve: Serve, client: Callable[..., Client]) -> None:
    """More than 10,000 dependencies of a batch are refused with the limit, and nothing is stored; 10,000 are stored."""
    greedy = client(await serve())
    ids = await submitted(greedy, {"jobs": [{"type": "near"}] * 100})
    status, answer = await greedy.request("POST", BATCH, jobs_that_name(ids, 101))
    assert (status, answer["id"], answer["details"]["field"], answer["details"]["limit"]) == (400, "19", "jobs", 10_000)
    _, listed = await greedy.request("GET", f"{COMPOSER}/jobs?type=far")
    assert listed["items"] == []
    status, answer = await greedy.request("POST", BATCH, jobs_that_name(ids, 100))
    assert status == 201
    assert sum(len(job["dependencies"]) for job in answer["items"]) == 10_000
    refs = {"jobs": [{"type": "a", "ref": f"{n}", "dependencies": [f"{m}" for m in range(n)]} for n in range(1000)]}
    assert (await greedy.request("POST", BATCH, refs))[0] == 400


async def test_answers_do_not_grow_with_edges(serve: Serve, client: Callable[..., Client]) -> None:
    """Listings are without edges, a job and a repeated batch show few of them, and all are in pages of their own."""
    greedy = client(await serve())
    keyed = {"jobs": [{"type": "near", "idempotency_key": f"k{n}"} for n in range(100)]}
    ids = await submitted(greedy, keyed)
    far = [one for _ in range(15) for one in await submitted(greedy, jobs_that_name(ids, 100))]
    for path, body, most in (
        ("/jobs?limit=1000", None, 1_300_000),
        ("/jobs/batch", keyed, 100_000),
        (f"/jobs/{ids[0]}", None, 45_000),
        (f"/jobs/{far[0]}/why", None, 10_000),
    ):
        _, answer = await greedy.request("GET" if body is None else "POST", COMPOSER + path, body)
        assert len(json.dumps(answer)) < most, path
    _, job = await greedy.request("GET", f"{COMPOSER}/jobs/{ids[0]}")
    assert job["dependents"] == far[:1000]
    shown: list[str] = []
    query = "?limit=1000"
    while query:
        _, page = await greedy.request("GET", f"{COMPOSER}/jobs/{ids[0]}/dependents{query}")
        shown += page["items"]
        query = f"?limit=1000&cursor={page['next']}" if page["next"] else ""
    assert shown == far


@pytest.mark.parametrize("end", ["cancel", "finish"])
async def test_the_end_of_a_hub(serve: Serve, client: Callable[..., Client], end: str) -> None:
    """While the end of a job is propagated to very many others, another client gets one answer after the other."""
    server = await serve()
    greedy, quiet = client(server), client(server)
    hub, near = await hub_of_many(greedy)
    other = (await submitted(quiet, {"jobs": [{"type": "other"}]}))[0]
    got = await server.ask("hub")
    answers = 0
    over = asyncio.Event()

    async def go_on() -> None:
        nonlocal answers
        while not over.is_set():
            assert (await quiet.request("GET", f"{COMPOSER}/jobs/{other}"))[0] == 200
            answers += 1

    going_on = asyncio.create_task(go_on())
    if end == "cancel":
        status, job = await greedy.request("POST", f"{COMPOSER}/jobs/{hub}/cancel")
        assert (status, job["state"]) == (200, "canceled")
        _, last = await greedy.request("GET", f"{COMPOSER}/jobs/{near[0]}?wait=60s")  # it is the last one
        assert last["state"] == "canceled"
    else:
        assert got is not None
        await server.finish(got)
        await server.until(lambda: is_ready(greedy, near[0]))
    over.set()
    await going_on
    assert answers >= 10


async def test_a_kill_between_slices(serve: Serve, client: Callable[..., Client]) -> None:
    """A cancel that was answered is complete after a kill right behind the answer: nothing that depends on it waits."""
    server = await serve()
    greedy = client(server)
    hub, near = await hub_of_many(greedy)
    status, _ = await greedy.request("POST", f"{COMPOSER}/jobs/{hub}/cancel")
    server.kill()
    assert status == 200
    await server.exited()
    await server.start()
    again = client(server)
    _, last = await again.request("GET", f"{COMPOSER}/jobs/{near[0]}?wait=60s")
    assert last["state"] == "canceled"
    _, waiting = await again.request("GET", f"{COMPOSER}/jobs?state=waiting")
    assert waiting["items"] == []


async def test_a_page_is_bounded_in_bytes(serve: Serve, client: Callable[..., Client]) -> None:
    """A page of jobs whose names are as long as they may be is short, and the following pages have the others."""
    greedy = client(await serve())
    name = "\N{GRINNING FACE}" * 128
    batch = {"jobs": [{"type": name, "channel": name}] * 1000}
    ids = await submitted(greedy, batch)
    shown: list[str] = []
    query = "?limit=1000"
    while query:
        _, page = await greedy.request("GET", f"{COMPOSER}/jobs{query}")
        assert len(json.dumps(page, ensure_ascii=False).encode()) < 1_400_000
        shown += [job["id"] for job in page["items"]]
        query = f"?limit=1000&cursor={page['next']}" if page["next"] else ""
    assert shown == ids[::-1]

"""The roster of workers: nobody describes another client's worker, and the list has pages and a bound."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from ..live.conftest import until_waiting
from .conftest import COMPOSER, WORKER, Attacker, Client, Serve, Server, head

Clients = Callable[..., Client]

INVENTED = 4000
"""Workers with the most and longest types: 52 MB if all were remembered, and one client may have half of 64 MiB."""

PARTS = 8


async def ask(client: Client, worker_id: str, *types: str) -> tuple[int, Any]:
    """Ask for a job without waiting, as a worker that names its id."""
    body = {"types": types, "arch": "x86_64", "worker_id": worker_id}
    return await client.request("POST", f"{WORKER}/jobs?wait=0s", body)


async def types_of(server: Server, worker_id: str) -> list[str]:
    """Return the types of a worker as the list shows them."""
    _, listed = await server.request("GET", f"{COMPOSER}/workers")
    (worker,) = (one for one in listed["items"] if one["id"] == worker_id)
    return worker["types"]  # type: ignore[no-any-return]


async def test_another_client_names_a_worker(serve: Serve, client: Clients) -> None:
    """A request from another address that names a worker gets its job, and changes nothing of the worker."""
    server = await serve()
    owner, other = client(server), client(server)
    status, registered = await owner.request("POST", f"{WORKER}/workers", {"arch": "x86_64"})
    assert status == 201
    worker_id = registered["worker_id"]
    assert (await ask(owner, worker_id, "build"))[0] == 204
    await server.submit("other")
    status, got = await ask(other, worker_id, "other", "more")
    assert status == 201
    assert (await other.request("PATCH", got["location"], {"result": {}}))[0] == 200
    assert (await other.request("POST", f"{WORKER}/workers/{worker_id}/status", {}))[0] == 200
    assert await types_of(server, worker_id) == ["build"]
    assert (await ask(owner, worker_id, "test"))[0] == 204
    assert await types_of(server, worker_id) == ["test"]


async def test_another_client_signs_a_worker_off(serve: Serve, client: Clients) -> None:
    """A sign-off or a problem from another address has the usual answer, and changes nothing of the worker."""
    server = await serve()
    owner, other = client(server), client(server)
    worker_id = "12345678-1234-4123-8123-000000000000"
    status = {"arch": "x86_64", "types": ["build"]}
    path = f"{WORKER}/workers/{worker_id}"
    waiting = asyncio.create_task(
        owner.request("POST", f"{WORKER}/jobs?wait=1m", {**status, "worker_id": worker_id, "slots": 1})
    )
    await until_waiting(server, 1)
    await other.request("GET", f"{COMPOSER}/workers")  # reports the worker that waits; the next one in a minute
    assert (await other.request("DELETE", path))[0] == 204
    assert (await other.request("POST", f"{path}/status", {**status, "problem": "not mine"}))[0] == 200
    _, page = await other.request("GET", f"{COMPOSER}/workers")
    assert [(one["id"], one["types"], one["problem"]) for one in page["items"]] == [(worker_id, ["build"], None)]
    job = await server.submit()
    assert (await waiting)[1]["id"] == job["id"]
    assert (await owner.request("DELETE", path))[0] == 204
    assert (await owner.request("GET", f"{COMPOSER}/workers"))[1]["items"] == []


async def test_the_list_has_pages(serve: Serve, client: Clients) -> None:
    """The list of workers comes in pages, each worker once, the latest first; a bad cursor or limit is an error."""
    server = await serve()
    quiet = client(server)
    ids = [f"12345678-1234-4123-8123-00000000000{n}" for n in range(5)]
    for worker_id in ids:
        await ask(quiet, worker_id, "build")
        await server.request("GET", f"{COMPOSER}/workers")  # so that they are reported one after the other
    found: list[str] = []
    path = f"{COMPOSER}/workers?limit=2"
    cursor = ""
    while True:
        status, page = await quiet.request("GET", path + cursor)
        assert (status, len(page["items"]) <= 2) == (200, True)
        found += [one["id"] for one in page["items"]]
        if "next" not in page:
            break
        cursor = f"&cursor={page['next']}"
    assert found == ids[::-1]
    for wrong in ("limit=0", "limit=1001", "limit=x", "cursor=x", "cursor=AAAA", "limit=1&limit=2", "type=build"):
        status, error = await quiet.request("GET", f"{COMPOSER}/workers?{wrong}")
        assert (status, error["id"]) == (400, "39")


async def test_invented_workers(serve: Serve, client: Clients, attacker: Callable[..., Attacker]) -> None:
    """Workers that one client invents have a bound in bytes, its latest are listed, and so are those of others."""
    server = await serve()
    quiet, loud = client(server), attacker(server)
    mine = "22345678-1234-4123-8123-000000000000"
    await ask(quiet, mine, "build")
    types = [f"{n:03}".ljust(128, "x") for n in range(63)]

    async def invent(part: int) -> None:
        reader, writer = await loud.connect()
        for n in range(part, INVENTED, PARTS):
            worker_id = f"12345678-1234-4123-8123-{n:012}"
            body = json.dumps({"types": [f"{n}".ljust(128, "y"), *types], "arch": "a", "worker_id": worker_id}).encode()
            writer.write(head("POST", f"{WORKER}/jobs?wait=0s", f"Content-Length: {len(body)}") + body)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")

    await asyncio.gather(*map(invent, range(PARTS)))
    listed: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        _, page = await quiet.request("GET", f"{COMPOSER}/workers?limit=1000{cursor}")
        assert len(json.dumps(page)) < 2 * 1024 * 1024
        listed += [one["id"] for one in page["items"]]
        cursor = f"&cursor={page['next']}" if "next" in page else None
    assert mine in listed
    assert 100 < len(listed) < INVENTED * 3 // 4

"""Workers that say why they ask for no jobs, and that sign off when they end, with real servers."""

import asyncio
import json
import re
import uuid
from typing import Any

import aiohttp
import pytest

from ..throwaway import Throwaway
from .conftest import COMPOSER, JSON, NOBODY, WORKER, Serve, Server, error, send, until_waiting

row = pytest.mark.row
ON_WORKER = "Worker API"

DESCRIBED = {"arch": "x86_64", "types": ["build"]}


async def listed(server: Server) -> dict[str, dict[str, Any]]:
    """Return the workers that the server lists, by id."""
    status, workers = await server.request("GET", f"{COMPOSER}/workers")
    assert status == 200
    return {one["id"]: one for one in workers["items"]}


async def say(server: Server, worker_id: str, **fields: Any) -> None:
    """Send the status of a worker, which must be accepted."""
    assert (await server.request("POST", f"{WORKER}/workers/{worker_id}/status", fields))[0] == 200


async def sign_off(server: Server, worker_id: str) -> None:
    """Sign a worker off, which must be accepted."""
    assert await server.request("DELETE", f"{WORKER}/workers/{worker_id}") == (204, b"")


async def why(server: Server, job: dict[str, Any]) -> tuple[str, int, int]:
    """Return why a ready job is not running, and how many workers there are for it, and paused ones."""
    status, answer = await server.request("GET", f"{COMPOSER}/jobs/{job['id']}/why")
    assert status == 200
    return answer["reason"], answer["workers"], answer["paused"]


async def asked_again(server: Server, worker_id: str, at: Server | None = None) -> None:
    """Let a worker that has signed off ask again until it is listed."""

    async def back() -> bool:
        await server.ask("nothing", wait="0s", worker_id=worker_id)
        return worker_id in await listed(at or server)

    await server.until(back)


async def test_a_worker_with_a_problem(server: Server) -> None:
    """A worker that describes itself with a problem is listed with it, and no job waits for it, until it asks again."""
    worker_id = str(uuid.uuid4())
    job = await server.submit()
    await say(server, worker_id, **DESCRIBED, problem="the disk is full")
    shown = (await listed(server))[worker_id]
    assert (shown["arch"], shown["types"], shown["problem"]) == ("x86_64", ["build"], "the disk is full")
    assert await why(server, job) == (
        "No live worker for type build asks for jobs. 1 worker for it is paused: the disk is full.",
        0,
        1,
    )
    other = str(uuid.uuid4())
    await say(server, other, **DESCRIBED, problem="no network.")
    await server.ask("build", "test", wait="0s", worker_id=str(uuid.uuid4()))
    second = await server.submit()
    assert await why(server, second) == (
        (
            "It is next in line. Workers for type build: 1, busy. "
            "2 workers for it are paused, the one that was seen last because of: no network."
        ),
        1,
        2,
    )
    await server.ask(worker_id=worker_id)
    await say(server, other)
    assert [one["problem"] for one in (await listed(server)).values()] == [None] * 3
    third = await server.submit()
    assert (await why(server, third))[1:] == (3, 0)


async def test_a_problem_with_control_characters(server: Server) -> None:
    """Control characters of a problem are shown as escapes, and an empty problem is none."""
    worker_id = str(uuid.uuid4())
    job = await server.submit()
    await say(server, worker_id, **DESCRIBED, problem=" full\x00\n\x1b[31m é\u202e ")
    shown = (await listed(server))[worker_id]
    assert shown["problem"] == "full\\u0000\\n\\u001b[31m é\\u202e"
    assert (await why(server, job))[0].endswith(f"1 worker for it is paused: {shown['problem']}.")
    await say(server, worker_id, **DESCRIBED, problem=" \n")
    assert (await listed(server))[worker_id]["problem"] is None


async def test_the_problem_of_a_registered_worker(server: Server) -> None:
    """A known worker may say its problem without describing itself; a heartbeat of its job leaves the problem."""
    await server.submit()
    _, registered = await server.request("POST", f"{WORKER}/workers", {"arch": "x86_64"})
    worker_id = registered["id"]
    attempt = await server.ask(worker_id=worker_id)
    assert attempt is not None
    await say(server, worker_id, problem="the disk is full")
    assert (await server.request("GET", attempt["location"]))[0] == 200
    shown = (await listed(server))[worker_id]
    assert (shown["types"], shown["jobs"], shown["problem"]) == (["build"], [attempt["id"]], "the disk is full")
    await say(server, worker_id)
    assert (await listed(server))[worker_id]["problem"] is None


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({**DESCRIBED, "problem": "x" * 501}, "problem"),
        ({**DESCRIBED, "problem": 1}, "problem"),
        ({"arch": "a b", "types": ["build"]}, "arch"),
        ({"arch": "x86_64", "types": ["a b"]}, "types[0]"),
        ({"arch": "x86_64", "types": []}, "types"),
        ({"arch": "x86_64", "types": ["t"] * 65}, "types"),
        ({"arch": "x" * 129, "types": ["t"]}, "arch"),
    ],
)
async def test_bad_statuses(server: Server, body: dict[str, Any], field: str) -> None:
    """A status whose fields have bad values is an error that names the field, and lists nobody."""
    data = json.dumps(body).encode()
    status, number, details = await error(server, "POST", f"{WORKER}/workers/{NOBODY}/status", data, **JSON)
    assert (status, number, details["field"]) == (400, 19, field)
    assert await listed(server) == {}


async def test_statuses_of_other_workers(server: Server) -> None:
    """A body that is no JSON object, and fields that are unknown, are ignored; a forbidden type is refused."""
    _, registered = await server.request("POST", f"{WORKER}/workers", {"arch": "x86_64"})
    path = f"{WORKER}/workers/{registered['id']}/status"
    for body in (
        b"",
        b"{",
        b"[1]",
        b"null",
        b'"text"',
        b"\xff",
        b"[" * 5000,
        b'{"load": [1], "region": {}}',
        b'{"types": null}',
    ):
        assert (await send(server, "POST", path, body, **JSON))[::2] == (200, b"")
    assert list(await listed(server)) == [registered["id"]]
    manifest = json.dumps({"arch": "x86_64", "types": ["manifest-id-only"]}).encode()
    assert (await error(server, "POST", path, manifest, **JSON))[:2] == (400, 15)


@row(ON_WORKER, "signOffWorker")
async def test_a_worker_signs_off(server: Server) -> None:
    """A worker that has signed off is listed no more, nor counted, until it asks again; its job stays with it."""
    first, second = await server.submit(), await server.submit()
    worker_id = str(uuid.uuid4())
    attempt = await server.ask(worker_id=worker_id)
    assert attempt is not None
    assert attempt["id"] == first["id"]
    assert list(await listed(server)) == [worker_id]
    await sign_off(server, worker_id)
    assert await listed(server) == {}
    assert await why(server, second) == ("No live worker is known for type build.", 0, 0)
    assert await server.request("GET", attempt["location"]) == (
        200,
        {"kind": "JobStatus", "href": attempt["location"], "id": attempt["token"], "canceled": False},
    )
    status, refused = await server.request("POST", f"{WORKER}/workers/{worker_id}/status", {"problem": "late"})
    assert (status, refused["id"]) == (400, "18")
    assert await listed(server) == {}  # for a list, the server first reports who was seen
    assert (await server.finish(attempt, {"n": 1}))[0] == 200
    again = await server.ask(worker_id=worker_id)
    assert again is not None
    await asked_again(server, worker_id)
    assert (await listed(server))[worker_id]["jobs"] == [again["id"]]


async def test_nobody_signs_off(server: Server) -> None:
    """Signing off twice, and an unknown or the nil id, are answered as for a known one; what is no id is error 17."""
    worker_id = str(uuid.uuid4())
    await say(server, worker_id, **DESCRIBED)
    for one in (worker_id, worker_id, NOBODY, "00000000-0000-0000-0000-000000000000"):
        await sign_off(server, one)
    assert (await send(server, "DELETE", f"{WORKER}/workers/{worker_id}", b"{}", **JSON))[0] == 204
    assert (await error(server, "DELETE", f"{WORKER}/workers/me"))[:2] == (400, 17)
    assert (await error(server, "GET", f"{WORKER}/workers/{worker_id}"))[:2] == (405, 12)
    assert await listed(server) == {}


async def test_a_request_that_waits_when_its_worker_signs_off(server: Server) -> None:
    """A request that still waits does not list its worker again when it ends."""
    worker_id = str(uuid.uuid4())
    waiting = asyncio.create_task(server.ask("nothing", wait="1m", worker_id=worker_id))
    await until_waiting(server, 1)
    await sign_off(server, worker_id)
    assert await listed(server) == {}
    waiting.cancel()
    await asyncio.wait([waiting])
    await until_waiting(server, 0)
    assert await listed(server) == {}


async def test_slots_of_a_worker_that_signs_off(server: Server) -> None:
    """The requests of a worker that has declared its slots end when it signs off, those of others go on."""
    worker_id, other_id = str(uuid.uuid4()), str(uuid.uuid4())
    own = [
        asyncio.create_task(server.ask(*types, wait="1m", worker_id=worker_id, slots=2)) for types in ("ab", "c", "c")
    ]
    other = asyncio.create_task(server.ask(wait="1m", worker_id=other_id, slots=2))
    await until_waiting(server, 4)
    await sign_off(server, worker_id)
    assert await asyncio.gather(*own) == [None] * 3
    await until_waiting(server, 1)
    assert list(await listed(server)) == [other_id]
    job = await server.submit()
    given = await other
    assert given is not None
    assert given["id"] == job["id"]


async def test_signing_off_at_another_server(serve: Serve, newest_postgres: Throwaway) -> None:
    """A worker that asks one server and signs off at another is listed by neither, whatever the first reports later."""
    url = newest_postgres.fresh()
    first, second = [await serve(storage=url) for _ in range(2)]
    worker_id = str(uuid.uuid4())
    job = await first.submit("other")
    waiting = asyncio.create_task(first.ask(wait="1m", worker_id=worker_id))
    await until_waiting(first, 1)
    await say(first, str(uuid.uuid4()), **DESCRIBED)
    await sign_off(second, worker_id)  # before the first server has reported that it was seen
    assert worker_id not in await listed(second)
    assert (await why(second, job))[1] == 0
    waiting.cancel()
    await asyncio.wait([waiting])
    await until_waiting(first, 0)
    for server in (first, second):  # for a list, the first server first reports who was seen
        assert worker_id not in await listed(server)
        assert len(await listed(server)) == 1
    await asked_again(first, worker_id, second)


async def test_one_of_several_processes(serve: Serve, newest_postgres: Throwaway) -> None:
    """With several processes, what a worker says last counts, whichever of them it has spoken to."""
    server = await serve("--processes", "2", storage=newest_postgres.fresh())
    ids = [str(uuid.uuid4()) for _ in range(8)]
    for worker_id in ids:
        for problem in ("first", "second", None, "third"):  # each on a connection of its own, to any process
            await send(
                server,
                "POST",
                f"{WORKER}/workers/{worker_id}/status",
                json.dumps({**DESCRIBED, "problem": problem}).encode(),
                **JSON,
            )
    for worker_id in ids[::2]:
        await send(server, "DELETE", f"{WORKER}/workers/{worker_id}")
    asked: set[str] = set()
    while len(asked) < 2:  # for a list, a process first reports who was seen
        async with aiohttp.ClientSession() as http:  # which has one connection, to one of them
            async with http.get(f"{server.url}/metrics") as answer:
                (number,) = set(re.findall(r'composerd_waits\{process="(\d+)"\}', await answer.text()))
            async with http.get(f"{server.url}{COMPOSER}/workers") as answer:
                assert answer.status == 200
        asked.add(number)
    _, _, body = await send(server, "GET", f"{COMPOSER}/workers")
    assert {one["id"]: one["problem"] for one in json.loads(body)["items"]} == dict.fromkeys(ids[1::2], "third")

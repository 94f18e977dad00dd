"""The list of workers, and the reasons why a job is not running, with a real server."""

import asyncio
import json
import uuid

import pytest

from .conftest import COMPOSER, JSON, NOBODY, WORKER, Serve, Server, error, send


async def listed(server: Server) -> list[dict[str, object]]:
    """Return the workers that the server lists."""
    status, workers = await server.request("GET", f"{COMPOSER}/workers")
    assert (status, workers["kind"]) == (200, "WorkerList")
    return workers["items"]  # type: ignore[no-any-return]


async def test_registering(server: Server) -> None:
    """A worker that registers is listed, and any body of its status is accepted."""
    status, registered = await server.request("POST", f"{WORKER}/workers", {"arch": "x86_64"})
    assert (status, registered["kind"], registered["id"]) == (201, "WorkerID", registered["worker_id"])
    for body in (b"", b"{}", b"not JSON"):
        answered = await send(server, "POST", f"{WORKER}/workers/{registered['id']}/status", body, **JSON)
        assert (answered[0], answered[2]) == (200, b"")
    (worker,) = await listed(server)
    assert (worker["id"], worker["arch"], worker["types"], worker["jobs"]) == (registered["id"], "x86_64", [], [])


@pytest.mark.parametrize(
    ("worker_id", "number"), [(NOBODY, 18), ("00000000-0000-0000-0000-000000000000", 18), ("me", 17)]
)
async def test_unknown_workers(server: Server, worker_id: str, number: int) -> None:
    """The status of an unknown worker is an error, and the nil id is never listed as a worker."""
    await server.submit()
    attempt = await server.ask(worker_id="00000000-0000-0000-0000-000000000000")
    assert attempt is not None
    await server.request("GET", attempt["location"])
    assert (await error(server, "POST", f"{WORKER}/workers/{worker_id}/status"))[:2] == (400, number)
    assert await listed(server) == []


@pytest.mark.parametrize("body", [{}, {"arch": ""}, {"arch": "a b"}, {"arch": 1}])
async def test_invalid_registrations(server: Server, body: object) -> None:
    """A worker without a valid arch is not registered."""
    status, number, details = await error(server, "POST", f"{WORKER}/workers", json.dumps(body).encode(), **JSON)
    assert (status, number, details["field"]) == (400, 19, "arch")


async def test_workers_without_registration(server: Server) -> None:
    """A worker that requests jobs without registering is listed with its types and its running jobs."""
    worker_id = str(uuid.uuid4())
    job = await server.submit()
    await server.ask(worker_id=worker_id)
    (worker,) = await listed(server)
    assert (worker["id"], worker["types"], worker["jobs"]) == (worker_id, ["build"], [job["id"]])
    assert (await send(server, "POST", f"{WORKER}/workers/{worker_id}/status"))[0] == 200


async def test_silent_workers_are_removed(serve: Serve) -> None:
    """A silent worker is removed from the list after the timeout; waiting and running workers are not."""
    server = await serve("--worker-timeout", "2s")
    silent, waiting, running = (str(uuid.uuid4()) for _ in range(3))
    await server.submit()
    attempt = await server.ask(worker_id=running)
    assert attempt is not None
    request = asyncio.create_task(server.ask("nothing", worker_id=waiting))
    await server.ask("nothing", wait="1ms", worker_id=silent)
    assert {worker["id"] for worker in await listed(server)} == {silent, waiting, running}

    async def removed() -> bool:
        await server.request("GET", attempt["location"])
        ids = {worker["id"] for worker in await listed(server)}
        assert ids >= {waiting, running}
        return silent not in ids

    await server.until(removed)
    request.cancel()
    await asyncio.wait([request])


async def why(server: Server, job: dict[str, str]) -> dict[str, object]:
    """Return the answer of the endpoint `why` for a job."""
    status, answer = await server.request("GET", f"{COMPOSER}/jobs/{job['id']}/why")
    assert (status, answer["kind"], answer["id"]) == (200, "JobWhy", job["id"])
    return answer  # type: ignore[no-any-return]


async def test_why(server: Server) -> None:
    """The answer says whether a job waits for dependencies, for its time, for workers or for jobs ahead of it."""
    first = await server.submit(arch="x86_64")
    second = await server.submit(arch="x86_64", priority=-1)
    blocked = await server.submit(dependencies=[first["id"], second["id"]])
    delayed = await server.submit(not_before="1h")
    assert (await why(server, blocked))["blocked_by"] == [first["id"], second["id"]]
    answer = await why(server, delayed)
    assert (answer["delayed_until"], answer["blocked_by"]) == (delayed["not_before"], [])
    answer = await why(server, second)
    assert (answer["workers"], answer["ahead"]) == (0, 1)
    assert answer["reason"] == "No live worker is known for type build, arch x86_64."
    attempt = await server.ask(worker_id=str(uuid.uuid4()))
    assert attempt is not None
    answer = await why(server, second)
    assert (answer["workers"], answer["ahead"]) == (1, 0)
    assert (await why(server, first))["reason"] == "It is running."
    await server.finish(attempt)
    assert (await why(server, blocked))["blocked_by"] == [second["id"]]
    assert (await why(server, first))["reason"] == "It has ended: finished."
    assert (await error(server, "GET", f"{COMPOSER}/jobs/{NOBODY}/why"))[:2] == (404, 32)

"""Requests for jobs that are sent again, with an id, to one server or to several, before and after a crash."""

import asyncio
import signal
from uuid import uuid4

from ..throwaway import Throwaway
from .conftest import COMPOSER, NOBODY, WORKER, Serve, Server, until_waiting

NOT_RANDOM = "12345678-1234-1123-8123-123456789abc"
"""A UUID of version 1."""


async def test_the_same_id_gets_the_same_job_after_a_crash(serve: Serve) -> None:
    """A request with an id that is repeated after the server was killed gets the same job with the same token."""
    server = await serve()
    for _ in range(2):
        await server.submit(args={"n": 1})
    name = str(uuid4())
    first = await server.ask(confirm=True, request_id=name, worker_id=NOBODY)
    assert first is not None
    assert first["location"].endswith(first["token"])
    server.kill(signal.SIGKILL)
    await server.exited()
    await server.start()
    assert await server.ask(confirm=True, request_id=name, worker_id=NOBODY) == first
    other = await server.ask(confirm=True, request_id=str(uuid4()), worker_id=NOBODY)
    assert other is not None
    assert other["id"] != first["id"]
    assert (await server.finish(first, 1))[0] == 200
    status, error = await server.request(
        "POST", f"{WORKER}/jobs", {"types": ["build"], "arch": "x86_64", "request_id": name, "worker_id": NOBODY}
    )
    assert (status, error["id"]) == (409, "44")


async def test_an_id_is_a_random_uuid(server: Server) -> None:
    """A request id that is no UUID of version 4 is error 19, and so are slots that are no number from 1 to 1,000."""
    wrong: list[dict[str, object]] = [{"request_id": name} for name in ("x", "", 7, NOBODY[:-1], NOT_RANDOM)]
    wrong += [{"worker_id": NOBODY, "slots": slots} for slots in (0, 1001, "1", 1.5)]
    for fields in wrong:
        body = {"types": ["build"], "arch": "x86_64", **fields}
        status, error = await server.request("POST", f"{WORKER}/jobs", body)
        assert (fields, status, error["id"]) == (fields, 400, "19")


async def test_an_older_request_of_a_worker_ends(server: Server) -> None:
    """A worker that asks again beyond its slots ends its older request, which is answered 204."""
    older = asyncio.create_task(server.ask(worker_id=NOBODY, slots=1))
    await until_waiting(server, 1)
    newer = asyncio.create_task(server.ask(worker_id=NOBODY, slots=1))
    assert await older is None
    submitted = await server.submit()
    job = await newer
    assert job is not None
    assert job["id"] == submitted["id"]


async def test_one_id_at_two_servers_gets_one_job(serve: Serve, newest_postgres: Throwaway) -> None:
    """Requests with one id that arrive at two servers at the same time get the same job, waiting or not."""
    url = newest_postgres.fresh()
    servers = [await serve("--sweep-interval", "1s", storage=url) for _ in range(2)]
    for n in range(20):
        name = str(uuid4())
        if n % 2:
            for _ in range(3):
                await servers[0].submit(type=f"t{n}")
        asked = [
            asyncio.create_task(server.ask(f"t{n}", confirm=True, request_id=name, wait="5s"))
            for server in servers
            for _ in range(2)
        ]
        if not n % 2:
            await asyncio.sleep(0.02 * (n % 5))  # some wait already, others do not
            for _ in range(3):
                await servers[0].submit(type=f"t{n}")
        got = [job for one in asked if (job := await one) is not None]
        assert got
        assert len({(job["id"], job["token"]) for job in got}) == 1
        _, listed = await servers[0].request("GET", f"{COMPOSER}/jobs?type=t{n}&state=running")
        assert [one["id"] for one in listed["items"]] == [got[0]["id"]]

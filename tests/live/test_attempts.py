"""Attempts with a real server: leases, cancels, releases, restarts and kills."""

import asyncio
import time
from typing import Any

import aiohttp

from .conftest import COMPOSER, WORKER, Serve, Server, until_waiting


async def test_cancel_reaches_a_waiting_worker_within_100_ms(serve: Serve) -> None:
    """A worker that waits for a change of its attempt learns of a cancel at once, and can no longer finish the job."""
    server = await serve()
    submitted = await server.submit()
    job = await server.ask()
    assert job is not None
    took: list[float] = []
    for _ in range(5):
        listening = asyncio.create_task(server.request("GET", job["location"] + "?wait=30s"))
        await until_waiting(server, 1)
        began = time.monotonic()
        status, canceled = await server.request("POST", f"{COMPOSER}/jobs/{submitted['id']}/cancel")
        assert (status, canceled["state"], canceled["canceled"]) == (200, "canceled", True)
        status, answer = await listening
        took.append(time.monotonic() - began)
        assert (status, answer["canceled"]) == (200, True)
        status, error = await server.finish(job, {})
        assert (status, error["id"], error["details"]) == (400, "6", {"state": "canceled"})
        submitted = await server.submit()
        job = await server.ask()
        assert job is not None
    assert min(took) < 0.1  # a busy machine may be slower now and then
    assert max(took) < 10


async def test_an_expired_lease_requeues_the_job(serve: Serve) -> None:
    """A job is requeued when its worker falls silent; it fails once that happens more than `max_retries` times."""
    server = await serve("--heartbeat-timeout", "1s", "--sweep-interval", "100ms", "--max-retries", "1")
    submitted = await server.submit()
    first = await server.ask_and_confirm()
    second = await server.ask_and_confirm(wait="10s")
    assert first["id"] == second["id"] == submitted["id"]
    assert (await server.job(submitted["id"]))["retries"] == 1
    status, error = await server.finish(first, {})
    assert (status, error["id"]) == (410, "22")
    ended = await server.job(submitted["id"], wait="10s")
    assert ended["state"] == "failed"
    assert ended["result"] == {
        "job_error": {
            "id": 27,
            "reason": "Workers running this job stopped responding more than 1 times.",
            "details": None,
        }
    }


async def test_a_heartbeat_keeps_the_lease(serve: Serve) -> None:
    """A worker that sends heartbeats keeps its job."""
    server = await serve("--heartbeat-timeout", "1500ms", "--sweep-interval", "100ms")
    await server.submit()
    job = await server.ask()
    assert job is not None
    began = time.monotonic()
    while time.monotonic() - began < 3:
        assert (await server.request("GET", job["location"]))[0] == 200
        await asyncio.sleep(0.1)
    assert (await server.finish(job, {}))[0] == 200
    assert (await server.job(job["id"]))["retries"] == 0


async def test_an_unconfirmed_handover_requeues_the_job(serve: Serve) -> None:
    """A handover that is not confirmed in time requeues the job uncounted; a confirmed one starts the lease."""
    server = await serve("--handover-timeout", "1s", "--heartbeat-timeout", "60s")
    submitted = await server.submit()
    lost = await server.ask(confirm=True)
    job = await server.ask(confirm=True)
    assert lost is not None
    assert job is not None
    assert job["id"] == submitted["id"]
    assert (await server.request("GET", job["location"]))[0] == 200
    assert (await server.request("GET", lost["location"]))[0] == 410
    await server.submit("later")
    assert await server.ask("later", confirm=True) is not None
    assert await server.ask("later") is not None  # so the handover timeout is over for the first job, too
    assert (await server.finish(job, {}))[0] == 200
    assert (await server.job(submitted["id"]))["retries"] == 0


async def test_a_released_job_is_assigned_again(serve: Serve) -> None:
    """A release requeues the job at once, does not count as a retry, and supersedes the token."""
    server = await serve()
    submitted = await server.submit()
    job = await server.ask()
    assert job is not None
    status, _ = await server.request("POST", job["location"] + "/release", {})
    assert status == 200
    again = await server.ask(wait="2s")
    assert again is not None
    assert again["id"] == submitted["id"]
    assert (await server.request("GET", job["location"]))[1]["canceled"] is True
    assert (await server.request("POST", job["location"] + "/release", {}))[0] == 410
    assert (await server.job(submitted["id"]))["retries"] == 0


async def test_a_kill_loses_nothing_acknowledged(serve: Serve) -> None:
    """After a kill under load every acknowledged submission and result exists, and running attempts go on."""
    server = await serve("--heartbeat-timeout", "60s")
    submitted: dict[str, Any] = {}
    finished: dict[str, Any] = {}
    unknown: dict[str, Any] = {}
    running: list[dict[str, Any]] = []

    async def load(name: int) -> None:
        number = 0
        try:
            while True:
                number += 1
                args = {"n": [name, number]}
                job = await server.submit(args=args)
                submitted[job["id"]] = args
                mine = await server.ask(wait="5s")
                assert mine is not None
                if number % 5 == 0:
                    running.append(mine)
                    continue
                unknown[mine["id"]] = {"done": mine["id"]}
                status, _ = await server.finish(mine, {"done": mine["id"]})
                assert status == 200
                finished[mine["id"]] = unknown.pop(mine["id"])
        except aiohttp.ClientError:
            return

    for _ in range(5):
        async with asyncio.TaskGroup() as tasks:
            for name in range(8):
                tasks.create_task(load(name))
            tasks.create_task(_kill_when(server, len(finished) + 60, finished))
        await server.exited()
        await server.start()
        for job in running:
            status, answer = await server.request("GET", job["location"])
            assert (status, answer["canceled"]) == (200, False)
        for job in running:
            assert (await server.finish(job, {"late": True}))[0] == 200
            finished[job["id"]] = {"late": True}
        running.clear()
        for job_id, result in finished.items():
            job = await server.job(job_id)
            assert (job["state"], job["result"]) == ("finished", result)
        for job_id, args in submitted.items():
            status, stored = await server.request("GET", f"{COMPOSER}/jobs/{job_id}/args")
            assert (status, stored) == (200, args)
    assert b"Traceback" not in server.log


async def _kill_when(server: Server, count: int, finished: dict[str, Any]) -> None:
    async def holds() -> bool:
        return len(finished) >= count

    await server.until(holds)
    server.kill()


async def test_a_repeated_result(serve: Serve) -> None:
    """A result may be repeated, before and after a restart; a different result is a conflict."""
    server = await serve()
    await server.submit()
    job = await server.ask()
    assert job is not None
    for _ in range(2):
        assert (await server.finish(job, {"a": 1}))[0] == 200
        assert (await server.finish(job, {"a": 1}))[0] == 200
        assert (await server.finish(job, {"a": 2}))[0] == 409
        server.kill()
        await server.exited()
        await server.start()
    assert (await server.job(job["id"]))["result"] == {"a": 1}


async def test_unknown_tokens(serve: Serve) -> None:
    """An unknown token is status 404, and a malformed one 400, at every endpoint."""
    server = await serve()
    unknown = f"{WORKER}/jobs/00000000-0000-4000-8000-000000000000"
    for method, path, body, status in (
        ("GET", unknown, None, 404),
        ("PATCH", unknown, {"result": 1}, 404),
        ("POST", unknown + "/release", {}, 404),
        ("GET", f"{WORKER}/jobs/x", None, 400),
        ("PATCH", f"{WORKER}/jobs/x", {"result": 1}, 400),
    ):
        assert (await server.request(method, path, body))[0] == status

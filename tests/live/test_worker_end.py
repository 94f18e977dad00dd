"""The end of workers and of their attempts: stops, signing off, the log, and jobs that are lost."""

import asyncio
import json
import re
import signal
import time
from pathlib import Path

import pytest
from aiohttp import web

from composerd_client import Worker

from .conftest import COMPOSER, Serve, Server, until_waiting
from .http_relay import Relay
from .test_worker_health import working


async def test_stop_after(serve: Serve, tmp_path: Path) -> None:
    """After SIGTERM jobs that end in time are finished, and others are ended and released, without a retry."""
    server = await serve(storage="memory:")
    script = f'touch {tmp_path}/$COMPOSERD_JOB_ID; read args; [ "$args" = 1 ] && exec sleep 300; sleep 0.5'
    async with working(server, "--concurrency", "2", "--stop-after", "2s", "--", "sh", "-c", script) as process:
        jobs = [await server.submit(args=args) for args in (0, 1)]

        async def running() -> bool:
            return all((tmp_path / job["id"]).exists() for job in jobs)

        await server.until(running)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait) == 0
        ended = [await server.job(job["id"]) for job in jobs]
        assert [(job["state"], job["retries"]) for job in ended] == [("finished", 0), ("ready", 0)]
        assert b"released after 2." in process.said()


async def test_a_command_that_takes_longer_than_the_lease_to_end(serve: Serve, tmp_path: Path) -> None:
    """The lease of a job is renewed until its command has ended, so that the release of the job costs no retry."""
    server = await serve("--heartbeat-timeout", "1s", storage="memory:")
    script = f"trap 'sleep 3; exit' TERM; touch {tmp_path}/started; sleep 300 & wait"
    async with working(server, "--stop-after", "0s", "--", "sh", "-c", script) as process:
        job = await server.submit()

        async def running() -> bool:
            return (tmp_path / "started").exists()

        await server.until(running)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait) == 0
        ended = await server.job(job["id"])
        assert (ended["state"], ended["retries"]) == ("ready", 0), process.said()
        assert re.search(rb"released after [3-9]\.", process.said())


async def test_signing_off(serve: Serve) -> None:
    """A worker that ends is not listed any more, and one whose server does not answer ends all the same."""
    server = await serve(storage="memory:")
    async with working(server, "--", "true") as process, working(server, "--", "true") as other:
        await until_waiting(server, 2)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait) == 0
        _, listed = await server.request("GET", f"{COMPOSER}/workers")
        assert len(listed["items"]) == 1
        server.kill(signal.SIGSTOP)
        other.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert await asyncio.to_thread(other.wait) == 0
        assert time.monotonic() - began < 10
        server.kill(signal.SIGCONT)


async def test_signing_off_behind_a_proxy_that_cannot_reach_the_server(server: Server, relay: Relay) -> None:
    """A worker whose sign-off a proxy answers signs off again, and is then not listed any more."""
    refused = 0

    async def refuse(request: web.Request) -> web.StreamResponse | None:
        nonlocal refused
        if request.method != "DELETE" or refused == 2:
            return None
        refused += 1
        return relay.page(502)

    relay.hook = refuse
    async with working(server, "--server", relay.url, "--", "true") as process:
        await until_waiting(server, 1)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait) == 0
    _, listed = await server.request("GET", f"{COMPOSER}/workers")
    assert (refused, listed["items"]) == (2, [])


async def test_the_log_of_a_worker(serve: Serve, tmp_path: Path) -> None:
    """A worker logs its start, each job with how it ended and why, and its end, once each."""
    server = await serve(storage="memory:")
    script = 'read args; echo why >&2; exit "$args"'
    async with working(server, "--", "sh", "-c", script, TMPDIR=str(tmp_path)) as process:  # without leftovers
        good, bad = await server.submit(args=0), await server.submit(args=3)
        await asyncio.gather(*(server.job(job["id"], wait="20s") for job in (good, bad)))
        await server.request("DELETE", f"{COMPOSER}/jobs/{good['id']}")
        await until_waiting(server, 1)
        process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(process.wait)
        lines = [line.split(" ", 2)[2] for line in process.said().decode().splitlines()]
    worker_id = lines[0].split()[2]
    expected = [
        f"INFO    worker {worker_id} started: types build, arch x86_64, server {server.url}",
        f"INFO    job {good['id']}: started, type build",
        f"INFO    job {good['id']}: finished in N s",
        f"INFO    job {bad['id']}: started, type build",
        f"WARNING job {bad['id']}: failed after N s: The command exited with status 3: why",
        "INFO    stopping once the running jobs are finished",
        f"INFO    worker {worker_id} ended",
    ]
    assert [re.sub(r"\d+\.\d s", "N s", line) for line in lines] == expected


async def test_a_job_that_is_lost_before_its_start(server: Server, relay: Relay) -> None:
    """A job that is canceled before the worker confirms it does not count as one of the jobs that it is to run."""
    first, second = await server.submit(), await server.submit()
    seen = False

    async def cancel(request: web.Request) -> web.StreamResponse | None:
        nonlocal seen
        if request.method == "GET" and not seen:
            seen = True
            await server.request("POST", f"{COMPOSER}/jobs/{first['id']}/cancel")
        return None

    relay.hook = cancel
    worker = Worker(relay.url, arch="x86_64")
    worker.handler("build")(lambda _job: None)
    await worker.run(jobs=1)
    ended = [await server.job(job["id"]) for job in (first, second)]
    assert [job["state"] for job in ended] == ["canceled", "finished"]
    assert worker.failed_jobs == 0


async def test_a_lost_answer_to_the_result_of_a_deleted_job(
    server: Server, relay: Relay, caplog: pytest.LogCaptureFixture
) -> None:
    """A good job whose result was stored is not logged as lost, although the server does not know it any more."""
    caplog.set_level("INFO", "composerd_client.worker")
    job = await server.submit()
    sent: list[bytes] = []

    async def lose(request: web.Request) -> web.StreamResponse | None:
        if request.method != "PATCH":
            return None
        sent.append(await request.read())
        if len(sent) > 1:
            return None
        assert (await server.request("PATCH", request.path, json.loads(sent[0])))[0] == 200
        assert (await server.request("DELETE", f"{COMPOSER}/jobs/{job['id']}"))[0] in (200, 204)
        return relay.page(502)

    relay.hook = lose
    worker = Worker(relay.url, arch="x86_64")
    worker.handler("build")(lambda _job: None)
    await worker.run(jobs=1)
    assert len(sent) == 2
    assert worker.failed_jobs == 0
    assert "Token not found" not in caplog.text
    assert f"job {job['id']}: finished in" in caplog.text

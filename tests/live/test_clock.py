"""Servers whose clock jumps, at a start and while they run, and servers that are stopped for a while."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from .conftest import COMPOSER, Serve, Server, send
from .test_cli import composerd

HOUR = 3600.0
DAY = 24 * HOUR


class WallClock:
    """The wall clock of the servers of a test, which can be stepped while they run."""

    def __init__(self, library: Path, file: Path) -> None:
        self._file = file
        self.environment: dict[str, Any] = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",  # otherwise a step is noticed after up to 10 s
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # a step changes the wall clock only
        }
        self.step(0)

    def step(self, ahead: float) -> None:
        """Set the clock to this number of seconds ahead of the machine's."""
        stepped = self._file.with_suffix(".new")
        stepped.write_text(f"{ahead:+f}")
        stepped.rename(self._file)  # servers read the file all the time


@pytest.fixture
def clock(faketime: Path, tmp_path: Path) -> WallClock:
    """Return a wall clock that is right."""
    return WallClock(faketime, tmp_path / "clock")


async def ended_job(server: Server) -> str:
    """Submit a job and let it end with an artifact, and return its id."""
    await server.submit("done")
    job = await server.ask("done")
    assert job is not None
    await send(server, "PUT", job["artifact_location"] + "log.txt", b"hello")
    assert (await server.finish(job, {}))[0] == 200
    return str(job["id"])


async def artifact(server: Server, job_id: str) -> tuple[int, Any]:
    """Return the status and the body of the answer to a request for the job's artifact."""
    return await server.request("GET", f"{COMPOSER}/jobs/{job_id}/artifacts/log.txt")


async def time_of(server: Server) -> float:
    """Return how far the time of a job that is submitted now is ahead of this machine's, in seconds."""
    queued_at = datetime.fromisoformat((await server.submit("other"))["queued_at"])
    return (queued_at - datetime.now(UTC)).total_seconds()


async def after_sweeps(server: Server) -> None:
    """Wait until the server has let a job of a short retention go, so that it would have removed others too."""
    job = await server.submit("short", retention="10ms")
    assert (await server.request("POST", f"{COMPOSER}/jobs/{job['id']}/cancel"))[0] == 200

    async def gone() -> bool:
        return (await server.request("GET", f"{COMPOSER}/jobs/{job['id']}"))[0] == 404

    await server.until(gone)


def logged(server: Server, text: bytes) -> Callable[[], Awaitable[bool]]:
    """Return a check that the server has logged a text."""

    async def check() -> bool:
        return text in server.log

    return check


@pytest.mark.row("Commands", "composerd storage confirm-clock")
async def test_a_start_with_a_clock_that_is_far_ahead(serve: Serve, clock: WallClock, tmp_path: Path) -> None:
    """A start 400 days ahead removes no job and no artifact and says so, and the next start has the right time.

    A clock that an operator confirms removes what is over.
    """
    options = ("--retention", "30d", "--sweep-interval", "50ms")
    server = await serve(*options, environment=clock.environment)
    job_id = await ended_job(server)
    server.kill(signal.SIGTERM)
    await server.exited()

    clock.step(400 * DAY)
    await server.start()
    assert b"the clock is 400.0 days ahead of the time at which the storage was last open" in server.log
    await after_sweeps(server)
    assert (await server.job(job_id))["state"] == "finished"
    assert await artifact(server, job_id) == (200, b"hello")
    assert abs(await time_of(server) - 400 * DAY) < 60
    server.kill()
    await server.exited()

    clock.step(0)
    await server.start()
    assert b"the clock is 400.0 days behind the time at which the storage was last open" in server.log
    assert abs(await time_of(server)) < 60
    await after_sweeps(server)
    assert await artifact(server, job_id) == (200, b"hello")
    server.kill(signal.SIGTERM)
    await server.exited()

    url = f"fs:{tmp_path / 'storage'}"
    clock.step(400 * DAY)
    assert "clock\tjumped ahead" in (await composerd("storage", "info", "--storage", url, **clock.environment)).out
    confirmed = await composerd("storage", "confirm-clock", "--storage", url, **clock.environment)
    said = "the clock is confirmed: jobs whose retention is over are removed again\n"
    assert (confirmed.code, confirmed.out) == (0, said)
    assert "clock\tjumped ahead" not in (await composerd("storage", "info", "--storage", url, **clock.environment)).out


async def test_a_clock_that_is_set_while_a_server_runs(serve: Serve, clock: WallClock) -> None:
    """After a step of 8 hours a delayed job starts on time and no attempt ends; a lost one comes back, forth and back.

    The step is logged with its size.
    """
    lease = 1.5
    server = await serve(
        "--heartbeat-timeout", f"{lease}s", "--retention", "1s", "--sweep-interval", "1h", environment=clock.environment
    )
    await server.submit("lost")
    await server.submit("kept")
    kept, lost = await server.ask("kept"), await server.ask("lost")
    assert kept is not None
    assert lost is not None
    delayed = await server.submit("delayed", not_before=(datetime.now(UTC) + timedelta(hours=8)).isoformat())

    clock.step(8 * HOUR)
    stepped_at = time.monotonic()
    started = await server.ask("delayed")
    assert started is not None
    assert started["id"] == delayed["id"]
    assert time.monotonic() - stepped_at < 5
    assert b"the clock jumped forward by 8.0 hours; every running attempt gets a full lease" in server.log
    assert (await server.request("GET", kept["location"]))[1]["canceled"] is False
    assert (await server.request("GET", started["location"]))[1]["canceled"] is False
    assert await time_of(server) > 8 * HOUR - 60

    clock.step(0)
    await server.until(logged(server, b"the clock jumped back by 8.0 hours; every running attempt gets a full lease"))
    assert (await server.request("GET", kept["location"]))[1]["canceled"] is False
    again = await server.ask("lost")
    assert again is not None
    assert again["id"] == lost["id"]
    assert abs(await time_of(server)) < 60


async def test_a_start_in_the_year_2000(serve: Serve, clock: WallClock) -> None:
    """A server that was started with a clock in the year 2000 follows when the clock is set, while it runs."""
    clock.step(datetime(2000, 1, 1, tzinfo=UTC).timestamp() - time.time())
    server = await serve("--retention", "30d", "--sweep-interval", "50ms", environment=clock.environment)
    job_id = await ended_job(server)
    assert (await server.job(job_id))["queued_at"].startswith("2000-01-01")
    clock.step(0)
    await server.until(logged(server, b"the clock jumped forward by"))
    assert abs(await time_of(server)) < 60
    await after_sweeps(server)
    assert await artifact(server, job_id) == (200, b"hello")


async def test_a_server_that_was_stopped(serve: Serve) -> None:
    """No attempt of a worker that kept asking ends because the server was stopped for longer than a lease.

    A job whose worker is lost comes back one lease later.
    """
    lease = 2.0
    server = await serve("--heartbeat-timeout", f"{lease}s", "--sweep-interval", "100ms")
    for _ in range(31):
        await server.submit()
    jobs = [job for job in await asyncio.gather(*[server.ask() for _ in range(31)]) if job is not None]
    assert len(jobs) == 31
    lost = jobs.pop()
    over = asyncio.Event()

    async def work(job: dict[str, Any]) -> bool:
        """Ask four times in a lease until the test is over, and return True if the attempt has ended."""
        while not over.is_set():
            _, answer = await server.request("GET", job["location"])
            if answer["canceled"]:
                return True
            await asyncio.sleep(lease / 4)
        return False

    workers = [asyncio.create_task(work(job)) for job in jobs]
    server.kill(signal.SIGSTOP)
    await asyncio.sleep(lease + 0.5)  # the time that passes is what is tested
    server.kill(signal.SIGCONT)
    await server.until(logged(server, b"this server stood still for"))
    again = await server.ask(wait="20s")
    assert again is not None
    over.set()
    ended: Sequence[bool] = await asyncio.gather(*workers)
    assert sum(ended) == 0
    assert again["id"] == lost["id"]

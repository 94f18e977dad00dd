"""Every field of a submitted job and its effect: one test for each row."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from .conftest import COMPOSER, WORKER, Serve, Server

row = pytest.mark.row
TABLE = "A submitted job"
LOST = "Workers running this job stopped responding more than {} times."
FAILURE = {"job_error": {"id": 10, "reason": "no", "details": None}}


async def run(server: Server, result: Any = None) -> str:
    """Take the next job, finish it, and return its id."""
    attempt = await server.ask()
    assert attempt is not None
    assert (await server.finish(attempt, result))[0] == 200
    return str(attempt["id"])


@row(TABLE, "type")
async def test_type(server: Server) -> None:
    """A worker gets only jobs of the types that it names."""
    job = await server.submit("one")
    assert await server.ask("two", "three", wait="50ms") is None
    attempt = await server.ask("two", "one")
    assert attempt is not None
    assert (attempt["id"], attempt["type"]) == (job["id"], "one")


@row(TABLE, "arch")
async def test_arch(server: Server) -> None:
    """A worker gets jobs of its arch and jobs without an arch."""
    job = await server.submit(arch="aarch64")
    assert await server.ask(wait="50ms") is None
    anywhere = await server.submit()
    attempt = await server.ask()
    assert attempt is not None
    assert attempt["id"] == anywhere["id"]
    attempt = await server.ask(arch="aarch64")
    assert attempt is not None
    assert attempt["id"] == job["id"]


@row(TABLE, "channel")
async def test_channel(server: Server) -> None:
    """Workers without authentication see only jobs of the unnamed channel."""
    job = await server.submit(channel="org-a")
    assert job["channel"] == "org-a"
    assert await server.ask(wait="50ms") is None


@row(TABLE, "args")
async def test_args(server: Server) -> None:
    """The worker gets the args."""
    await server.submit(args=[1, {"a": None}])
    attempt = await server.ask()
    assert attempt is not None
    assert attempt["args"] == [1, {"a": None}]


@row(TABLE, "dependencies")
async def test_dependencies(server: Server) -> None:
    """The job waits for all its dependencies; one that is named twice counts once, and its result is given twice."""
    first, second = (await server.submit())["id"], (await server.submit())["id"]
    job = await server.submit(dependencies=[first, second, first])
    assert (job["state"], job["dependencies"]) == ("waiting", [first, second, first])
    await run(server, "one")
    assert (await server.job(job["id"]))["state"] == "waiting"
    await run(server, "two")
    attempt = await server.ask()
    assert attempt is not None
    assert (attempt["id"], attempt["dynamic_args"]) == (job["id"], ["one", "two", "one"])


@row(TABLE, "ref")
async def test_ref(server: Server) -> None:
    """A job of a batch names an earlier one by its `ref`."""
    jobs = [{"type": "a", "ref": "first"}, {"type": "a", "dependencies": ["first"]}]
    _, listed = await server.request("POST", f"{COMPOSER}/jobs/batch", {"jobs": jobs})
    assert listed["items"][1]["dependencies"] == [listed["items"][0]["id"]]
    for ref in ("", "x" * 65, "12345678-1234-4123-8123-123456789abc"):
        status, error = await server.request("POST", f"{COMPOSER}/jobs/batch", {"jobs": [{"type": "a", "ref": ref}]})
        assert (status, error["details"]["field"]) == (400, "jobs[0].ref")


@row(TABLE, "priority")
async def test_priority(server: Server) -> None:
    """Jobs are handed out by priority, the highest first, and then by submission."""
    ids = {priority: (await server.submit(priority=priority))["id"] for priority in (0, -100, 100, 1)}
    assert [await run(server) for _ in ids] == [ids[100], ids[1], ids[0], ids[-100]]
    for wrong in (101, -101, 1.5):
        assert (await server.request("POST", f"{COMPOSER}/jobs", {"type": "a", "priority": wrong}))[0] == 400


@row(TABLE, "not_before")
@pytest.mark.parametrize("as_time", [True, False])
async def test_not_before(server: Server, as_time: bool) -> None:
    """A job is not handed out before its time, given as a time or as a duration from now."""
    at = datetime.now(UTC) + timedelta(seconds=1)
    job = await server.submit(not_before=at.isoformat() if as_time else "1s")
    assert job["state"] == "waiting"
    late = (datetime.fromisoformat(job["not_before"]) - at).total_seconds()
    assert late == 0 if as_time else 0 <= late < 10
    attempt = await server.ask()
    assert attempt is not None
    assert datetime.now(UTC) >= at - timedelta(milliseconds=50)


@row(TABLE, "timeout")
async def test_timeout(serve: Serve) -> None:
    """An attempt that runs longer than the timeout ends, however often its lease is renewed."""
    server = await serve("--sweep-interval", "50ms")
    job = await server.submit(timeout="300ms", max_retries=0)
    attempt = await server.ask()
    assert attempt is not None

    async def over() -> bool:
        return bool((await server.request("GET", attempt["location"]))[1]["canceled"])

    await server.until(over)
    ended = await server.job(job["id"])
    assert ended["state"] == "failed"
    assert ended["result"]["job_error"]["reason"] == (
        "Workers ran this job for longer than its timeout more than 0 times."
    )


@row(TABLE, "max_retries")
@pytest.mark.parametrize("retries", [0, 1])
async def test_max_retries(serve: Serve, retries: int) -> None:
    """A job is tried again after this many lost workers, and then fails."""
    server = await serve("--heartbeat-timeout", "200ms", "--sweep-interval", "50ms")
    job = await server.submit(max_retries=retries)
    for _ in range(retries + 1):
        await server.ask_and_confirm()
    ended = await server.job(job["id"], wait="10s")
    assert ended["result"]["job_error"] == {"id": 27, "reason": LOST.format(retries), "details": None}
    assert ended["retries"] == retries


@row(TABLE, "retry_on_failure")
async def test_retry_on_failure(server: Server) -> None:
    """A job is tried again after this many failures, and then fails."""
    job = await server.submit(retry_on_failure=2, retry_backoff="1ms")
    for expected in ("waiting", "waiting", "failed"):
        await run(server, FAILURE)
        assert (await server.job(job["id"]))["state"] in (expected, "ready" if expected == "waiting" else expected)
    assert (await server.job(job["id"]))["retries"] == 2


@row(TABLE, "retry_backoff")
async def test_retry_backoff(server: Server) -> None:
    """After a failure the job waits for the backoff, doubled each time."""
    job = await server.submit(retry_on_failure=2, retry_backoff="200ms")
    for least in (0.2, 0.4):
        began = time.monotonic()
        await run(server, FAILURE)
        attempt = await server.ask()
        assert attempt is not None
        assert attempt["id"] == job["id"]
        assert least < time.monotonic() - began < 9  # the default is 10 s
        await server.request("POST", f"{attempt['location']}/release", {})


@row(TABLE, "on_dependency_failure")
async def test_on_dependency_failure(server: Server) -> None:
    """After a failed dependency the job runs with `run`, and fails with `fail`."""
    first = await server.submit()
    runs = await server.submit(dependencies=[first["id"]])
    fails = await server.submit(dependencies=[first["id"]], on_dependency_failure="fail")
    await run(server, FAILURE)
    assert (await server.job(runs["id"]))["state"] == "ready"
    ended = await server.job(fails["id"])
    assert ended["state"] == "failed"
    assert ended["result"] == {"job_error": {"id": 26, "reason": "A dependency failed.", "details": [first["id"]]}}


@row(TABLE, "idempotency_key")
async def test_idempotency_key(server: Server) -> None:
    """A repeated key returns the same job if the fields are equal and is a conflict if not; other channels are free."""
    fields: dict[str, Any] = {"type": "a", "args": {"n": 1}, "idempotency_key": "k"}
    _, job = await server.request("POST", f"{COMPOSER}/jobs", fields)
    status, again = await server.request("POST", f"{COMPOSER}/jobs", fields)
    assert (status, again["id"]) == (200, job["id"])
    status, conflict = await server.request("POST", f"{COMPOSER}/jobs", fields | {"args": {"n": 2}})
    assert (status, conflict["id"]) == (409, "38")
    status, other = await server.request("POST", f"{COMPOSER}/jobs", fields | {"channel": "c"})
    assert (status, other["id"] != job["id"]) == (201, True)


@row(TABLE, "retention")
async def test_retention(serve: Serve) -> None:
    """A job is deleted this long after its end, or never if it is 0 and the server has no limit."""
    server = await serve("--sweep-interval", "50ms", "--max-retention", "0")
    gone, kept = await server.submit(retention="200ms"), await server.submit(retention="0")
    await run(server)
    await run(server)

    async def is_gone() -> bool:
        return (await server.request("GET", gone["href"]))[0] == 404

    await server.until(is_gone)
    ended = await server.job(kept["id"])
    assert (ended["state"], ended["expires_at"]) == ("finished", None)
    assert (await server.request("GET", f"{WORKER}/status"))[0] == 200

"""Workers that take a job and are never heard of again: behind most proxies nobody tells the server that they left."""

import signal
from pathlib import Path

import pytest

from ..throwaway import Throwaway
from .conftest import Serve

SHORT = ("--heartbeat-timeout", "200ms", "--handover-timeout", "200ms", "--sweep-interval", "50ms")


@pytest.fixture(params=["fs", "postgresql"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty storage."""
    if request.param == "fs":
        return f"fs:{tmp_path / 'storage'}"
    postgres: Throwaway = request.getfixturevalue("newest_postgres")
    return postgres.fresh()


async def test_workers_that_vanish_fail_no_job(serve: Serve, storage: str) -> None:
    """A job that workers without `confirm` took and never asked about again is not failed, and no retry is counted."""
    server = await serve(*SHORT, storage=storage)
    submitted = await server.submit(max_retries=0)
    for _ in range(3):
        assert await server.ask() is not None  # when the last lease is over
        job = await server.job(submitted["id"])
        assert (job["state"], job["retries"]) == ("running", 0)
    last = await server.ask()
    assert last is not None
    assert (last["id"], (await server.finish(last, {}))[0]) == (submitted["id"], 200)


async def test_a_timeout_that_nobody_saw(serve: Serve, storage: str) -> None:
    """A job whose `timeout` is over before its lease is not failed either if no worker ever asked about it."""
    server = await serve("--sweep-interval", "50ms", storage=storage)
    submitted = await server.submit(max_retries=0, timeout="100ms")
    assert await server.ask() is not None
    again = await server.ask()
    assert again is not None
    assert (await server.finish(again, {}))[0] == 200
    assert (await server.job(submitted["id"]))["retries"] == 0


async def test_ten_in_a_row_are_not_counted(serve: Serve, storage: str) -> None:
    """Ten attempts in a row that nobody asked about are free, and each further one counts until the job fails."""
    server = await serve(*SHORT, storage=storage)
    submitted = await server.submit(max_retries=1)
    retries = []
    for _ in range(12):
        assert await server.ask() is not None
        retries.append((await server.job(submitted["id"]))["retries"])
    assert retries == [0] * 11 + [1]
    job = await server.job(submitted["id"], wait="20s")
    assert (job["state"], job["retries"]) == ("failed", 1)


@pytest.mark.parametrize("confirm", [False, True])
async def test_who_has_called_is_lost_counted(serve: Serve, storage: str, confirm: bool) -> None:
    """A worker that has asked about its job once and is never heard of again costs the job a retry."""
    server = await serve(*SHORT, storage=storage)
    submitted = await server.submit()
    await server.ask_and_confirm(confirm=confirm)
    assert await server.ask() is not None
    assert (await server.job(submitted["id"]))["retries"] == 1


@pytest.mark.parametrize("confirm", [False, True])
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
async def test_a_restart_counts_nothing_that_was_never_run(
    serve: Serve, storage: str, stop: signal.Signals, confirm: bool
) -> None:
    """After a restart, a job that nobody ever asked about goes back uncounted, and one of a lost worker is counted."""
    server = await serve(*SHORT, storage=storage)
    unseen, seen = await server.submit("unseen"), await server.submit("seen")
    assert await server.ask("unseen", confirm=confirm) is not None
    await server.ask_and_confirm("seen", confirm=confirm)
    server.kill(stop)
    await server.exited()
    await server.start()
    assert await server.ask("unseen") is not None
    assert (await server.job(unseen["id"]))["retries"] == 0
    assert await server.ask("seen") is not None
    if stop == signal.SIGTERM or storage.startswith("postgresql"):  # a kill may lose what was a heartbeat
        assert (await server.job(seen["id"]))["retries"] == 1

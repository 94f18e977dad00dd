"""`composerd storage info` and `check` change nothing, need no right to write, and work beside a running server."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from composerd import storage as storages
from composerd.storage import checking

from ..throwaway import Throwaway
from .conftest import COMPOSER, Serve, send
from .test_storage import filled, finished, state_of, storage


async def shown(*arguments: str) -> dict[str, Any]:
    """Run a subcommand of `composerd storage` that must succeed, and return its JSON."""
    ended = await storage(*arguments, "--json")
    assert ended.code == 0, (ended.out, ended.err)
    found: dict[str, Any] = json.loads(ended.out)
    return found


async def test_a_damaged_marker(serve: Serve, tmp_path: Path) -> None:
    """If the marker of a clean stop is damaged, the commands say once what they cannot know because of that."""
    url, _ = await filled(serve, tmp_path / "a")
    marker = tmp_path / "a" / "journal" / "CLEAN"
    marker.write_text("{")
    sentence = f"the end of the journal: the marker of a clean stop, {marker}, is damaged"
    for command in ("info", "check"):
        assert sentence in (await shown(command, "--storage", url))["not_checked"]
        assert (await storage(command, "--storage", url)).err == ""
    salvaged = await storage("salvage", "--storage", url, "--to", f"fs:{tmp_path / 'b'}")
    assert (salvaged.code, salvaged.err, f"not checked: {sentence}\n" in salvaged.out) == (0, "", True)


@pytest.mark.row("Commands", "composerd storage info")
@pytest.mark.row("Commands", "composerd storage check")
@pytest.mark.parametrize("stop", ["stopped", "killed", "torn"])
async def test_nothing_changes(serve: Serve, tmp_path: Path, stop: str) -> None:
    """No byte, time or name in the directory changes, whether the server was stopped, killed, or killed in a write."""
    url, _ = await filled(serve, tmp_path / "a")
    journal = tmp_path / "a" / "journal"
    if stop != "stopped":
        (journal / "CLEAN").unlink()
    if stop == "torn":
        with (journal / "00000001.log").open("ab") as file:
            file.write(b"cdF\n torn")
    before = state_of(tmp_path / "a")
    check, info = await shown("check", "--storage", url), await shown("info", "--storage", url)
    lines = [(await storage(command, "--storage", url)).out for command in ("check", "info")]
    assert state_of(tmp_path / "a") == before
    assert check["whole"]
    assert check["problems"] == []
    assert check["jobs"] == info["jobs"] == {
        "waiting": 0, "ready": 1, "running": 1, "finished": 1, "failed": 1, "canceled": 0,
    }  # fmt: skip
    sizes = "the contents of artifacts: only the sizes of their files were compared (1)"
    assert check["not_checked"][-1] == sizes
    assert f"not checked\t{sizes}\n" in lines[0]
    torn = [one for found in (check, info) for one in found["not_checked"] if one != sizes]
    if stop == "torn":
        end = (journal / "00000001.log").stat().st_size - 9
        why = "they are not complete, as while a server writes them, and nothing in them was acknowledged"
        assert torn == [f"the last 9 bytes of {journal / '00000001.log'}, from byte {end} on: {why}"] * 2
        assert all(f"not checked\t{torn[0]}\n" in one for one in lines)
    else:
        assert torn == []


async def test_without_the_right_to_write(serve: Serve, tmp_path: Path) -> None:
    """A user who may not write to the directory and its files can read and check them."""
    directory = tmp_path / "a"
    url, _ = await filled(serve, directory)
    for path in (directory, *directory.rglob("*")):
        path.chmod(0o500 if path.is_dir() else 0o400)
    before = state_of(directory)
    # Modes mean nothing to root, unless it gives up the capability to ignore them.
    bound = () if os.geteuid() else ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")
    found = []
    try:
        touched = await asyncio.to_thread(subprocess.run, [*bound, "touch", directory / "new"], stderr=subprocess.PIPE)
        assert b"Permission denied" in touched.stderr
        for command in ("check", "info"):
            words = (sys.executable, "-m", "composerd.cli.main", "storage", command, "--storage", url, "--json")
            ended = await asyncio.to_thread(subprocess.run, [*bound, *words], capture_output=True)
            assert (ended.returncode, ended.stderr) == (0, b"")
            found.append(json.loads(ended.stdout))
        assert state_of(directory) == before
    finally:
        for path in (directory, *directory.rglob("*")):
            path.chmod(0o700)
    check, info = found
    assert (check["problems"], check["jobs"]) == ([], info["jobs"])


async def test_beside_a_server(serve: Serve, tmp_path: Path) -> None:
    """While a server writes, `info` and `check` find what was acknowledged before they began, and disturb nothing."""
    server = await serve(storage=f"fs:{tmp_path / 'a'}")
    began, done = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        while not done.is_set():
            await server.submit(args="x" * 10_000)
            began.set()
            job = await server.ask()
            assert job is not None
            assert (await send(server, "PUT", job["artifact_location"] + "log.txt", b"hello"))[0] == 200
            assert (await server.finish(job, {"ok": True}))[0] == 200
            await send(server, "DELETE", f"{COMPOSER}/jobs/{job['id']}")

    await server.submit("kept")
    working = [asyncio.create_task(work()) for _ in range(4)]
    try:
        for command in ("info", "check", "info", "check"):
            await began.wait()
            found = await shown(command, "--storage", server.storage)
            assert found["jobs"]["ready"] >= 1
            assert not found.get("problems")
    finally:
        done.set()
        await asyncio.gather(*working)
    await server.close()
    assert (await shown("check", "--storage", server.storage))["whole"]


async def test_a_database_without_artifacts(serve: Serve, newest_postgres: Throwaway) -> None:
    """Artifacts that are not checked because nobody says where they are are no problem, and are named."""
    server = await serve(storage=newest_postgres.fresh())
    await server.submit()
    found = await shown("check", "--storage", server.storage)
    assert (found["whole"], found["problems"]) == (True, [])
    assert found["not_checked"] == ["the artifacts: name their directory, or the URL of their store, with --artifacts"]


async def test_a_file_that_a_server_removes_meanwhile(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of a job that a server deletes during a check is not reported as missing."""
    server = await serve(storage=f"fs:{tmp_path / 'a'}")
    await finished(server)
    checked = checking._problem

    async def deleted_before(*arguments: Any) -> str | None:
        (job,) = (await server.request("GET", f"{COMPOSER}/jobs"))[1]["items"]
        await send(server, "DELETE", f"{COMPOSER}/jobs/{job['id']}")

        async def removed() -> bool:
            return not any(one.is_file() for one in (tmp_path / "a" / "artifacts").rglob("*"))

        await server.until(removed)
        return await checked(*arguments)

    monkeypatch.setattr(checking, "_problem", deleted_before)
    found = await storages.check(server.storage, None, lambda _done, _total: None)
    assert found.problems == ()

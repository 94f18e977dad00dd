"""The driver of another distribution, tests/thirdparty/composerd-sqlite, with all commands that use a storage."""

import importlib.util
import json
from pathlib import Path

import pytest

from .conftest import Serve
from .test_cli import composerd
from .test_storage import everything, filled, storage

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("composerd_sqlite") is None,
    reason="composerd-sqlite is not installed: pip install ./tests/thirdparty/composerd-sqlite",
)


async def test_served(serve: Serve, tmp_path: Path) -> None:
    """`composerd serve --storage sqlite:///…` assigns jobs, and loses nothing when it is killed."""
    server = await serve("--artifacts", str(tmp_path / "files"), storage=f"sqlite://{tmp_path}/jobs.db")
    first = await server.submit(args={"n": 1})
    second = await server.submit(dependencies=[first["id"]])
    job = await server.ask()
    assert job is not None
    assert (job["id"], job["args"]) == (first["id"], {"n": 1})
    server.kill()
    await server.exited()
    await server.start()
    await server.finish(job, {"ok": True})
    job = await server.ask()
    assert job is not None
    assert (job["id"], job["dynamic_args"]) == (second["id"], [{"ok": True}])


async def test_a_second_server(serve: Serve, tmp_path: Path) -> None:
    """A second server exits with an error if the file is in use."""
    server = await serve(storage=f"sqlite:{tmp_path}/jobs.db")
    ended = await composerd("serve", "--storage", server.storage, "--listen", "127.0.0.1:0")
    assert ended.code != 0
    assert "jobs.db cannot be used: database is locked" in ended.err


async def test_listed() -> None:
    """`composerd drivers` shows its scheme, distribution, version, contract and capabilities."""
    ended = await composerd("drivers", "--json")
    (shown,) = [one for one in json.loads(ended.out)["items"] if one["scheme"] == "sqlite"]
    assert (shown["distribution"], shown["version"], shown["contract"]) == ("composerd-sqlite", "1.0", "1.5")
    assert (shown["capabilities"]["durable"], shown["capabilities"]["shared"]) == (True, False)
    assert shown["error"] is None
    assert "sqlite\tcomposerd-sqlite 1.0\t1.5\tdurable\tloads\n" in (await composerd("drivers")).out


async def test_moved_there_and_back(serve: Serve, tmp_path: Path) -> None:
    """`composerd storage move` copies all jobs and files into it and back; `info` and `check` work on it."""
    url, before = await filled(serve, tmp_path / "a")
    files, there = str(tmp_path / "files"), f"sqlite:{tmp_path}/jobs.db"
    ended = await storage("move", "--from", url, "--to", there, "--to-artifacts", files)
    assert (ended.code, ended.out) == (0, "Moved 4 jobs and copied 1 file.\n"), ended.err
    assert "jobs finished\t1\n" in (await storage("info", "--storage", there)).out
    ended = await storage("check", "--storage", there, "--artifacts", files)
    assert (ended.code, ended.err) == (0, "")
    server = await serve("--artifacts", files, storage=there)
    assert await everything(server) == before
    await server.close()
    ended = await storage("move", "--from", there, "--from-artifacts", files, "--to", f"fs:{tmp_path / 'b'}")
    assert ended.code == 0, ended.err
    server = await serve(storage=f"fs:{tmp_path / 'b'}")
    assert await everything(server) == before


@pytest.mark.parametrize("url", ["sqlite:", "sqlite://host/jobs.db", "sqlite:/jobs.db?mode=ro"])
async def test_wrong_urls(url: str) -> None:
    """An invalid URL is exit code 2 and an error."""
    ended = await storage("info", "--storage", url)
    assert (ended.code, ended.out) == (2, "")
    assert "sqlite" in ended.err

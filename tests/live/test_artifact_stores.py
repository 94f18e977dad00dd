"""An artifact store of a distribution of its own, tests/thirdparty/composerd-bucket, used as the directory is."""

import hashlib
import importlib.util
import os
import sqlite3
from pathlib import Path

import pytest

from ..throwaway import Throwaway
from .conftest import COMPOSER, Serve, send
from .test_cli import composerd
from .test_storage import filled, storage

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("composerd_bucket") is None and not os.environ.get("CI"),
    reason="composerd-bucket is not installed: pip install ./tests/thirdparty/composerd-bucket",
)

DATA = bytes(range(256)) * 5000


def kept(bucket: Path) -> int:
    """How many artifacts, whole or not, are in a bucket."""
    with sqlite3.connect(bucket) as connection:
        ((count,),) = connection.execute("SELECT count(DISTINCT upload) FROM pieces")
    connection.close()
    return int(count)


async def test_served(serve: Serve, tmp_path: Path) -> None:
    """Uploads, ranges, replacement, what an attempt that is given up leaves, a kill in the middle, deletion."""
    bucket = tmp_path / "artifacts.db"
    server = await serve("--artifacts", f"bucket:{bucket}")
    job = await server.submit()
    asked = await server.ask()
    assert asked is not None
    assert (await send(server, "PUT", asked["artifact_location"] + "lost", DATA))[0] == 200
    assert (await send(server, "POST", asked["location"] + "/release"))[0] in (200, 204)

    async def empty() -> bool:
        return kept(bucket) == 0

    await server.until(empty)
    asked = await server.ask()
    assert asked is not None
    for data in (b"first", DATA):
        assert (await send(server, "PUT", asked["artifact_location"] + "a", data))[0] == 200
    assert (await send(server, "PUT", asked["artifact_location"] + "none", b""))[0] == 200
    wrong = f"sha-256=:{'A' * 43}=:"
    assert (await send(server, "PUT", asked["artifact_location"] + "b", DATA, Content_Digest=wrong))[0] == 400
    assert kept(bucket) == 1
    server.kill()
    await server.exited()
    await server.start()
    assert (await server.finish(asked))[0] == 200
    path = f"{COMPOSER}/jobs/{job['id']}"
    status, headers, body = await send(server, "GET", f"{path}/artifacts/a")
    assert (status, body, headers["ETag"]) == (200, DATA, f'"{hashlib.sha256(DATA).hexdigest()}"')
    assert (await send(server, "GET", f"{path}/artifacts/none"))[2] == b""
    status, _, body = await send(server, "GET", f"{path}/artifacts/a", Range="bytes=300000-900000")
    assert (status, body) == (206, DATA[300_000:900_001])
    assert (await send(server, "DELETE", path))[0] == 204
    await server.until(empty)
    assert b"Traceback" not in server.log


async def test_two_servers(serve: Serve, newest_postgres: Throwaway, tmp_path: Path) -> None:
    """An artifact uploaded to one server is downloaded from another, and a third one that starts meanwhile sweeps none of it."""
    url, bucket = newest_postgres.fresh(), f"bucket:{tmp_path}/artifacts.db"
    first, second = [await serve("--artifacts", bucket, storage=url) for _ in range(2)]
    job = await first.submit()
    asked = await second.ask()
    assert asked is not None
    assert (await send(second, "PUT", asked["artifact_location"] + "a", DATA))[0] == 200
    third = await serve("--artifacts", bucket, storage=url)
    assert (await third.finish(asked))[0] == 200
    for server in (first, second, third):
        assert (await send(server, "GET", f"{COMPOSER}/jobs/{job['id']}/artifacts/a"))[2] == DATA


async def test_moved(serve: Serve, tmp_path: Path) -> None:
    """`storage move` brings files from a directory into a store and back; `check` knows them there."""
    url, _ = await filled(serve, tmp_path / "a")
    there, bucket = f"fs:{tmp_path / 'b'}", f"bucket:{tmp_path}/artifacts.db"
    for copied in ("1 file", "0 files"):
        told = await storage("move", "--from", url, "--to", there, "--to-artifacts", bucket)
        assert (told.code, told.out) == (0, f"Moved 4 jobs and copied {copied}.\n"), told.err
    assert (await storage("check", "--storage", there, "--artifacts", bucket)).code == 0
    told = await storage("check", "--storage", there)
    assert (told.code, "is missing" in told.out) == (1, True)
    told = await storage("move", "--from", there, "--from-artifacts", bucket, "--to", f"fs:{tmp_path / 'c'}")
    assert told.code == 0, told.err
    assert (await storage("check", "--storage", f"fs:{tmp_path / 'c'}")).code == 0


@pytest.mark.parametrize(
    ("where", "problem"),
    [
        ("s3://bucket/x", "no artifact store for 's3' is installed; installed: bucket, file"),
        ("bucket:", "names no file"),
        ("bucket:/nowhere/a.db", "unable to open database file"),
    ],
)
async def test_wrong_stores(where: str, problem: str) -> None:
    """A server with a store that is not there, or cannot be opened, says so in a sentence and exits with 2."""
    told = await composerd("serve", "--storage", "memory:", "--artifacts", where, "--listen", "127.0.0.1:0")
    assert (told.code, told.out) == (2, "")
    assert problem in told.err
    assert told.err.count("\n") == 1

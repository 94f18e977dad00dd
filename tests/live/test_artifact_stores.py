"""The artifact store of another distribution, tests/thirdparty/composerd-bucket, in a real server."""

import hashlib
import importlib.util
import sqlite3
from pathlib import Path

import pytest

from ..throwaway import Throwaway
from .conftest import COMPOSER, Serve, send
from .test_cli import composerd
from .test_storage import filled, storage

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("composerd_bucket") is None,
    reason="composerd-bucket is not installed: pip install ./tests/thirdparty/composerd-bucket",
)

DATA = bytes(range(256)) * 5000


def stored(bucket: Path) -> int:
    """Return the number of artifacts in a bucket, including incomplete ones."""
    with sqlite3.connect(bucket) as connection:
        ((count,),) = connection.execute("SELECT count(DISTINCT upload) FROM pieces")
    connection.close()
    return int(count)


async def test_served(serve: Serve, tmp_path: Path) -> None:
    """Uploads, ranges, replaced and released files, a killed server and a deleted job work with the store."""
    bucket = tmp_path / "artifacts.db"
    server = await serve("--artifacts", f"bucket:{bucket}")
    job = await server.submit()
    attempt = await server.ask()
    assert attempt is not None
    assert (await send(server, "PUT", attempt["artifact_location"] + "lost", DATA))[0] == 200
    assert (await send(server, "POST", attempt["location"] + "/release"))[0] in (200, 204)

    async def empty() -> bool:
        return stored(bucket) == 0

    await server.until(empty)
    attempt = await server.ask()
    assert attempt is not None
    for data in (b"first", DATA):
        assert (await send(server, "PUT", attempt["artifact_location"] + "a", data))[0] == 200
    assert (await send(server, "PUT", attempt["artifact_location"] + "none", b""))[0] == 200
    wrong = f"sha-256=:{'A' * 43}=:"
    assert (await send(server, "PUT", attempt["artifact_location"] + "b", DATA, Content_Digest=wrong))[0] == 400
    assert stored(bucket) == 1
    server.kill()
    await server.exited()
    await server.start()
    assert (await server.finish(attempt))[0] == 200
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
    """An artifact uploaded to one server can be downloaded from another, and a new server does not remove it."""
    url, bucket = newest_postgres.fresh(), f"bucket:{tmp_path}/artifacts.db"
    first, second = [await serve("--artifacts", bucket, storage=url) for _ in range(2)]
    job = await first.submit()
    attempt = await second.ask()
    assert attempt is not None
    assert (await send(second, "PUT", attempt["artifact_location"] + "a", DATA))[0] == 200
    third = await serve("--artifacts", bucket, storage=url)
    assert (await third.finish(attempt))[0] == 200
    for server in (first, second, third):
        assert (await send(server, "GET", f"{COMPOSER}/jobs/{job['id']}/artifacts/a"))[2] == DATA


async def test_moved(serve: Serve, tmp_path: Path) -> None:
    """`storage move` copies files from a directory into a store and back, and `storage check` finds them there."""
    url, _ = await filled(serve, tmp_path / "a")
    there, bucket = f"fs:{tmp_path / 'b'}", f"bucket:{tmp_path}/artifacts.db"
    for copied in ("1 file", "0 files"):
        ended = await storage("move", "--from", url, "--to", there, "--to-artifacts", bucket)
        assert (ended.code, ended.out) == (0, f"Moved 4 jobs and copied {copied}.\n"), ended.err
    assert (await storage("check", "--storage", there, "--artifacts", bucket)).code == 0
    ended = await storage("check", "--storage", there)
    assert (ended.code, "is missing" in ended.out) == (1, True)
    ended = await storage("move", "--from", there, "--from-artifacts", bucket, "--to", f"fs:{tmp_path / 'c'}")
    assert ended.code == 0, ended.err
    assert (await storage("check", "--storage", f"fs:{tmp_path / 'c'}")).code == 0


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("s3://bucket/x", "no artifact store for 's3' is installed; installed: bucket, file"),
        ("bucket:", "names no file"),
        ("bucket:/nowhere/a.db", "No such file or directory"),
    ],
)
async def test_wrong_stores(url: str, problem: str) -> None:
    """A server whose store is not installed, or cannot be opened, exits with 2 and one sentence."""
    ended = await composerd("serve", "--storage", "memory:", "--artifacts", url, "--listen", "127.0.0.1:0")
    assert (ended.code, ended.out) == (2, "")
    assert problem in ended.err
    assert ended.err.count("\n") == 1

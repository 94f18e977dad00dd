"""A server on a full file system, and on one that fails."""

import asyncio
import json
import os
import random
import resource
import signal
import string
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from ..drivers.fs.mounts import mounted_by, remount
from ..drivers.fs.small_disks import fill as fill_disk
from ..drivers.fs.small_disks import set_quota, small_disk
from ..throwaway import Throwaway
from .conftest import COMPOSER, Serve, Server, error, send, until_ready
from .test_cli import composerd
from .test_storage import storage

SIZE = "2m"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 2 MiB."""
    with mounted_by(tmp_path / "disk", "-t", "tmpfs", "-o", f"size={SIZE},nr_inodes=1000", "tmpfs") as at:
        yield at


def fill(disk: Path) -> Path:
    """Fill the file system, and return the file that takes the space."""
    path = disk / "ballast"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    return path


async def submit(server: Server) -> int:
    """Submit a job of 5 kB, and return the status."""
    body = {"type": "build", "args": "x" * 5000}
    return (await server.request("POST", f"{COMPOSER}/jobs", body))[0]


@pytest.mark.row("Errors of the worker API", "31")
@pytest.mark.row("Errors of the composer API", "31")
async def test_a_full_disk(serve: Serve, disk: Path) -> None:
    """On a full disk writes get 507, except those that end or remove jobs; with room all work, and nothing is lost."""
    server = await serve("--min-free-space", "0", "--sweep-interval", "50ms", storage=f"fs:{disk / 'storage'}")
    expiring = await server.submit(retention="10ms")
    expires = await server.ask()
    assert expires is not None
    assert (await send(server, "PUT", expires["artifact_location"] + "a", b"x" * 50_000))[0] == 200
    ended = [await server.submit(args="ended" * 50) for _ in range(3)]
    for _ in ended[1:]:
        running = await server.ask()
        assert running is not None
        await server.finish(running)
    small = await server.ask()
    assert small is not None
    kept = await server.submit(args="kept" * 50)
    attempt = await server.ask()
    assert attempt is not None
    waiting = asyncio.create_task(server.ask("other", wait="1s"))
    ballast = fill(disk)

    large = b'{"type":"build","args":"' + b"x" * 5000 + b'"}'
    json_ = {"Content-Type": "application/json"}
    assert (await error(server, "POST", f"{COMPOSER}/jobs", large, **json_))[:2] == (507, 31)
    result = b'{"result":"' + b"x" * 100_000 + b'"}'
    assert (await error(server, "PATCH", attempt["location"], result, **json_))[:2] == (507, 31)
    assert (await error(server, "PUT", attempt["artifact_location"] + "a", b"x" * 300_000))[:2] == (507, 31)
    assert (await server.job(kept["id"]))["state"] == "running"
    assert (await send(server, "GET", f"{kept['href']}/args"))[2] == b'"' + b"kept" * 50 + b'"'
    assert await waiting is None
    assert (await server.finish(small))[0] == 200
    for job in ended:
        assert (await send(server, "DELETE", job["href"]))[0] == 204
    assert (await error(server, "POST", f"{COMPOSER}/jobs", large, **json_))[:2] == (507, 31)
    assert (await server.finish(expires))[0] == 200

    async def is_purged() -> bool:
        return (await send(server, "GET", expiring["href"]))[0] == 404 and not files_of(disk / "storage" / "artifacts")

    await server.until(is_purged)
    assert server.log.count(b"the disk is full: there is no room for a write") == 1
    assert b"the disk of the journal is full" not in server.log, "not for each request"
    ballast.unlink()

    async def is_uploaded() -> bool:
        return (await send(server, "PUT", attempt["artifact_location"] + "a", b"x" * 300_000))[0] == 200

    await server.until(is_uploaded)
    assert (await send(server, "PATCH", attempt["location"], result, **json_))[0] == 200
    assert await submit(server) == 201
    server.kill()
    await server.exited()
    await server.start()
    after = await server.job(kept["id"])
    assert (after["state"], after["result"]) == ("finished", "x" * 100_000)
    assert (await send(server, "GET", f"{kept['href']}/artifacts/a"))[2] == b"x" * 300_000
    assert b"Traceback" not in server.log


FULL = b"the disk is full, or a quota is used up\n"


@pytest.mark.parametrize("kind", ["ext4", "overlay"])
async def test_a_server_on_a_full_disk_is_not_ready(serve: Serve, tmp_path: Path, kind: str) -> None:
    """A server is ready only while there is room, whether a write was refused already or not, and without a restart."""
    with small_disk(kind, tmp_path) as disk:
        server = await serve("--min-free-space", "0", storage=f"fs:{disk / 'storage'}")
        for refused in (False, True):
            await until_ready(server, 200)
            ballast = fill_disk(disk)
            if refused:
                while await submit(server) == 201:
                    pass
            await until_ready(server, 503)
            said = (await send(server, "GET", "/readyz"))[2]
            assert said == b"the storage does not accept writes: " + FULL
            assert (await send(server, "GET", "/healthz"))[0] == 200
            ballast.unlink()
            await until_ready(server, 200)
            assert await submit(server) == 201
        server.kill()
        await server.exited()


@pytest.mark.parametrize("kind", ["btrfs-quota", "tmpfs"])
async def test_a_server_without_room_for_artifacts_is_not_ready(serve: Serve, tmp_path: Path, kind: str) -> None:
    """A server whose artifacts find no room is not ready until there is some, with a full disk and a used up quota."""
    with small_disk(kind, tmp_path) as disk:
        server = await serve("--min-free-space", "0", "--artifacts", str(disk / "files"))
        await server.submit()
        attempt = await server.ask_and_confirm()
        ballast = fill_disk(disk)
        assert (await send(server, "PUT", f"{attempt['artifact_location']}a", os.urandom(1 << 20)))[0] == 507
        await until_ready(server, 503)
        assert (await send(server, "GET", "/readyz"))[2] == b"artifacts cannot be stored: " + FULL
        ballast.unlink()
        await until_ready(server, 200)
        assert (await send(server, "PUT", f"{attempt['artifact_location']}a", b"x" * 300_000))[0] == 200
        server.kill()
        await server.exited()


@pytest.mark.parametrize("processes", ["1", "2"])
async def test_a_server_on_a_full_database_is_not_ready(serve: Serve, own_postgres: Throwaway, processes: str) -> None:
    """A server whose database has refused a write for want of room is not ready until there is some again."""
    with small_disk("tmpfs", own_postgres.directory) as disk:
        url = own_postgres.on_disk(disk)
        server = await serve("--artifacts", "none", "--processes", processes, storage=url)
        await until_ready(server, 200)
        ballast = fill_disk(disk)
        body = {"type": "build", "args": "".join(random.choices(string.ascii_letters, k=300_000))}

        async def refused_everywhere() -> bool:
            url = f"{server.url}{COMPOSER}/jobs"
            async with aiohttp.ClientSession() as http, http.post(url, json=body) as answer:  # of any process
                assert answer.status in (201, 507)
            said = []
            for _ in range(10):
                async with aiohttp.ClientSession() as http, http.get(f"{server.url}/readyz") as answer:
                    said.append((answer.status, await answer.read()))
            return said == [(503, b"the storage does not accept writes: " + FULL)] * 10

        await server.until(refused_everywhere)
        ballast.unlink()
        await until_ready(server, 200)
        assert (await server.request("POST", f"{COMPOSER}/jobs", body))[0] == 201
        server.kill(signal.SIGTERM)
        await server.exited()
        own_postgres.stop()


async def test_a_failing_disk(serve: Serve) -> None:
    """After a failed write all writes are refused, until a restart, which loses nothing acknowledged."""
    server = await serve()
    kept = await server.submit()
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY))  # makes writes fail
    for _ in range(2):
        refused = await server.request("POST", f"{COMPOSER}/jobs", {"type": "build"})
        assert (refused[0], refused[1]["id"]) == (503, "28")
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    status, _, reason = await send(server, "GET", "/readyz")  # the log has a limit of its size too
    assert (status, b"repair the disk, then restart composerd" in reason) == (503, True)
    assert (await send(server, "GET", "/healthz"))[0] == 200
    assert (await server.job(kept["id"]))["state"] == "ready"
    server.kill()
    await server.exited()
    await server.start()
    assert (await server.job(kept["id"]))["state"] == "ready"
    assert (await send(server, "GET", "/readyz"))[0] == 200


async def test_an_unusable_artifacts_directory(serve: Serve, disk: Path, tmp_path: Path) -> None:
    """While the artifacts directory is missing or read-only the server is not ready, and uploads get error 503."""
    files = disk / "files"
    server = await serve("--min-free-space", "0", "--artifacts", str(files), storage=f"fs:{tmp_path / 'storage'}")
    await server.submit()
    attempt = await server.ask()
    assert attempt is not None

    async def answer_is(status: int) -> None:
        assert (await send(server, "PUT", attempt["artifact_location"] + "a", b"x"))[0] == status
        await until_ready(server, status)
        _, _, text = await send(server, "GET", "/readyz")
        assert status == 200 or text.startswith(b"artifacts cannot be stored")

    await answer_is(200)
    files.rename(disk / "elsewhere")
    await answer_is(503)
    (disk / "elsewhere").rename(files)
    await answer_is(200)
    await asyncio.to_thread(remount, disk, "ro")
    await answer_is(503)
    await asyncio.to_thread(remount, disk, "rw")
    await answer_is(200)
    assert (await server.finish(attempt))[0] == 200


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "btrfs-quota", "tmpfs"])
async def test_a_start_on_a_full_disk(serve: Serve, tmp_path: Path, kind: str) -> None:
    """On a full disk a server starts after a kill and after a stop, and the storage can be examined."""
    with small_disk(kind, tmp_path) as disk:
        url = f"fs:{disk / 'storage'}"
        server = await serve("--min-free-space", "0", storage=url)
        kept = await server.submit(args="kept" * 50)
        ended = [await server.submit() for _ in range(2)]
        for job in ended:
            await server.request("POST", f"{job['href']}/cancel")
        fill_disk(disk)

        for number, job in zip((signal.SIGKILL, signal.SIGTERM), ended, strict=True):
            server.kill(number)
            await server.exited()
            await server.start()
            assert (await server.job(kept["id"]))["state"] == "ready"
            assert (await send(server, "DELETE", job["href"]))[0] == 204
            assert (await error(server, "DELETE", job["href"]))[0] == 404
        server.kill(signal.SIGTERM)
        await server.exited()
        assert (await storage("info", "--storage", url)).code == 0
        assert (await storage("check", "--storage", url)).code == 0
        await server.start()
        assert (await server.job(kept["id"]))["state"] == "ready"
        server.kill()
        await server.exited()


async def test_a_used_up_quota(serve: Serve, tmp_path: Path) -> None:
    """When its quota is used up a server answers 507, also after a kill, and goes on when the quota is raised."""
    args = "x" * 800_000

    async def submitted() -> int:
        return (await server.request("POST", f"{COMPOSER}/jobs", {"type": "build", "args": args}))[0]

    async def is_accepted() -> bool:
        return await submitted() == 201

    with small_disk("btrfs-quota", tmp_path) as disk:
        server = await serve("--min-free-space", "0", storage=f"fs:{disk / 'storage'}")
        first = await server.submit()
        accepted = 1
        while (status := await submitted()) == 201:
            accepted += 1
        assert [status, await submitted(), await submitted()] == [507] * 3
        await until_ready(server, 503)

        server.kill()
        await server.exited()
        await server.start()
        assert (await server.request("POST", f"{first['href']}/cancel"))[0] == 200
        assert (await send(server, "DELETE", first["href"]))[0] == 204
        assert await submitted() == 507
        await until_ready(server, 503)
        set_quota(disk, "60M")
        await until_ready(server, 200)
        await server.until(is_accepted)
        server.kill()
        await server.exited()
        await server.start()
        assert len((await server.request("GET", f"{COMPOSER}/jobs?limit=1000"))[1]["items"]) == accepted
        server.kill()
        await server.exited()


@pytest.mark.parametrize("kind", ["ext4", "btrfs"])
async def test_a_read_only_disk(serve: Serve, tmp_path: Path, kind: str) -> None:
    """On a read-only disk a storage can be examined and moved away from; a server refuses to start and says why."""
    with small_disk(kind, tmp_path) as disk:
        url = f"fs:{disk / 'storage'}"
        server = await serve(storage=url)
        kept = await server.submit(args="kept" * 50)
        server.kill()
        await server.exited()
        await asyncio.to_thread(remount, disk, "ro")
        before = files_of(disk)
        assert (await storage("check", "--storage", url)).code == 0
        info = json.loads((await storage("info", "--storage", url, "--json")).out)
        assert info["jobs"]["ready"] == 1
        refused = await composerd("serve", "--storage", url, "--listen", "127.0.0.1:0")
        assert refused.code == 2
        assert refused.err.endswith(f"{disk / 'storage'} is on a read-only file system: mount it read-write\n")
        target = f"fs:{tmp_path / 'target'}"
        assert (await storage("move", "--from", url, "--to", target)).code == 0
        assert files_of(disk) == before
    server = await serve(storage=target)
    assert (await server.job(kept["id"]))["state"] == "ready"
    assert (await send(server, "GET", f"{kept['href']}/args"))[2] == b'"' + b"kept" * 50 + b'"'


def files_of(directory: Path) -> dict[str, bytes]:
    """Return the files below a directory with their content."""
    return {str(path): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}

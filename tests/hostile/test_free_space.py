"""A disk that misuse fills: a reserve stays free for those who finish their work."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..drivers.fs.mounts import mounted_by
from .conftest import COMPOSER, Attacker, Serve, Server, status_of

MIB = 1 << 20
RESERVE = ("--min-free-space", "16MiB")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 48 MiB."""
    with mounted_by(tmp_path / "disk", "-t", "tmpfs", "-o", "size=48m", "tmpfs") as at:
        yield at


def fill(disk: Path, free: int) -> Path:
    """Take space until no more than `free` bytes are left, and return the file that has it."""
    ballast = disk / "ballast"
    space = os.statvfs(disk)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, space.f_bavail * space.f_frsize - free)
    return ballast


async def until_ready(server: Server, status: int, said: bytes = b"") -> None:
    """Wait until `/readyz` has this status, and says this."""

    async def holds() -> bool:
        answered, text = await server.request("GET", "/readyz")
        return answered == status and said in text

    await server.until(holds, 5)


async def submitted(server: Server) -> tuple[int, Any]:
    """Submit a job, and return the status and the number of the error."""
    status, body = await server.request("POST", f"{COMPOSER}/jobs", {"type": "other"})
    return status, body.get("id") if status != 201 else None


async def test_a_disk_with_little_space(serve: Serve, disk: Path) -> None:
    """Below the reserve, submissions and uploads get 507, and workers finish what they have; all ends with space."""
    server = await serve(*RESERVE, storage=f"fs:{disk / 'storage'}")
    await server.submit()
    attempt = await server.ask()
    assert attempt is not None
    await server.submit()
    path = attempt["artifact_location"]
    assert (await server.request("PUT", path + "a", data=bytes(1000)))[0] == 200
    ballast = fill(disk, 10 * MIB)
    said = b"less than min_free_space is free on the file system of the storage: submissions are refused\n"
    await until_ready(server, 503, said)

    async def is_logged_for_both() -> bool:
        return server.log.count(b"are refused until there is more") == 2

    await server.until(is_logged_for_both)
    assert await submitted(server) == (507, "31")
    status, refused = await server.request("PUT", path + "b", data=bytes(1000))
    assert (status, refused["id"]) == (507, "31")
    assert (await server.request("GET", attempt["location"]))[0] == 200
    assert (await server.request("PATCH", attempt["location"], {"partial": {"n": 1}}))[0] == 200
    assert (await server.finish(attempt, "x" * 50_000))[0] == 200
    assert (await server.request("GET", f"{COMPOSER}/jobs/{attempt['id']}/artifacts/a"))[1] == bytes(1000)
    other = await server.ask()
    assert other is not None, "jobs are handed out all the time"
    assert (await server.finish(other))[0] == 200
    assert b"storage_full" not in server.log, "not for each request"
    ballast.unlink()
    await until_ready(server, 200)
    assert await submitted(server) == (201, None)


async def test_an_upload_into_the_reserve(serve: Serve, disk: Path, attacker: Any) -> None:
    """An upload that would use the reserve is refused at once if it says its size, and as soon as it does if not."""
    server = await serve(*RESERVE, storage=f"fs:{disk / 'storage'}")
    await server.submit()
    attempt = await server.ask()
    assert attempt is not None
    hostile: Attacker = attacker(server)
    put = f"PUT {attempt['artifact_location']}a HTTP/1.1\r\nHost: a\r\n"
    announced = await hostile.connect(f"{put}Content-Length: {40 * MIB}\r\n\r\n".encode())
    assert await status_of(announced, 5) == 507
    chunked = await hostile.connect(f"{put}Transfer-Encoding: chunked\r\n\r\n".encode())
    answer = asyncio.create_task(status_of(chunked, 10))
    for _ in range(40):
        if answer.done():
            break
        chunked[1].write(b"100000\r\n" + bytes(MIB) + b"\r\n")
        await chunked[1].drain()
    assert await answer == 507
    free = os.statvfs(disk)
    assert free.f_bavail * free.f_frsize >= 15 * MIB


async def test_artifacts_on_a_file_system_of_their_own(serve: Serve, disk: Path, tmp_path: Path) -> None:
    """If only the file system of the artifacts has little space, uploads are refused, and submissions are not."""
    server = await serve(*RESERVE, "--artifacts", str(disk / "files"), storage=f"fs:{tmp_path / 'storage'}")
    await server.submit()
    attempt = await server.ask()
    assert attempt is not None
    fill(disk, 10 * MIB)
    await until_ready(server, 503, b"on the file system of the artifacts: uploads are refused\n")
    assert (await server.request("PUT", attempt["artifact_location"] + "b", data=b"x"))[0] == 507
    assert await submitted(server) == (201, None)

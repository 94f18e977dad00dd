"""A server on a disk that fails once, under a real file system, and its restart while the machine goes on running."""

import contextlib
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from ..drivers.fs.fuse import failing_disk
from ..drivers.fs.mounts import KINDS, make_image, mounted
from .conftest import COMPOSER, Serve, Server
from .processes import command

LARGE = "x" * 10_000
"""Text that makes a frame longer than a block of the file system."""


async def submitted(server: Server, text: str) -> tuple[int, Any]:
    """Submit a job with a text as its args, and return the status and the job."""
    return await server.request("POST", f"{COMPOSER}/jobs", {"type": "build", "args": text})


@pytest.mark.parametrize(("kind", "killed"), [(kind, True) for kind in KINDS] + [("ext4", False)])
async def test_a_write_that_fails_once(tmp_path: Path, serve: Serve, kind: str, killed: bool) -> None:
    """Every acknowledged job is on the disk after a flush failed and the server was restarted, also those after that.

    The memory of the machine has what the disk has lost, and the next fdatasync succeeds.
    """
    with failing_disk(make_image(kind, tmp_path / "image")) as disk, mounted(disk.path, tmp_path / "mnt") as at:
        server = await serve(storage=f"fs:{at / 'storage'}")
        acknowledged = [await server.submit(args=f"{LARGE} before {number}") for number in range(3)]
        disk.fail_at(b"the block that fails", kill=server.pid if killed else 0)
        with contextlib.suppress(aiohttp.ClientError) if killed else contextlib.nullcontext():
            status, answer = await submitted(server, "the block that fails" + LARGE)
            assert (status, answer["id"]) == (504, "40"), answer
        assert disk.has_failed
        if not killed:
            status, answer = await submitted(server, "small")
            assert (status, answer["id"]) == (503, "28"), answer
            server.kill()
        await server.exited()

        await server.start()
        acknowledged += [await server.submit(args=f"{LARGE} after {number}") for number in range(3)]
        server.kill()
        await server.exited()
        copy = disk.copy(tmp_path / "copy")
    with mounted(copy, tmp_path / "copied") as at:
        storage = f"fs:{at / 'storage'}"
        check = command("storage", "check", "--storage", storage)
        printed = check.communicate()
        assert check.returncode == 0, printed + check.said()
        check.close()
        server = await serve(storage=storage)
        for job in acknowledged:
            assert (await server.request("GET", f"{job['href']}/args"))[0] == 200, job
        await server.close()

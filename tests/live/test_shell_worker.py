"""The worker in docs/how-to/worker-in-shell.md."""

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from .conftest import COMPOSER, Server, send

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "worker-in-shell.md"

pytestmark = pytest.mark.usefixtures("curl")


@contextlib.asynccontextmanager
async def working(server: Server, directory: Path, *command: str) -> AsyncIterator[None]:
    """Run the page's worker in a process group of its own."""
    script = re.search(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert script is not None
    (directory / "worker.sh").write_text(script[1])
    process = await asyncio.create_subprocess_exec(
        "sh", str(directory / "worker.sh"), server.url, "build", *command, start_new_session=True
    )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def test_a_finished_job(server: Server, tmp_path: Path) -> None:
    """The output of the command becomes an artifact, and its exit status the result, whatever the args contain."""
    args = {"location": '","location":"nowhere', "args": 1}
    async with working(server, tmp_path, "cat"):
        for _ in range(2):
            job = await server.submit(args=args)
            ended = await server.job(job["id"], wait="20s")
            assert (ended["state"], ended["result"]) == ("finished", {"exit_status": 0})
            _, _, output = await send(server, "GET", f"{COMPOSER}/jobs/{job['id']}/artifacts/output")
            assert job["id"].encode() in output


async def test_a_failed_job(server: Server, tmp_path: Path) -> None:
    """A job fails if its command fails."""
    async with working(server, tmp_path, "sh", "-c", "echo no >&2; exit 3"):
        job = await server.submit()
        ended = await server.job(job["id"], wait="20s")
        assert (ended["state"], ended["result"]["exit_status"]) == ("failed", 3)
        assert (await send(server, "GET", f"{COMPOSER}/jobs/{job['id']}/artifacts/output"))[2] == b"no\n"


async def test_a_cancel(server: Server, tmp_path: Path) -> None:
    """A cancel stops the command at once, and the worker runs the next job."""
    script = f"echo x >> {tmp_path}/up; exec sleep 60"
    async with working(server, tmp_path, "sh", "-c", script):
        for ups in (2, 4):
            job = await server.submit()

            async def up(ups: int = ups) -> bool:
                return (tmp_path / "up").exists() and (tmp_path / "up").stat().st_size == ups

            await server.until(up)
            await server.request("POST", f"{COMPOSER}/jobs/{job['id']}/cancel")

"""Commands on a pseudo-terminal: tables with headings, live progress of a job, progress bars."""

import asyncio
import os
import pty
import re
import subprocess
import sys
from contextlib import suppress

import pytest

from .conftest import Server, clean_environment, send

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A command that runs on a terminal."""

    def __init__(self, server: Server, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "composerd.cli.main", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=clean_environment() | {"COMPOSERD_SERVER": server.url, "TERM": "xterm-256color", "COLUMNS": "160"},
        )
        os.close(theirs)
        self.raw = ""

    def read(self) -> int:
        """Read the output until the command has exited, and return its exit code."""
        with suppress(OSError):  # the command has closed the terminal
            while part := os.read(self._ours, 65536):
                self.raw += part.decode()
        os.close(self._ours)
        return self._process.wait()

    @property
    def shown(self) -> str:
        """The output without control sequences."""
        return _CONTROL.sub("", self.raw)


async def ended(terminal: Terminal) -> int:
    """Wait until a command has exited, and return its exit code."""
    async with asyncio.timeout(60):
        return await asyncio.to_thread(terminal.read)


@pytest.mark.row("Commands", "composerd jobs")
@pytest.mark.row("Commands", "composerd status")
async def test_tables(server: Server) -> None:
    """Tables have headings, columns and colours, and a job has one field on each line."""
    job = await server.submit()
    await server.request("POST", f"{job['href']}/cancel")
    table = Terminal(server, "jobs")
    assert await ended(table) == 0
    heading, line = table.shown.splitlines()
    assert heading.split() == ["id", "type", "arch", "state", "priority", "queued", "at"]
    assert line.split()[:5] == [job["id"], "build", "any", "canceled", "0"]
    assert "\x1b[33mcanceled" in table.raw
    one = Terminal(server, "status", job["id"])
    assert await ended(one) == 0
    assert re.search(r"^state +canceled\r?$", one.shown, re.MULTILINE)


@pytest.mark.row("Commands", "composerd submit")
async def test_live_progress_of_a_job(server: Server) -> None:
    """`submit --wait` shows the state and the progress while the job runs, and then its end."""
    terminal = Terminal(server, "submit", "build", "--wait")
    following = asyncio.create_task(ended(terminal))
    attempt = await server.ask()
    assert attempt is not None
    await server.request("PATCH", attempt["location"], {"partial": {"percent": 42}})

    async def seen() -> bool:
        return 'running · {"percent":42}' in terminal.shown

    await server.until(seen)
    await server.finish(attempt, {"job_error": {"id": 1, "reason": "no luck"}})
    assert await following == 1
    assert terminal.shown.splitlines()[-1] == f"composerd: job {attempt['id']} failed: no luck"


@pytest.mark.row("Commands", "composerd artifacts")
async def test_a_download(server: Server, tmp_path: os.PathLike[str]) -> None:
    """A download shows a progress bar for each file, and a table of the files."""
    job = await server.submit()
    attempt = await server.ask()
    assert attempt is not None
    await send(server, "PUT", attempt["artifact_location"] + "image.raw", bytes(1_000_000))
    await server.finish(attempt)
    terminal = Terminal(server, "artifacts", job["id"], "--download", str(tmp_path))
    assert await ended(terminal) == 0
    assert re.search(r"image\.raw .*1\.0/1\.0 MB", terminal.shown)
    assert terminal.shown.splitlines()[-1].split()[:3] == ["image.raw", "976.6", "KiB"]

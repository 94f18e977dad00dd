"""Commands on a terminal: tables with headings, a job that is followed live, bars. Each runs on a pseudo-terminal of its own."""

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
    """A command on a terminal."""

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
        """Read until the command has ended; its exit code."""
        with suppress(OSError):  # how a terminal says that nobody is there any more
            while part := os.read(self._ours, 65536):
                self.raw += part.decode()
        os.close(self._ours)
        return self._process.wait()

    @property
    def shown(self) -> str:
        """What was shown, without colours and movements."""
        return _CONTROL.sub("", self.raw)


async def ended(terminal: Terminal) -> int:
    """Let a command come to its end."""
    async with asyncio.timeout(60):
        return await asyncio.to_thread(terminal.read)


@pytest.mark.row("Commands", "composerd jobs")
@pytest.mark.row("Commands", "composerd status")
async def test_tables(server: Server) -> None:
    """Headings, columns and colours; a job with a field a line."""
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
async def test_a_job_that_is_followed(server: Server) -> None:
    """Its state and its progress are shown while it goes on, and then what became of it."""
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
    """A bar for each file, and a table of what came."""
    job = await server.submit()
    attempt = await server.ask()
    assert attempt is not None
    await send(server, "PUT", attempt["artifact_location"] + "image.raw", bytes(1_000_000))
    await server.finish(attempt)
    terminal = Terminal(server, "artifacts", job["id"], "--download", str(tmp_path))
    assert await ended(terminal) == 0
    assert re.search(r"image\.raw .*1\.0/1\.0 MB", terminal.shown)
    assert terminal.shown.splitlines()[-1].split()[:3] == ["image.raw", "976.6", "KiB"]

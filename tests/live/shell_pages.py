"""The commands of a page, run in its order by shells on terminals, as somebody who reads it would type them."""

import asyncio
import contextlib
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from .conftest import LOOPBACK, clean_environment

TOP = Path(__file__).parents[2]

ADDRESS = "127.0.0.1:8700"
"""The address of servers on the pages."""

ANYWHERE = "0.0.0.0:8700"
HOST = "composerd.example.com"
"""The name of a server on the pages whose clients are on other machines."""

SERVER = "composerd serve "
SERVICES = (SERVER, "composerd worker ")
"""Beginnings of commands that go on until somebody stops them."""

LOOKS = ("composerd whoami", "curl ")
"""Beginnings of commands that change nothing, and are repeated until they print what the page says."""

_BLOCK = re.compile(r"^```sh\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)
_FAILURE = re.compile(r"^composerd: (?!this token of)", re.MULTILINE)


class Block(NamedTuple):
    """Commands that a page says to type, and what it says that they print, with `…` for what differs each time."""

    commands: str
    printed: str

    @property
    def is_service(self) -> bool:
        """True if the commands go on until somebody stops them."""
        return self.commands.startswith(SERVICES) and " --once " not in self.commands

    @property
    def fails(self) -> bool:
        """True if the page shows the error of a command."""
        return _FAILURE.search(self.printed) is not None

    def is_right(self, output: str) -> bool:
        """Return True if an output is what the page says; of a service's, if that is a part of it."""
        pattern = _pattern(self.printed)
        if not self.is_service:
            pattern = rf"\A{pattern}\Z" if pattern else ""
        return re.search(pattern, "".join(_lines(output))) is not None


def _pattern(printed: str) -> str:
    """Return the regular expression for an output: `…` is the rest of a word or a line, and alone it is any lines."""
    return "".join(
        r"(?:.*\n)*" if line == "…\n" else ".*".join(re.escape(part) for part in line.split("…"))
        for line in _lines(printed)
    )


def _lines(text: str) -> list[str]:
    """Return the lines that are not empty, without white space at their ends, and with two spaces between columns."""
    return [re.sub(" {2,}", "  ", line.rstrip()) + "\n" for line in text.splitlines() if line.strip()]


class Reader:
    """Somebody who types the commands of a page, in a folder and with a home of their own."""

    def __init__(self, folder: Path, replaced: Mapping[str, str] | None = None) -> None:
        """Prepare everything. `replaced` has what is typed in place of the page's own names and addresses."""
        with socket.create_server((LOOPBACK, 0)) as free:
            address = f"{LOOPBACK}:{free.getsockname()[1]}"
        self.address = address
        self._folder = folder
        self._replaced = {
            ADDRESS: address,
            ANYWHERE: address,
            f"{HOST}:8700": address,
            **(replaced or {}),
        }
        self._services: list[_Terminal] = []
        home = folder / "home"
        home.mkdir()
        self._environment = {
            **clean_environment(),
            "HOME": str(home),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "NO_COLOR": "1",
            "TERM": "dumb",
            "COLUMNS": "200",
            "COMPOSERD_LISTEN": address,  # as the default is the page's address
            "COMPOSERD_SERVER": f"http://{address}",
        }

    async def read(self, page: str) -> None:
        """Run all commands of a page, which must print what it says, and stop what they have started."""
        async with self.reading(page):
            pass

    @contextlib.asynccontextmanager
    async def reading(self, page: str) -> AsyncIterator[None]:
        """Do the same, but stop what the commands have started at the end of a block."""
        blocks = [Block(*found) for found in _BLOCK.findall((TOP / page).read_text(encoding="utf-8"))]
        assert blocks
        try:
            for block in blocks:
                await (self._start_service(block) if block.is_service else self._run(block))
            yield
        finally:
            for service in self._services:
                await service.stop()

    async def _run(self, block: Block) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + 20
        while True:
            terminal = self._terminal(block.commands)
            code = await terminal.ended()
            output = self._as_on_the_page(terminal.output)
            if block.is_right(output) and (code != 0) == block.fails:
                return
            repeated = block.commands.startswith(LOOKS) and loop.time() < deadline
            assert repeated, f"status {code} of\n{block.commands}\nIt prints\n{output}\nThe page says\n{block.printed}"

    async def _start_service(self, block: Block) -> None:
        """Start a server, in place of the one that runs, or a worker."""
        is_server = block.commands.startswith(SERVER)
        if is_server:
            for running in [one for one in self._services if one.is_server]:
                await running.stop()
                self._services.remove(running)
        service = self._terminal(f"exec {block.commands}")
        service.is_server = is_server
        self._services.append(service)

        def is_right() -> bool:
            output = self._as_on_the_page(service.output)
            return block.is_right(output) and (not is_server or "listening on " in output)

        await service.until(is_right)

    def _terminal(self, commands: str) -> "_Terminal":
        for ours, typed in self._replaced.items():
            commands = commands.replace(ours, typed)
        return _Terminal(commands, self._folder, self._environment)

    def _as_on_the_page(self, output: str) -> str:
        for ours, typed in self._replaced.items():
            output = output.replace(typed, ours)
        return output


class _Terminal:
    """A shell that runs commands on a terminal of its own."""

    def __init__(self, commands: str, folder: Path, environment: Mapping[str, str]) -> None:
        self.output = ""
        self.is_server = False
        self._commands = commands
        self._descriptor, theirs = pty.openpty()
        self._process = subprocess.Popen(
            ["sh", "-euc", commands],
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
        os.close(theirs)
        self._changed = asyncio.Event()
        self._closed = False
        asyncio.get_running_loop().add_reader(self._descriptor, self._read)

    def _read(self) -> None:
        try:
            read = os.read(self._descriptor, 65536)
        except OSError:  # nobody has the terminal any more
            read = b""
        if not read:
            self._closed = True
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
        self.output += read.decode(errors="replace").replace("\r\n", "\n")
        self._changed.set()

    async def ended(self) -> int:
        """Wait until the commands have ended, and return their status."""
        await self.until(lambda: self._closed)
        return await asyncio.to_thread(self._process.wait)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something is true, which becomes true with a further output at the latest."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(60):
                while not holds() and not self._closed:
                    await self._changed.wait()
                    self._changed.clear()
        if not holds():
            os.killpg(self._process.pid, signal.SIGKILL)
            raise AssertionError(f"after a minute, or at its end\n{self._commands}\nhas printed only\n{self.output}")

    async def stop(self) -> None:
        """End the commands as an operator does."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        await self.ended()

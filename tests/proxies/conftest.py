"""Proxies in front of a server, each started for one test."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import aiohttp
import pytest

from ..live.conftest import LOOPBACK, Server, no_process_left, serve
from .kinds import RIGHT, Proxy

__all__ = ["no_process_left", "serve"]


class Running:
    """A proxy that runs in front of a server."""

    def __init__(self, proxy: Proxy, url: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = proxy.name
        self.url = url
        self.log = log
        """The file with its output."""
        self._process = process

    @property
    def address(self) -> tuple[str, int]:
        """The host and the port that the proxy listens on."""
        host, _, port = self.url.rpartition("/")[2].rpartition(":")
        return host, int(port)

    def kill(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to the proxy and its processes, unless it has exited."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    async def close(self) -> None:
        """Stop the proxy: it may take its time, so that it is killed."""
        self.kill()
        try:
            async with asyncio.timeout(1):
                await self._process.wait()
        except TimeoutError:
            pass
        self.kill(signal.SIGKILL)
        await self._process.wait()


Run = Callable[..., Awaitable[Running]]


@pytest.fixture(scope="module")
def directory(installed: Callable[[str, str, str], str]) -> Iterator[Path]:
    """Create a directory for the files of proxies. If a proxy is not installed, skip the test, or fail it in CI."""
    for proxy in RIGHT.values():
        installed(proxy.package, proxy.name, proxy.program)
    made = create()
    yield made
    shutil.rmtree(made)


def create(parent: Path | None = None) -> Path:
    """Create a directory that everybody may read: proxies give up root."""
    made = Path(tempfile.mkdtemp(prefix="composerd-proxies-", dir=parent))
    made.chmod(0o755)
    return made


@contextlib.asynccontextmanager
async def starting(directory: Path) -> AsyncIterator[Run]:
    """Yield a function that starts a proxy in front of a server and returns when it answers; they stop at the end."""
    running: list[Running] = []

    async def start(
        proxy: Proxy, server: Server | tuple[str, int], address: str = LOOPBACK, path: str = "/healthz"
    ) -> Running:
        scratch = create(directory)
        port = free_port(address)
        upstream = server.address if isinstance(server, Server) else server
        with (scratch / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *proxy.command(address, port, upstream, scratch),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "HOME": str(scratch)},
            )
        one = Running(proxy, f"http://{address}:{port}", process, scratch / "log")
        running.append(one)
        await until_listening(one, process, path)
        return one

    try:
        yield start
    finally:
        await asyncio.gather(*(one.close() for one in running))


@pytest.fixture
async def run(directory: Path) -> AsyncIterator[Run]:
    """Return the function of `starting`."""
    async with starting(directory) as start:
        yield start


async def until_listening(proxy: Running, process: asyncio.subprocess.Process, path: str) -> None:
    """Wait until a proxy accepts connections and has found its server: until it answers a path with 200."""
    async with aiohttp.ClientSession() as http:
        for _ in range(1000):
            assert process.returncode is None, proxy.log.read_text(errors="replace")
            with contextlib.suppress(aiohttp.ClientError):
                async with http.get(proxy.url + path) as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.02)
    pytest.fail(f"{proxy.name} does not answer: {proxy.log.read_text(errors='replace')}")


def free_port(address: str) -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as one:
        one.bind((address, 0))
        port: int = one.getsockname()[1]
        return port

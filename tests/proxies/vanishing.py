"""A worker on a machine that can vanish: in a network namespace of its own, from which no packet comes after that."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence

import pytest

_WORKER = """
import json, select, socket, sys
connections = []
for host, port, query in json.load(sys.stdin):
    connection = socket.create_connection((host, port))
    body = b'{"types": ["build"], "arch": "x86_64"}'
    head = f"POST /api/worker/v1/jobs{query} HTTP/1.1\\r\\nHost: {host}\\r\\nContent-Type: application/json\\r\\n"
    connection.sendall(head.encode() + b"Content-Length: %d\\r\\n\\r\\n" % len(body) + body)
    connections.append(connection)
print("sent", flush=True)
select.select([], [], [], 90)
"""
"""Sends one request for a job to each address, and stays connected."""


class Machine:
    """A machine that the tests make, and the address under which it reaches this one."""

    def __init__(self) -> None:
        number = os.getpid() % 60_000
        self._namespace = f"composerd-{number}"
        self._ours, self._its = f"cd{number}a", f"cd{number}b"
        subnet = f"10.213.{number // 256}.{number % 256 // 4 * 4}".rpartition(".")
        self.host = f"{subnet[0]}.{int(subnet[2]) + 1}"
        """The address of this machine, as the other one sees it."""
        self._address = f"{subnet[0]}.{int(subnet[2]) + 2}"
        self._other = self._address.replace("10.213.", "10.214.")
        """The address that the machine gets when its connections are forgotten."""
        self._worker: asyncio.subprocess.Process | None = None

    def start(self) -> None:
        """Make the namespace, and a cable to it. Raises `CalledProcessError` if this process may not."""
        _ip("netns", "add", self._namespace)
        _ip("link", "add", self._ours, "type", "veth", "peer", "name", self._its, "netns", self._namespace)
        _ip("addr", "add", f"{self.host}/30", "dev", self._ours)
        _ip("link", "set", self._ours, "up")
        _ip("-n", self._namespace, "addr", "add", f"{self._address}/30", "dev", self._its)
        _ip("-n", self._namespace, "link", "set", self._its, "up")
        found = json.loads(_ip("-n", self._namespace, "-json", "link", "show", self._its))
        # As with a router in between, nobody says that the machine is not there any more.
        _ip("neigh", "replace", self._address, "lladdr", found[0]["address"], "dev", self._ours, "nud", "permanent")

    async def ask(self, places: Sequence[tuple[str, int, str]]) -> None:
        """Send a request for a job from the machine to each place: a host, a port and the query."""
        worker = await self.run(sys.executable, "-c", _WORKER)
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(json.dumps(list(places)).encode())
        worker.stdin.close()
        assert await worker.stdout.readline() == b"sent\n"

    async def run(self, *command: str) -> asyncio.subprocess.Process:
        """Start a command on the machine, which ends with it."""
        self._worker = await asyncio.create_subprocess_exec(
            *("ip", "netns", "exec", self._namespace, *command),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        return self._worker

    async def forget(self) -> None:
        """Let the packets of the machine's connections go nowhere any more. New connections work."""
        _ip("-n", self._namespace, "addr", "flush", "dev", self._its)
        _ip("-n", self._namespace, "addr", "add", f"{self._other}/32", "dev", self._its)
        _ip("-n", self._namespace, "route", "add", f"{self.host}/32", "dev", self._its)
        _ip("route", "replace", f"{self._other}/32", "dev", self._ours)

    async def vanish(self) -> None:
        """Let no packet of the machine arrive any more, and end its processes."""
        _ip("-n", self._namespace, "addr", "flush", "dev", self._its)
        await self._end()

    async def _end(self) -> None:
        if self._worker is not None:
            with contextlib.suppress(ProcessLookupError):
                self._worker.kill()
            await self._worker.communicate()

    async def close(self) -> None:
        """Remove the namespace."""
        await self._end()
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip("link", "del", self._ours)
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip("netns", "del", self._namespace)


@contextlib.asynccontextmanager
async def machine() -> AsyncIterator[Machine]:
    """Make a machine, and remove it at the end of the block. Skip the test if this process may not."""
    made = Machine()
    try:
        try:
            made.start()
        except subprocess.CalledProcessError as exc:
            pytest.skip(f"network namespaces cannot be made: {exc.stderr.strip()}")
        yield made
    finally:
        await made.close()


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout

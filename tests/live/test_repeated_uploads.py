"""Streamed uploads that real HTTP clients send again by themselves, with what their generator has left."""

import asyncio
import base64
import contextlib
import hashlib
import os
import socket
import struct
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from .conftest import COMPOSER, Serve, Server, send

PARTS = 64
PART = os.urandom(64 * 1024)
WHOLE = PART * PARTS
LISTED = {"name": "disk", "size": len(WHOLE), "sha256": hashlib.sha256(WHOLE).hexdigest()}

URLLIB3 = """
import sys, urllib3
def parts():
    with open(sys.argv[2], "rb") as file:
        while part := file.read(65536):
            yield part
retries = urllib3.Retry(3, status_forcelist=[503], backoff_factor=0.01)
answer = urllib3.PoolManager().request("PUT", sys.argv[1], body=parts(), retries=retries)
print(answer.status, answer.headers.get("Content-Digest"))
"""

NET_HTTP = """
require "net/http"
url = URI(ARGV[0])
put = Net::HTTP::Put.new(url)
put["Transfer-Encoding"] = "chunked"
put["Content-Type"] = "application/octet-stream"
put.body_stream = File.open(ARGV[1], "rb")
answer = Net::HTTP.start(url.host, url.port) { |http| http.request(put) }
puts "#{answer.code} #{answer["Content-Digest"]}"
"""

HTTP_TINY = """
use HTTP::Tiny;
open my $file, "<:raw", $ARGV[1] or die;
my $parts = sub { my $part; read($file, $part, 65536) ? $part : undef };
my $answer = HTTP::Tiny->new->request("PUT", $ARGV[0], {content => $parts});
print "$answer->{status} $answer->{headers}{'content-digest'}\n";
"""

CLIENTS = {
    "urllib3": (sys.executable, "-c", URLLIB3),
    "Ruby Net::HTTP": ("ruby", "-e", NET_HTTP),
    "Perl HTTP::Tiny": ("perl", "-e", HTTP_TINY),
}


class Relay:
    """Passes connections to a server, and resets the first one in the middle of its request or before its answer."""

    def __init__(self, server: Server, after: int | None) -> None:
        """Reset the first connection after so many bytes of its request; None: once it has been answered."""
        self._address = server.address
        self._after = after
        self.connections = 0

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one connection on."""
        self.connections += 1
        first = self.connections == 1
        theirs, server = await asyncio.open_connection(*self._address)
        tasks = [
            asyncio.create_task(self._pump(reader, server, self._after if first else None)),
            asyncio.create_task(self._answer(theirs, writer, lost=first)),
        ]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        with contextlib.suppress(OSError):
            writer.write_eof()  # a client that sees an end before the reset takes it for a connection that was idle
        for side in (writer, server):
            connection = side.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            side.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most: int | None) -> None:
        passed = 0
        while (data := await reader.read(16 * 1024)) and (most is None or passed < most):
            writer.write(data)
            await writer.drain()
            passed += len(data)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, lost: bool) -> None:
        while data := await reader.read(16 * 1024):
            if lost and not data.startswith(b"HTTP/1.1 100"):
                return
            writer.write(data)
            await writer.drain()


@contextlib.asynccontextmanager
async def relayed(server: Server, after: int | None) -> AsyncIterator[tuple[str, Relay]]:
    """Run a relay in front of a server; see `Relay`."""
    relay = Relay(server, after)
    async with await asyncio.start_server(relay.accept, server.address[0], 0) as listening:
        host, port = listening.sockets[0].getsockname()
        yield f"http://{host}:{port}", relay


async def upload(client: str, url: str, path: str) -> tuple[int, str]:
    """Upload a file with a client, and return the status and the Content-Digest that it got in the end."""
    process = await asyncio.create_subprocess_exec(*CLIENTS[client], url, path, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(60):
        said, _ = await process.communicate()
    status, _, digest = said.decode().strip().partition(" ")
    return int(status), digest


def digest_of(data: bytes) -> str:
    """Return the value of the Content-Digest header."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Return the path of the file that is uploaded."""
    file = tmp_path / "disk"
    file.write_bytes(WHOLE)
    return str(file)


@pytest.mark.parametrize("client", CLIENTS)
async def test_an_upload_that_breaks_half_way(serve: Serve, client: str, path: str) -> None:
    """A client that sends less of a file again sees it in the answer's digest, and its list refuses the result."""
    server = await serve()
    job = await server.submit()
    attempt = await server.ask()
    assert attempt is not None
    async with relayed(server, after=1024 * 1024) as (url, relay):
        status, digest = await upload(client, f"{url}{attempt['artifact_location']}disk", path)
        assert (status, relay.connections) == (200, 2)
    assert digest.startswith("sha-256=:")
    assert digest != digest_of(WHOLE)
    body = {"result": None, "artifacts": [LISTED]}
    status, refused = await server.request("PATCH", attempt["location"], body)
    assert (status, refused["id"]) == (409, "41")
    assert (refused["details"]["difference"], refused["details"]["name"]) == ("size", "disk")
    assert (await server.job(job["id"]))["state"] == "running"
    assert (await upload(client, f"{server.url}{attempt['artifact_location']}disk", path)) == (200, digest_of(WHOLE))
    assert (await server.request("PATCH", attempt["location"], body))[0] == 200
    assert (await send(server, "GET", f"{COMPOSER}/jobs/{job['id']}/artifacts/disk"))[2] == WHOLE


@pytest.mark.parametrize("client", CLIENTS)
async def test_an_upload_whose_answer_is_lost(serve: Serve, client: str, path: str) -> None:
    """A client that sends an upload again without its body does not replace the whole file that is stored."""
    server = await serve()
    job = await server.submit()
    attempt = await server.ask()
    assert attempt is not None
    async with relayed(server, after=None) as (url, relay):
        status, _ = await upload(client, f"{url}{attempt['artifact_location']}disk", path)
        assert (status, relay.connections) == (411, 2)
    assert (await server.finish(attempt))[0] == 200
    assert (await send(server, "GET", f"{COMPOSER}/jobs/{job['id']}/artifacts/disk"))[2] == WHOLE

"""A relay between a client and a server, which records requests, shortens waits and cuts an answer."""

import asyncio
import contextlib
import re
import socket
import struct
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

RESET = struct.pack("ii", 1, 0)
"""A socket that lingers for 0 seconds resets its connection when it is closed."""


@dataclass(frozen=True)
class Request:
    """The head of a request, which connection it came on, and when by the monotonic clock."""

    connection: int
    head: str
    at: float

    @property
    def call(self) -> str:
        """The method, a space and the last part of the path, without the query."""
        method, path = self.head.split(" ")[:2]
        return f"{method} {path.partition('?')[0].rpartition('/')[2]}"

    def header(self, name: str) -> str | None:
        """Return the value of a header, or None."""
        found = re.search(rf"^{name}: *(.*?)\r$", self.head, re.IGNORECASE | re.MULTILINE)
        return found and found[1]


class Relay:
    """Passes bytes between clients and a server, one connection to the server for each to itself."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._clients: set[asyncio.StreamWriter] = set()
        self._connections = 0
        self.url = ""
        self.requests: list[Request] = []
        self.short_waits = False
        """True while a wait of 20 s is sent on as one of 50 ms."""
        self.cut: str | None = None
        """The call whose next answer is cut: half of its body is passed on, and the connection is closed."""
        self.lose: str | None = None
        """The call whose next answer is lost: the connections to the server and to the client are reset instead."""
        self.rate: float | None = None
        """The most bytes of bodies a second that are passed to the server, for each connection."""
        self.prefix = ""
        """The beginning of paths, which the relay removes and names to the server; there is nothing at other paths."""
        self.sever: str | None = None
        """The call whose next request is broken off: the connection is closed after some of the body."""

    async def start(self) -> None:
        """Listen on an address of the loopback network."""
        listener = socket.create_server((self._address[0], 0))
        # A client cannot send much more than the relay has passed on. Connections inherit the size of the buffer.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        self._server = await asyncio.start_server(self._accept, sock=listener, limit=1 << 16)
        host, port = listener.getsockname()
        self.url = f"http://{host}:{port}"

    async def close(self) -> None:
        """Close the relay and its connections."""
        assert self._server is not None
        self._server.close()
        for client in self._clients:
            client.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._clients.add(writer)
        self._connections += 1
        number = self._connections
        theirs, server = await asyncio.open_connection(*self._address)
        # The answers belong to the requests in their order: no client of the tests sends two requests at once.
        calls: list[str] = []
        pumps = [
            asyncio.create_task(self._requests(reader, server, number, calls)),
            asyncio.create_task(self._answers(theirs, server, writer, calls)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for side in (writer, server):
                side.close()
                with contextlib.suppress(ConnectionError):
                    await side.wait_closed()
            self._tasks.discard(task)
            self._clients.discard(writer)

    async def _requests(
        self, client: asyncio.StreamReader, server: asyncio.StreamWriter, number: int, calls: list[str]
    ) -> None:
        async for is_head, data in _pieces(client):
            if is_head:
                request = Request(number, data.decode("latin-1"), time.monotonic())
                self.requests.append(request)
                calls.append(request.call)
            elif self.sever is not None and calls[-1:] == [self.sever] and len(data) > 1000:
                self.sever = None
                return
            elif self.rate is not None:
                await asyncio.sleep(len(data) / self.rate)
            server.write(self._passed_on(data) if is_head else data)
            await server.drain()

    def _passed_on(self, head: bytes) -> bytes:
        """Return the head of a request as the server gets it."""
        if self.prefix:
            method, path, rest = head.split(b" ", 2)
            below = path.startswith(f"{self.prefix}/".encode())
            path = path[len(self.prefix) :] if below else b"/nothing-beside-the-prefix"
            head = b" ".join((method, path, rest))
            head = head.replace(b"\r\n", f"\r\nX-Forwarded-Prefix: {self.prefix}\r\n".encode(), 1)
        return head.replace(b"wait=20s", b"wait=50ms") if self.short_waits else head

    async def _answers(
        self,
        answers: asyncio.StreamReader,
        server: asyncio.StreamWriter,
        client: asyncio.StreamWriter,
        calls: list[str],
    ) -> None:
        cut = False
        async for is_head, data in _pieces(answers):
            if is_head and not data.startswith(b"HTTP/1.1 100 "):
                call = calls.pop(0)
                if call == self.lose:
                    self.lose = None
                    for side in (server, client):
                        side.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                        side.transport.abort()
                    return
                cut = call == self.cut and data.startswith(b"HTTP/1.1 20") and b" 204 " not in data[:13]
            elif not is_head and cut:
                self.cut = None
                client.write(data[: len(data) // 2])
                await client.drain()
                return
            client.write(data)
            await client.drain()


async def _pieces(reader: asyncio.StreamReader) -> AsyncIterator[tuple[bool, bytes]]:
    """Yield heads and pieces of bodies until the connection ends. Each comes with True if it is a head."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            yield True, head
            length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
            if length:
                async for piece in _exactly(reader, int(length[1])):
                    yield False, piece
            elif re.search(rb"\r\ntransfer-encoding: *chunked", head, re.IGNORECASE):
                size = -1
                while size != 0:
                    line = await reader.readuntil(b"\r\n")
                    yield False, line
                    size = int(line, 16)
                    async for piece in _exactly(reader, size + 2):
                        yield False, piece


async def _exactly(reader: asyncio.StreamReader, count: int) -> AsyncIterator[bytes]:
    """Yield this number of bytes as they arrive."""
    while count:
        data = await reader.read(min(count, 1 << 18))
        if not data:
            raise asyncio.IncompleteReadError(b"", count)
        count -= len(data)
        yield data

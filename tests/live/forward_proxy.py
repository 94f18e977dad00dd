"""A small proxy for clients: it passes requests for http on, and opens tunnels for https, as Squid does."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from .conftest import LOOPBACK

_ABSOLUTE = re.compile(rb"^([A-Z]+) http://[^/ ]+")


class ForwardProxy:
    """Connects to one server, whatever name a client gives it."""

    def __init__(self, server: tuple[str, int]) -> None:
        self.url = ""
        self.heads: list[str] = []
        """The heads of the requests for the proxy, without those in a tunnel."""
        self.tunneled = bytearray()
        """The bytes that clients have sent in tunnels."""
        self.refusal: str | None = None
        """The status line with which every request is refused."""
        self.silent = False
        """True while no request gets an answer."""
        self._server = server
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._serve(reader, writer)
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head.decode())
        if self.silent:
            await asyncio.Event().wait()
        if self.refusal is not None:
            writer.write(f"HTTP/1.1 {self.refusal}\r\nServer: squid/5.7\r\nContent-Length: 0\r\n\r\n".encode())
            return
        from_server, to_server = await asyncio.open_connection(*self._server)
        try:
            if head.startswith(b"CONNECT "):
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                sent = self.tunneled
            else:
                to_server.write(_ABSOLUTE.sub(rb"\1 ", head).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
                sent = bytearray()
            async with asyncio.TaskGroup() as group:
                back = group.create_task(_copy(from_server, writer, bytearray()))
                forth = group.create_task(_copy(reader, to_server, sent))
                await asyncio.wait([back, forth], return_when=asyncio.FIRST_COMPLETED)
                back.cancel()
                forth.cancel()
        finally:
            to_server.close()

    async def close(self) -> None:
        """End all connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, copied: bytearray) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            copied += data
            writer.write(data)


@asynccontextmanager
async def forwarding(server: tuple[str, int]) -> AsyncIterator[ForwardProxy]:
    """Run such a proxy for the length of a block."""
    proxy = ForwardProxy(server)
    listening = await asyncio.start_server(proxy.serve, LOOPBACK, 0)
    proxy.url = "http://{}:{}".format(*listening.sockets[0].getsockname()[:2])
    async with listening:
        yield proxy
        await proxy.close()

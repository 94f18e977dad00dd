"""A connection that sends what a check wants to send, byte by byte, and reads answers of HTTP/1.1."""

import asyncio
import re
import socket
import ssl
import struct
from collections.abc import Mapping
from typing import NamedTuple, Self

from multidict import CIMultiDict
from yarl import URL

from composerd_client.forward_proxy import ForwardProxy

LARGEST = 64 * 1024**2
"""Bytes of the largest body that is read."""

_LARGEST_HEAD = 64 * 1024

_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})(?: |\r\n)")


class Answer(NamedTuple):
    """An answer, of the server or of something in between."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def closes(self) -> bool:
        """True if the connection is closed after this answer."""
        return self.headers.get("Connection", "").lower() == "close"


class Cut(Exception):
    """The connection ended before the answer did."""


def ending(error: Exception) -> str:
    """Return what has ended a connection: "closed the connection"."""
    return str(error) if isinstance(error, Cut) else "closed the connection"


async def _open_tunnel(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, url: URL, proxy: ForwardProxy
) -> None:
    """Ask a proxy for a tunnel to a server. Raises `ConnectionError` if it opens none."""
    target = f"{url.host_subcomponent}:{url.port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}", *_login(proxy), "", ""]
    writer.write("\r\n".join(lines).encode())
    try:
        found = _STATUS.match(await reader.readuntil(b"\r\n\r\n"))
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        found = None
    if found is None or found[1] != b"200":
        answered = "no HTTP/1.1" if found is None else found[1].decode()
        raise ConnectionError(f"the proxy {proxy.url} opens no tunnel to {target} ({answered})")


def _login(proxy: ForwardProxy | None) -> list[str]:
    """Return the lines of a head that a proxy wants to see."""
    if proxy is None or proxy.authorization is None:
        return []
    return [f"Proxy-Authorization: {proxy.authorization}"]


class Wire:
    """One connection to the server, or to what is in front of it."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: ForwardProxy | None = None
    ) -> None:
        """Take the streams, and the proxy that is asked to pass requests on, if there is one and no tunnel."""
        self._reader = reader
        self._writer = writer
        self._asked = asked
        self._has_tls = writer.get_extra_info("ssl_object") is not None
        self.identity: Mapping[str, str] = {}
        """Headers of each request that say who sends it."""
        self.continued = asyncio.Event()
        """Set once `100 Continue` has come."""

    @classmethod
    async def open(
        cls, url: URL, tls: ssl.SSLContext | None, socket_path: str | None, proxy: ForwardProxy | None
    ) -> Self:
        """Connect. Raises `OSError`, and `TimeoutError` after 10 s."""
        async with asyncio.timeout(10):
            if socket_path is not None:
                return cls(*await asyncio.open_unix_connection(socket_path, limit=_LARGEST_HEAD))
            if proxy is None:
                return cls(*await asyncio.open_connection(url.host, url.port, ssl=tls, limit=_LARGEST_HEAD))
            near = URL(proxy.url)
            reader, writer = await asyncio.open_connection(near.host, near.port, limit=_LARGEST_HEAD)
            if tls is None:
                return cls(reader, writer, proxy)
            try:
                await _open_tunnel(reader, writer, url, proxy)
                await writer.start_tls(tls, server_hostname=url.host)
            except BaseException:
                writer.close()
                raise
            return cls(reader, writer)

    async def send(self, method: str, target: URL, body: bytes, headers: Mapping[str, str]) -> None:
        """Send a request, with the length of the body unless the headers have one. Raises `ConnectionError`."""
        lines = [f"{method} {target if self._asked else target.raw_path_qs} HTTP/1.1", f"Host: {target.authority}"]
        lines += _login(self._asked)
        lines += [f"{name}: {value}" for name, value in {**headers, **self.identity}.items()]
        if not headers.keys() & {"Content-Length", "Transfer-Encoding"} and (body or method != "GET"):
            lines.append(f"Content-Length: {len(body)}")
        await self.write("\r\n".join([*lines, "", ""]).encode() + body)

    async def write(self, data: bytes) -> None:
        """Send bytes as they are. Raises `ConnectionError`."""
        self._writer.write(data)
        await self._writer.drain()

    def end(self) -> None:
        """Say that no more is sent, and go on reading. TLS cannot."""
        if self._writer.can_write_eof():
            self._writer.write_eof()

    async def answer(self, method: str = "GET") -> Answer:
        """Read the next final answer. Raises `Cut` if the connection ends before."""
        try:
            while True:
                head = await self._reader.readuntil(b"\r\n\r\n")
                found = _STATUS.match(head)
                if found is None:
                    raise Cut("closed the connection after something that is not HTTP/1.1")
                status = int(found[1])
                if status >= 200:
                    break
                self.continued.set()
            headers: CIMultiDict[str] = CIMultiDict()
            for line in head.decode("latin-1").split("\r\n")[1:-2]:
                name, _, value = line.partition(":")
                headers.add(name.strip(), value.strip())
            return Answer(status, headers, await self._body(method, status, headers))
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as exc:
            raise Cut("closed the connection") from exc
        except (ConnectionError, ValueError) as exc:
            raise Cut("reset the connection" if isinstance(exc, ConnectionResetError) else str(exc)) from exc

    async def _body(self, method: str, status: int, headers: Mapping[str, str]) -> bytes:
        if method == "HEAD" or status in (204, 304):
            return b""
        if "chunked" in headers.get("Transfer-Encoding", "").lower():
            body = bytearray()
            while size := int((await self._reader.readuntil(b"\r\n")).split(b";")[0], 16):
                if len(body) + size > LARGEST:
                    raise Cut("sent an answer that is too large")
                body += (await self._reader.readexactly(size + 2))[:-2]
            while await self._reader.readuntil(b"\r\n") != b"\r\n":
                pass
            return bytes(body)
        if "Content-Length" in headers:
            return await self._reader.readexactly(min(int(headers["Content-Length"]), LARGEST))
        return await self._reader.read(LARGEST)

    async def close(self) -> None:
        """Close the connection, and wait until that is done.

        With TLS, no answer to that is waited for, as most clients do not: nginx sends none to a client that waits.
        """
        self._writer.close()
        if self._has_tls:
            await asyncio.sleep(0)
            self._writer.transport.abort()
        try:
            async with asyncio.timeout(2):
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            pass

    def reset(self) -> None:
        """End the connection with a reset."""
        connection = self._writer.get_extra_info("socket")
        if connection.family != socket.AF_UNIX and connection.fileno() >= 0:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

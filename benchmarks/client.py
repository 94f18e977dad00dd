"""A minimal HTTP/1.1 client with little overhead: keep-alive, one request at a time, only what our servers use."""

import asyncio
import re
import ssl
import time
from collections.abc import Sequence
from typing import NamedTuple, Self, cast

_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Answer(NamedTuple):
    """The status and the body of a response."""

    status: int
    body: bytes


def request(method: str, path: str, body: bytes) -> bytes:
    """Return a complete request with a JSON body, as bytes that can be sent many times."""
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: benchmark\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Connection(asyncio.Protocol):
    """One connection.

    It is an asyncio protocol instead of a pair of streams, because the client shares the machine with the server that
    it measures.
    """

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        """The part of a response that has arrived so far, if it did not arrive in one piece."""
        self._total = 0
        """The expected length of that response; 0 while it is unknown."""
        self._answer: asyncio.Future[Answer] | None = None
        self.header = b""
        """A header for each request, with the line end before it."""
        self.sent_at = 0.0
        self.answered_at = 0.0

    @classmethod
    async def open(
        cls, host: str, port: int, source: str | None = None, tls: ssl.SSLContext | None = None, token: str = ""
    ) -> Self:
        """Open a connection, from the address `source` if one is given. Each request has the token, if it is given."""
        local = None if source is None else (source, 0)
        _, connection = await asyncio.get_running_loop().create_connection(cls, host, port, local_addr=local, ssl=tls)
        if token:
            connection.header = f"\r\nAuthorization: Bearer {token}".encode()
        return connection

    async def send(self, message: bytes, expect: int) -> bytes:
        """Send a request and return the body of its answer.

        Raises:
            ConnectionError: The connection was closed, or the status is not the expected one, because a load that
                measures errors measures nothing.
        """
        answer = await self.exchange(message)
        if answer.status != expect:
            raise ConnectionError(f"{message.split(b' HTTP', 1)[0].decode()}: {answer.status} {answer.body[:500]!r}")
        return answer.body

    async def exchange(self, message: bytes) -> Answer:
        """Send a request and return its answer. Raises `ConnectionError` if the connection is closed."""
        if self._transport is None:
            raise ConnectionError("not connected")
        self._answer = asyncio.get_running_loop().create_future()
        if self.header:
            first, end, rest = message.partition(b"\r\n")
            message = first + self.header + end + rest
        self.sent_at = time.perf_counter()
        self._transport.write(message)
        return await self._answer

    def close(self) -> None:
        """Close the connection at once, even while a request waits."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transport does not inherit from it

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the open request, if there is one."""
        self._transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        """Complete the open request once its whole response has arrived."""
        if self._received:
            self._received += data
            if len(self._received) < self._total:  # 0 until the head has arrived
                return
            data = bytes(self._received)
        end = data.find(b"\r\n\r\n")
        if end >= 0:
            length = _CONTENT_LENGTH.search(data, 0, end)
            self._total = end + 4 + (int(length[1]) if length else 0)
        if end < 0 or len(data) < self._total:
            self._received = self._received or bytearray(data)
            return
        self.answered_at = time.perf_counter()
        answer = Answer(int(data[9:12]), data[end + 4 : self._total])
        self._received, self._total = bytearray(), 0
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)


async def open_all(host: str, port: int, count: int, token: str = "") -> Sequence[Connection]:
    """Open this many connections, 50 at a time so that they do not exceed the listener's backlog."""
    connections: list[Connection] = []
    while len(connections) < count:
        burst = min(50, count - len(connections))
        connections += await asyncio.gather(*(Connection.open(host, port, token=token) for _ in range(burst)))
    return connections

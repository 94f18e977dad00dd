"""An HTTP/1.1 client that costs next to nothing: keep-alive, one request at a time, no more of HTTP than our servers speak."""

import asyncio
import re
import time
from collections.abc import Sequence
from typing import NamedTuple, Self, cast

_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Answer(NamedTuple):
    """A response, of which only this is of interest."""

    status: int
    body: bytes


def request(method: str, path: str, body: bytes) -> bytes:
    """Return a whole request with a JSON body, ready to be written again and again."""
    head = f"{method} {path} HTTP/1.1\r\nHost: benchmark\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Connection(asyncio.Protocol):
    """One connection. A protocol instead of streams, because the client shares the machine with what it measures."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        """Of a response that does not come in one piece."""
        self._total = 0
        """How long it will be."""
        self._answer: asyncio.Future[Answer] | None = None
        self.asked_at = 0.0
        self.answered_at = 0.0

    @classmethod
    async def open(cls, host: str, port: int) -> Self:
        """Connect."""
        _, connection = await asyncio.get_running_loop().create_connection(cls, host, port)
        return connection

    async def ask(self, message: bytes, expect: int) -> bytes:
        """Send a request and return the body of its answer.

        Raises:
            ConnectionError: the connection ended, or the status is not the expected one. A load that goes on measuring
                refusals measures nothing.
        """
        if self._transport is None:
            raise ConnectionError("not connected")
        self._answer = asyncio.get_running_loop().create_future()
        self.asked_at = time.perf_counter()
        self._transport.write(message)
        answer = await self._answer
        if answer.status != expect:
            raise ConnectionError(f"{message.split(b' HTTP', 1)[0].decode()}: {answer.status} {answer.body[:500]!r}")
        return answer.body

    def close(self) -> None:
        """Go away at once, also in the middle of a wait."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to write."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without saying so

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the question that is open, if one is."""
        self._transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        """Answer the open question once its response is there in full."""
        if self._received:
            self._received += data
            if len(self._received) < self._total:  # unknown until the head is there: 0
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


async def open_all(host: str, port: int, count: int) -> Sequence[Connection]:
    """Open that many connections, some at a time: a burst may not overrun the listener's backlog."""
    connections: list[Connection] = []
    while len(connections) < count:
        burst = min(50, count - len(connections))
        connections += await asyncio.gather(*(Connection.open(host, port) for _ in range(burst)))
    return connections

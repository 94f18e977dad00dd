"""Answers with a JSON body: small ones in one write, large ones in parts as fast as the client reads them."""

import asyncio
import select
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import HttpVersion10, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import SERVER_SOFTWARE

from composerd.http.request_context import REQUEST_ID_HEADER, request_id
from composerd.queue import Budget

CHUNK = 256 * 1024
"""The most bytes that are passed to the kernel in one write."""

STALLED = 60.0
"""Time in seconds after which the connection of a client that reads nothing of a large answer is closed."""


encode = msgspec.json.Encoder().encode


class Answer(web.StreamResponse):
    """A JSON answer whose body is complete and small; `prepare` writes all of it.

    aiohttp's own `Response` first finds out what kind of body it has, which takes as long as everything else.
    """

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status=status)
        self._json = body

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write headers and body, unless they have been written. Raises `ConnectionError` if the client has gone."""
        if self._eof_sent:
            return None
        self._eof_sent = True  # aiohttp's `write_eof` then writes nothing more
        headers = self.headers
        headers["Content-Type"] = "application/json"
        headers["Content-Length"] = str(len(self._json))
        headers["Date"] = rfc822_formatted_time()
        headers["Server"] = SERVER_SOFTWARE
        if self._keep_alive is None:
            self._keep_alive = request.keep_alive
        if not self._keep_alive:
            headers["Connection"] = "close"
        elif request.version == HttpVersion10:
            headers["Connection"] = "keep-alive"
        version = request.version
        writer = request.writer
        await writer.write_headers(f"HTTP/{version.major}.{version.minor} {self.status} {self.reason}", headers)
        await writer.write_eof(self._json if request.method != "HEAD" else b"")
        return writer


def answer(value: object, status: int = 200) -> Answer:
    """Return an answer with a small value as its JSON body."""
    return Answer(status, encode(value))


async def answer_bytes(request: web.Request, body: bytes, *, status: int = 200, budget: Budget) -> web.StreamResponse:
    """Return an answer with a JSON body of any size. A large one counts in the budget until it is written."""
    if len(body) <= CHUNK:
        return Answer(status, body)
    with budget.reserve(len(body)):
        return await write_in_parts(request, status, body)


async def write_in_parts(
    request: web.Request, status: int, body: bytes, on_progress: Callable[[], Awaitable[None]] | None = None
) -> web.StreamResponse:
    """Write a large JSON body in parts, calling `on_progress` after each.

    Raises `ConnectionError` if the client has gone or reads nothing for `STALLED` seconds.
    """
    headers = {"Content-Type": "application/json", REQUEST_ID_HEADER: request_id.get()}
    stream = web.StreamResponse(status=status, headers=headers)
    stream.content_length = len(body)
    await stream.prepare(request)
    view = memoryview(body) if request.method != "HEAD" else memoryview(b"")
    for begin in range(0, len(view), CHUNK):
        try:
            async with asyncio.timeout(STALLED):
                await stream.write(view[begin : begin + CHUNK])
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionAbortedError("the client has stopped reading the answer") from None
        if on_progress is not None:
            await on_progress()
    await stream.write_eof()
    return stream


def gone(request: web.Request) -> bool:
    """Return True if the client has closed its connection, also when the event loop has not read that yet.

    A client that has only shut down its sending side counts as gone.
    """
    transport = request.transport
    if transport is None or transport.is_closing():
        return True
    connection = transport.get_extra_info("socket")
    descriptor = -1 if connection is None else connection.fileno()
    if descriptor < 0:
        return True
    # POLLRDHUP is set when the client has shut down its side, even if data that it sent before is still unread.
    poll = select.poll()
    poll.register(descriptor, select.POLLRDHUP)
    return bool(poll.poll(0))

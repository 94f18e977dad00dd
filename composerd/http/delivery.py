"""Answers with a JSON body: small ones in one write, large ones in parts as fast as the client reads them."""

import asyncio
import select
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import aclosing
from typing import NoReturn

import msgspec
from aiohttp import HttpVersion10, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import SERVER_SOFTWARE

from composerd.http.keys import QUEUE, SETTINGS
from composerd.http.pace import Pace, TooSlow
from composerd.http.request_context import REQUEST_ID_HEADER, client, request_id
from composerd.http.turns import end_turn
from composerd.queue import PART, SMALL, Piece, Stored, size_of
from composerd.version import VERSION

CHUNK = 64 * 1024
"""The most bytes that are passed to the kernel in one write."""

WHOLE = 256 * 1024
"""Answers up to this size are written at once if they are in memory."""


encode = msgspec.json.Encoder().encode


def complete(headers: MutableMapping[str, str], request_id: str) -> None:
    """Add the headers that every answer has.

    These are the request id, the version of the server, and what keeps caches from storing the answer and browsers from
    running its content.
    """
    headers[REQUEST_ID_HEADER] = request_id
    headers["Composerd-Version"] = VERSION
    headers.setdefault("Cache-Control", "no-store")
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Content-Security-Policy"] = "default-src 'none'; frame-ancestors 'none'"


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


async def answer_bytes(request: web.Request, body: bytes, *, status: int = 200) -> web.StreamResponse:
    """Return an answer with a JSON body of any size that is in memory.

    A body that is not small has been written when this returns, and counts for the client until then. Raises what
    `write` raises.
    """
    if len(body) <= SMALL:
        return Answer(status, body)
    with request.app[QUEUE].budgets.answers.held(client.get(), len(body)):
        return await write(request, status, [body])


async def answer_pieces(request: web.Request, pieces: Sequence[Piece]) -> web.StreamResponse:
    """Return an answer with a JSON body of any size, parts of which may still be in the storage.

    What is in memory at one time counts for the client before it is read. Raises `Unavailable` if the client has no
    room for that, and what `write` raises.
    """
    size = sum(map(size_of, pieces))
    if size <= SMALL and all(isinstance(piece, bytes) for piece in pieces):
        return Answer(200, b"".join(piece for piece in pieces if isinstance(piece, bytes)))
    unread = sum(piece.size for piece in pieces if isinstance(piece, Stored))
    with request.app[QUEUE].budgets.answers.taken(client.get(), size - unread + min(unread, PART)):
        return await write(request, 200, pieces)


async def write(
    request: web.Request,
    status: int,
    pieces: Sequence[Piece],
    on_progress: Callable[[], Awaitable[None]] | None = None,
) -> web.StreamResponse:
    """Write a JSON body of any size as fast as the client reads it, calling `on_progress` after each part.

    When it returns, nothing of the body is in the server's memory any more. Raises `ConnectionError` if the client has
    gone or is too slow, and `Unavailable` if a payload is no longer found.
    """
    end_turn()
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client has gone")
    settings = request.app[SETTINGS]
    pace = Pace(settings.body_timeout, settings.min_rate, transport.get_write_buffer_size)
    size = sum(map(size_of, pieces))
    try:
        async with pace:
            if len(pieces) == 1 and isinstance(pieces[0], bytes) and size <= WHOLE and on_progress is None:
                response: web.StreamResponse = Answer(status, pieces[0])
                complete(response.headers, request_id.get())
                pace.moved(size)
                await response.prepare(request)
            else:
                response = web.StreamResponse(status=status, headers={"Content-Type": "application/json"})
                complete(response.headers, request_id.get())
                response.content_length = size
                await response.prepare(request)
                if request.method != "HEAD":
                    await _write_parts(request, response, pieces, pace, on_progress)
                await response.write_eof()
            await flush(request)
    except TooSlow:
        hang_up(request, "the client reads the answer too slowly")
    return response


def hang_up(request: web.BaseRequest, why: str) -> NoReturn:
    """Close a connection in the middle of an answer, whatever is unsent. Raises `ConnectionAbortedError`."""
    if request.transport is not None:
        request.transport.abort()
    raise ConnectionAbortedError(why)


async def _write_parts(
    request: web.Request,
    response: web.StreamResponse,
    pieces: Sequence[Piece],
    pace: Pace,
    on_progress: Callable[[], Awaitable[None]] | None,
) -> None:
    async with aclosing(request.app[QUEUE].contents(pieces)) as parts:
        while True:
            with pace.paused():
                part = await anext(parts, None)
            if part is None:
                return
            for begin in range(0, len(part), CHUNK):
                chunk = memoryview(part)[begin : begin + CHUNK]
                pace.moved(len(chunk))
                await response.write(chunk)
                if on_progress is not None:
                    with pace.paused():
                        await on_progress()


async def flush(request: web.BaseRequest) -> None:
    """Wait until everything that was written has been passed to the kernel. Raises `ConnectionError`."""
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client has gone")
    if transport.get_write_buffer_size():
        transport.set_write_buffer_limits(high=0)
        try:
            await request.writer.drain()
        finally:
            transport.set_write_buffer_limits()


async def flush_earlier_answers(request: web.Request) -> None:
    """Wait until nothing of earlier answers on the connection is in memory: a client has to read what it asks for.

    So each small answer is written into an empty buffer, and never waits. Raises `ConnectionError` if the client is too
    slow.
    """
    transport = request.transport
    if transport is None:
        return
    try:
        async with Pace(request.app[SETTINGS].body_timeout, 0, transport.get_write_buffer_size):
            await flush(request)
    except TooSlow:
        hang_up(request, "the client reads no answers")


def close_after_answer(request: web.BaseRequest) -> None:
    """Let the connection be closed after the answer, which nothing may have begun to make yet."""
    request._message = request._message._replace(should_close=True)  # noqa: SLF001  # `keep_alive` reads it once


def descriptor_of(transport: asyncio.Transport) -> int:
    """Return the descriptor of a connection's socket, or -1 if it is closed."""
    connection = transport.get_extra_info("socket")
    return -1 if connection is None else connection.fileno()


def gone(request: web.Request) -> bool:
    """Return True if the client has closed its connection, also when the event loop has not read that yet.

    A client that has only shut down its sending side counts as gone.
    """
    transport = request.transport
    if transport is None or transport.is_closing() or (descriptor := descriptor_of(transport)) < 0:
        return True
    # POLLRDHUP is set when the client has shut down its side, even if data that it sent before is still unread.
    poll = select.poll()
    poll.register(descriptor, select.POLLRDHUP)
    return bool(poll.poll(0))

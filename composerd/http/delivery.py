"""Writing answers: plain ones, large ones in parts, and those on which a job hangs, to a client that is seen to be there."""

import asyncio
import select
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import HttpVersion10, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import SERVER_SOFTWARE

from composerd.http.context import OPERATION_HEADER, operation_id
from composerd.queue.budget import Budget

CHUNK = 256 * 1024
"""Bodies up to this size go to the kernel in one write."""

STALLED = 60.0
"""A client that takes nothing for this long, in seconds, has gone."""


encode = msgspec.json.Encoder().encode


class Answer(web.StreamResponse):
    """A JSON answer that is there whole, and is written the moment it is prepared.

    aiohttp's own finds out first what kind of response it is, which takes as long as all else about it.
    """

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status=status)
        self._json = body
        self._written = False

    @property
    def prepared(self) -> bool:
        """Whether it has been written."""
        return self._written

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write all of it. Raises `ConnectionError` when the client is seen to have gone."""
        if self._written:
            return None
        self._written = True
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

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to be written."""


def answer(value: object, status: int = 200) -> Answer:
    """A JSON answer."""
    return Answer(status, encode(value))


async def deliver(
    request: web.Request, status: int, body: bytes, progressed: Callable[[], Awaitable[None]]
) -> web.StreamResponse:
    """Write a JSON answer; `progressed` is awaited after every part of a body that takes several writes.

    Raises `ConnectionError` when the client is seen to have gone before it was written.
    """
    if gone(request):
        raise ConnectionResetError("the client has gone")
    if len(body) > CHUNK:
        return await _write_in_parts(request, status, body, progressed)
    response = Answer(status, body)
    response.headers[OPERATION_HEADER] = operation_id.get()
    await response.prepare(request)
    return response


async def answer_bytes(request: web.Request, body: bytes, *, status: int = 200, budget: Budget) -> web.StreamResponse:
    """A JSON answer of any size: a large one is held within the budget, and written as fast as the client takes it."""
    if len(body) <= CHUNK:
        return Answer(status, body)
    with budget.held(len(body)):
        return await _write_in_parts(request, status, body, _no_progress)


async def _write_in_parts(
    request: web.Request, status: int, body: bytes, progressed: Callable[[], Awaitable[None]]
) -> web.StreamResponse:
    headers = {"Content-Type": "application/json", OPERATION_HEADER: operation_id.get()}
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
            raise ConnectionAbortedError("the client takes nothing any more") from None
        await progressed()
    await stream.write_eof()
    return stream


async def _no_progress() -> None:
    pass


def gone(request: web.Request) -> bool:
    """Whether the client is known to have closed its connection, the loop's own news included that has not been read yet."""
    transport = request.transport
    if transport is None or transport.is_closing():
        return True
    wrapped = transport.get_extra_info("socket")
    if wrapped is None or wrapped.fileno() < 0:
        return True
    # The kernel's own word for a client that will send nothing more, whatever it has sent before that was not read yet.
    ended = select.poll()
    ended.register(wrapped.fileno(), select.POLLRDHUP)
    return bool(ended.poll(0))

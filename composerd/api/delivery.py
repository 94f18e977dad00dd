"""Writing answers: plain ones, large ones in parts, and those on which a job hangs, to a client that is seen to be there."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from composerd.api.context import OPERATION_HEADER, operation_id
from composerd.queue.budget import Budget

CHUNK = 256 * 1024
"""Bodies up to this size go to the kernel in one write."""

STALLED = 60.0
"""A client that takes nothing for this long, in seconds, has gone."""


encode = msgspec.json.Encoder().encode


def answer(value: object, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(status=status, body=encode(value), content_type="application/json")


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
    response = web.Response(status=status, body=body, headers=_headers())
    await response.prepare(request)
    await response.write_eof()
    return response


async def answer_bytes(request: web.Request, body: bytes, *, status: int = 200, budget: Budget) -> web.StreamResponse:
    """A JSON answer of any size: a large one is held within the budget, and written as fast as the client takes it."""
    if len(body) <= CHUNK:
        return web.Response(status=status, body=body, content_type="application/json")
    with budget.held(len(body)):
        return await _write_in_parts(request, status, body, _no_progress)


async def _write_in_parts(
    request: web.Request, status: int, body: bytes, progressed: Callable[[], Awaitable[None]]
) -> web.StreamResponse:
    stream = web.StreamResponse(status=status, headers=_headers())
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


def _headers() -> dict[str, str]:
    return {"Content-Type": "application/json", OPERATION_HEADER: operation_id.get()}


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
    # The transport's socket has no recv; a socket object of our own looks at the same descriptor and lets go of it without closing.
    peek = socket.socket(wrapped.family, wrapped.type, wrapped.proto, fileno=wrapped.fileno())
    try:
        return not peek.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        peek.detach()

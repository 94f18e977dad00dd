"""Answers to requests that have not arrived completely: what still comes is thrown away while the client reads them.

A connection that is closed while its client sends is reset, and many clients then report a broken pipe and never look
at the answer. So the client may finish its body, within bounds.
"""

import asyncio
from collections.abc import Callable

from aiohttp import web

from composerd.http.pace import Pace, TooSlow
from composerd.settings import Settings

LINGER = 60.0
"""The most time in seconds for the rest of a body after its answer."""

LINGER_BYTES = 64 * 1024 * 1024
"""The most bytes of the rest of a body that are read after its answer."""

PAUSE = 2.0
"""Time in seconds in which something of the rest has to arrive, at `min_rate`; less with a lower `body_timeout`."""

AFTER_THE_END = 1.0
"""Time in seconds from the end of what the server sends until the connection is closed, whatever still arrives."""


class Lingering:
    """Writes early answers, and reads and drops what still arrives of their requests."""

    def __init__(self, settings: Settings) -> None:
        self._pause = min(PAUSE, settings.body_timeout)
        self._rate = settings.min_rate

    async def answer_early(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Answer a request whose body is not complete, and read on while it flows. The connection is to be closed."""
        if not await _write(request, response):
            return
        left = LINGER_BYTES
        seconds = AFTER_THE_END
        try:
            async with asyncio.timeout(LINGER), Pace(self._pause, self._rate) as pace:
                while left > 0 and (part := await request.content.readany()):
                    pace.moved(len(part))
                    left -= len(part)
        except (TooSlow, TimeoutError):
            pass
        except web.RequestPayloadError:  # what follows a malformed chunk is no body, but is sent
            seconds = LINGER
        if not request.content.is_eof():
            await self._drop(request, seconds)

    async def answer_malformed(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Answer what is not a request, and drop all that follows it. The connection is to be closed."""
        if await _write(request, response):
            await self._drop(request, LINGER)

    async def _drop(self, request: web.BaseRequest, seconds: float) -> None:
        """Tell the client that nothing more is sent, and throw away what still arrives, whatever it is."""
        transport = request.transport
        if transport is None or transport.is_closing():
            return
        try:
            async with asyncio.timeout(seconds), Pace(min(self._pause, seconds), self._rate) as pace:
                dropped = _Dropped(request.protocol, pace.moved)
                transport.set_protocol(dropped)
                if transport.can_write_eof():
                    transport.write_eof()
                transport.resume_reading()
                await dropped.enough
        except (TooSlow, TimeoutError):
            pass


async def _write(request: web.BaseRequest, response: web.StreamResponse) -> bool:
    """Write an answer, the last one on its connection. Return False if the client has gone."""
    response.force_close()
    try:
        await response.prepare(request)
        await response.write_eof()
    except ConnectionError:
        return False
    return request.transport is not None and not request.transport.is_closing()


class _Dropped(asyncio.Protocol):
    """Replaces the protocol of a connection, and drops whatever arrives there."""

    def __init__(self, protocol: asyncio.Protocol, moved: Callable[[int], None]) -> None:
        self._protocol = protocol
        self._moved = moved
        self._left = LINGER_BYTES
        self.enough = asyncio.get_running_loop().create_future()
        """Done when too much has arrived."""

    def data_received(self, data: bytes) -> None:
        """Count what has arrived, and forget it."""
        self._moved(len(data))
        self._left -= len(data)
        if self._left <= 0 and not self.enough.done():
            self.enough.set_result(None)

    def pause_writing(self) -> None:
        """Tell the replaced protocol: a part of the answer may still be in memory."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Tell the replaced protocol."""
        self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the replaced protocol, which also ends the task that drops the data."""
        self._protocol.connection_lost(exc)

"""One HTTP connection: what aiohttp does not bound of it, and predefined errors for requests that reach no handler."""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from aiohttp import hdrs, web
from aiohttp.http_exceptions import BadHttpMessage, BadHttpMethod, HttpProcessingError, InvalidURLError, LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import _ErrInfo

from composerd.errors import InvalidContent
from composerd.http.admission import Place
from composerd.http.boundary import RequestBoundary
from composerd.http.clients import UNIX
from composerd.http.cut_answers import HandedOver
from composerd.http.delivery import complete
from composerd.http.errors import UNSPECIFIED, ErrorTable, MethodNotSupported
from composerd.http.identifying import LONGEST_FIELD, challenge, too_long
from composerd.http.keys import COMPOSER_ERRORS, CUT_ANSWERS, IDENTIFIER, QUEUE, SETTINGS, WORKER_ERRORS
from composerd.http.lingering import Lingering
from composerd.http.paths import BASES, bases
from composerd.http.request_context import client, request_id
from composerd.ids import new_id_text

log = logging.getLogger(__name__)

MAX_HEAD = 32 * 1024
"""The most bytes of a request's head that are kept until the rest of it arrives."""

FRAMING = 8
"""The most bytes that may arrive for each byte of a body: chunks of one byte need six, and trailers stay in memory."""

DENSE = 64
"""Bytes for each line end: with fewer, what arrives counts as small chunks, and each takes as long as a large one."""

DENSE_SLICE = 512
"""The most bytes of such data that are looked at in one turn."""

PIPELINED = 4
"""Requests that may be read while an earlier one is in progress; then nothing more is read of the connection."""

_BEGIN = re.compile(rb"[!#-'*+.^-z|~-]{1,32} (?:https?://[^/ ]{0,255})?(/[^ ?#]{0,320})", re.IGNORECASE)
"""The beginning of a request: a method, and as much of the path as shows which API is meant."""


_WORDS = re.compile(r"b['\"]([A-Za-z]{1,32}) (/[^ ?#'\"]{0,1024})")
"""The method and the path in what the parser says of a request whose method it does not know."""


class Waiting(Protocol):
    """A request that waits, and is told what its client sends meanwhile."""

    def received(self, size: int, requests: int) -> None:
        """Note that so many bytes more have arrived, and that so many requests are complete behind this one."""


class HttpConnection(web.RequestHandler):
    """One connection. aiohttp calls its `handle_error` for input that is not a request."""

    __slots__ = (
        "_body",
        "_body_before",
        "_chunked",
        "_held",
        "_latest_errors",
        "_server",
        "_since_request",
        "_turn",
        "closing_since",
        "handed_over",
        "head_since",
        "place",
        "waiting",
    )

    def __init__(self, server: "Server", place: Place, **options: Any) -> None:
        super().__init__(server, **options)
        self._max_msg_queue_size = PIPELINED
        self._msg_queue_resume_size = PIPELINED // 2
        self._server = server
        self._latest_errors: ErrorTable | None = None
        """The error table of the API that the latest request was sent to; None before the first request."""
        self._since_request = 0
        """Bytes that have arrived since the last head became complete, or since the next one began."""
        self._body: StreamReader | None = None
        """The body of the latest request, if it was not complete when the head was."""
        self._body_before = 0
        """Bytes of that body that arrived with the head."""
        self._chunked = True
        """True unless that body is known to have no chunks."""
        self._held: bytearray | None = None
        """Data with many line ends that has arrived and is looked at in turns; None if there is none."""
        self._turn: asyncio.Future[None] | None = None
        """Done when it is the client's turn that more of that data is looked at."""
        self.place = place
        self.head_since: float | None = self._loop.time()
        """When the client began a head that is not complete; None while it may be idle, or a request is in progress."""
        self.closing_since: float | None = None
        """When `composerd.http.inspection` saw first that the connection is about to be closed."""
        self.handed_over: HandedOver | None = None
        """The job in the latest answer, until the client sends something else or closes the connection."""
        self.waiting: Waiting | None = None
        """The request that waits on this connection, if it is waiting."""

    def connection_made(self, transport: Any) -> None:
        """Begin to serve."""
        self.place.close = transport.abort
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Give up the place."""
        if self.handed_over is not None and isinstance(exc, ConnectionError):
            self._server.cut_answers.lost(self.handed_over, self.transport, reset=True)
        self.place.free()
        self._held = None
        super().connection_lost(exc)

    def eof_received(self) -> None:
        """Determine if a client that closes its connection has got the whole answer.

        Whatever breaks the connection after that says nothing.
        """
        if self.handed_over is not None:
            self._server.cut_answers.lost(self.handed_over, self.transport, reset=False)
            self.handed_over = None
        super().eof_received()

    def data_received(self, data: bytes) -> None:
        """Look at what has arrived: usually at once, but in slices, as it is the client's turn, if that takes long."""
        if not data:  # the parser is to go on with what it has
            self._received(data)
        elif self._held is not None:
            self._held += data
            self._pause()
        elif len(data) > DENSE_SLICE and self._chunked and data.count(b"\r\n") * DENSE > len(data):
            self._held = bytearray(data)
            self._pause()
            self._look_at_held()
        else:
            self._received(data)

    def resume_reading(self, resume_parser: bool = True) -> None:  # as aiohttp calls it
        """Read on, as soon as all that has arrived was looked at."""
        if self._held is None:
            super().resume_reading(resume_parser)
            return
        self._reading_paused = False
        if resume_parser:
            self._received(b"")
        self._loop.call_soon(self._look_at_held)

    def _pause(self) -> None:
        if self.transport is not None:
            self.transport.pause_reading()

    def _look_at_held(self) -> None:
        """Look at held data until others have their turn, or until the body of the request is read that has it."""
        while self._held and not self._reading_paused and self._turn is None:
            data = bytes(self._held[:DENSE_SLICE])
            del self._held[:DENSE_SLICE]
            self._received(data)
            if self._held and (turn := self._server.gate.turn(self.place.client or "")) is not None:
                self._turn = turn
                turn.add_done_callback(self._go_on)
        if self._held is None or self._held:
            return
        self._held = None
        if not self._reading_paused:
            super().resume_reading(resume_parser=False)

    def _go_on(self, _: "asyncio.Future[None]") -> None:
        self._turn = None
        self._look_at_held()

    def _received(self, data: bytes) -> None:
        """Remember which API the data is sent to, if a request begins in it, and pass it on. Bound incomplete heads."""
        requests = self._request_count
        if not data:  # twice in most requests
            super().data_received(data)
            if self._request_count == requests:
                return
        else:
            begin = _BEGIN.match(data, 0, 640)
            if begin is not None:
                server = self._server
                to_composer = begin[1].startswith(server.composer_prefix)
                self._latest_errors = server.composer_errors if to_composer else server.worker_errors
            super().data_received(data)
        if self._request_count != requests:
            self.head_since = None
            self.handed_over = None
            self._since_request = 0
            if self._body is not None and not self._body.is_eof():  # aiohttp's parser lets its reader wait for more
                self._body.set_exception(web.RequestPayloadError("a chunk of it is malformed"))
            body = self._messages[-1][1] if self._messages else EMPTY_PAYLOAD
            self._body = None if body.is_eof() else body
            self._body_before = body.total_bytes
            self._chunked = self._body is None or not self._messages or getattr(self._messages[-1][0], "chunked", True)
        elif self._waiter is not None and not self._waiter.done():  # no request is in progress: this is part of a head
            if self.head_since is None:
                self.head_since = self._loop.time()
                self._since_request = 0
            self._since_request += len(data)
            if self._since_request > MAX_HEAD:
                error = BadHttpMessage(f"the head is longer than {MAX_HEAD} bytes")
                self._messages.append((_ErrInfo(status=400, exc=error, message=error.message), EMPTY_PAYLOAD))
                self._waiter.set_result(None)
        else:
            self._since_request += len(data)
            arrived = 0 if self._body is None else self._body.total_bytes - self._body_before
            if self._since_request > MAX_HEAD + FRAMING * arrived and self.transport is not None:
                self.transport.abort()
        if self.waiting is not None:
            self.waiting.received(len(data), len(self._messages))

    @property
    def idle(self) -> bool:
        """True if no part of an unanswered request has arrived."""
        waits = self._waiter is not None and not self._waiter.done()
        return waits and (self.head_since is None or self._since_request == 0)

    @property
    def serving(self) -> "asyncio.Task[None] | None":
        """The task that ends with the connection."""
        return self._task_handler

    @property
    def pipelined(self) -> tuple[int, int]:
        """The number of complete requests behind the one in progress, and how many bytes of their bodies have come."""
        if not self._messages:
            return 0, 0
        return len(self._messages), sum(payload.total_bytes for _, payload in self._messages)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
        details: Mapping[str, str] | None = None,
    ) -> web.StreamResponse:
        """Return the answer to a failure outside of every handler. The connection is closed after it."""
        table = self._latest_errors or self._server.worker_errors
        identifier = self._server.identifier
        new_id = new_id_text()
        request_id.set(new_id)
        bases.set(self._server.bases)
        client.set(self.place.client or "")
        if not isinstance(exc, HttpProcessingError):
            super().handle_error(request, status, exc, message)  # logs it
            response = table.response(table.entry(UNSPECIFIED), new_id)
        elif self._latest_errors is not None and isinstance(exc, BadHttpMethod):
            response = table.response(table.entry_for(MethodNotSupported()), new_id, details)
        elif isinstance(exc, LineTooLong) and identifier.required and exc.args[0][:7].lower() == b"bearer ":
            error = too_long()
            response = table.response(table.entry_for(error), new_id, error.details)
            response.headers["WWW-Authenticate"] = challenge(error)
            identifier.wrong_attempts.note(client.get() or request.remote or UNIX, str(error))
        else:
            problem = _problem(exc)
            log.warning("malformed HTTP request from %s: %s", request.remote, problem)
            details = {"field": "request", "problem": problem}
            response = table.response(table.entry_for(InvalidContent()), new_id, details)
        complete(response.headers, new_id)
        response.headers["Connection"] = "close"  # aiohttp answers in HTTP/1.0, where it omits this header
        response.force_close()
        return response

    def _make_error_handler(self, err_info: _ErrInfo) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
        """Return a handler that answers what is not a request, as aiohttp calls it, and lets its client read that."""

        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            details = None
            if isinstance(err_info.exc, BadHttpMethod):
                details = await self._server.method_meant(request, err_info.message)
            response = self.handle_error(request, err_info.status, err_info.exc, err_info.message, details)
            await self._server.lingering.answer_malformed(request, response)
            return response

        return handler


def _problem(error: HttpProcessingError) -> str:
    """Return what the parser says, without what it quotes of the request: there may be a token in it."""
    if isinstance(error, InvalidURLError):
        return "the target is malformed"
    return re.split(r"[:\n]| when reading", error.message, maxsplit=1)[0].strip()


class Server(web.Server):
    """Creates the connections, and puts the request boundary around the application."""

    def __init__(self, original: web.Server, app: web.Application) -> None:
        """Take over the handler and the options of the server that aiohttp's runner has created."""
        self.identifier = app[IDENTIFIER]
        longest = {"max_field_size": LONGEST_FIELD} if self.identifier.required else {}
        super().__init__(
            RequestBoundary(app).handle,  # type: ignore[arg-type]  # `app` makes requests
            request_factory=original.request_factory,
            handler_cancellation=original.handler_cancellation,
            loop=original._loop,  # noqa: SLF001  # aiohttp has no public access to these
            **original._kwargs | longest,  # noqa: SLF001
        )
        self.gate = app[QUEUE].gate
        self.cut_answers = app[CUT_ANSWERS]
        self.lingering = Lingering(app[SETTINGS])
        self._resolve = app.router.resolve
        self.bases = app[BASES]
        self.worker_errors = app[WORKER_ERRORS]
        self.composer_errors = app[COMPOSER_ERRORS]
        self.composer_prefix = f"{self.composer_errors.base}/".encode()

    @property
    def open(self) -> Mapping[HttpConnection, asyncio.Transport]:
        """The open connections and their transports. A connection that was closed is there until its handler ends."""
        return self._connections  # type: ignore[return-value]

    async def drain(self, seconds: float) -> None:
        """Wait until requests in progress are answered, their bodies read to the end, and close idle connections now.

        aiohttp's own shutdown, which comes next, drops everything that arrives from its beginning on. `RequestBoundary`
        refuses requests that come now, and lets each connection be closed after its answer.
        """
        await asyncio.sleep(0)  # what has arrived is read first
        for connection in list(self.open):
            if connection.idle:
                connection.force_close()
        serving = [connection.serving for connection in self.open if connection.serving is not None]
        if serving:
            _, cut = await asyncio.wait(serving, timeout=seconds)
            if cut:
                log.warning("closing connections whose requests did not end within drain_timeout (%d)", len(cut))

    async def method_meant(self, request: web.BaseRequest, message: str) -> Mapping[str, str] | None:
        """Return details of the error for an unknown method, if it is a known one that is not in capitals."""
        if (sent := _WORDS.search(message)) is None or (meant := sent[1].upper()) not in hdrs.METH_ALL:
            return None
        path = sent[2]
        found = await self._resolve(request.clone(method=meant, rel_url=path))  # type: ignore[arg-type]  # see `__init__`
        if found.http_exception is not None:
            return None
        return {"method": sent[1], "problem": f"names of methods are case sensitive: send {meant}"}

    def connection(self, place: Place) -> HttpConnection:
        """Return the protocol of a new connection that has this place."""
        return HttpConnection(self, place, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """Runs an application over connections that answer malformed requests with predefined errors."""

    async def _make_server(self) -> web.Server:
        original = await super()._make_server()
        return Server(original, self.app)

"""Predefined errors for requests that reach no handler: malformed HTTP, and HTTP that the server does not support."""

import logging
import re
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMethod, HttpProcessingError

from composerd.errors import InvalidContent
from composerd.http.errors import UNSPECIFIED, ErrorTable, MethodNotSupported
from composerd.http.keys import COMPOSER_ERRORS, WORKER_ERRORS
from composerd.http.middleware import RequestBoundary
from composerd.http.request_context import REQUEST_ID_HEADER, request_id
from composerd.ids import new_id_text

log = logging.getLogger(__name__)

_BEGIN = re.compile(rb"[!#-'*+.^-z|~-]{1,32} (?:https?://[^/ ]{0,255})?(/[^ ?#]{0,64})", re.IGNORECASE)
"""The beginning of a request: a method, and as much of the path as shows which API is meant."""


class _HttpConnection(web.RequestHandler):
    """One connection. aiohttp calls its `handle_error` for input that is not a request."""

    __slots__ = ("_latest_errors", "_server")

    def __init__(self, server: "_Server", **options: Any) -> None:
        super().__init__(server, **options)
        self._server = server
        self._latest_errors: ErrorTable | None = None
        """The error table of the API that the latest request was sent to; None before the first request."""

    def data_received(self, data: bytes) -> None:
        """Remember which API the data is sent to, if a request begins in it, and pass it on."""
        begin = _BEGIN.match(data, 0, 384)
        if begin is not None:
            server = self._server
            to_composer = begin[1].startswith(server.composer_prefix)
            self._latest_errors = server.composer_errors if to_composer else server.worker_errors
        super().data_received(data)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the answer to a failure outside of every handler. The connection is closed after it."""
        table = self._latest_errors or self._server.worker_errors
        new_id = new_id_text()
        request_id.set(new_id)
        if not isinstance(exc, HttpProcessingError):
            super().handle_error(request, status, exc, message)  # logs it
            response = table.response(table.entry(UNSPECIFIED), new_id)
        elif self._latest_errors is not None and isinstance(exc, BadHttpMethod):
            response = table.response(table.entry_for(MethodNotSupported()), new_id)
        else:
            # The rest of the parser's message quotes the request, in which there may be a token.
            problem = re.split(r"[:\n]| when reading", exc.message, maxsplit=1)[0].strip()
            log.warning("malformed HTTP request from %s: %s", request.remote, problem)
            details = {"field": "request", "problem": problem}
            response = table.response(table.entry_for(InvalidContent()), new_id, details)
        response.headers[REQUEST_ID_HEADER] = new_id
        response.force_close()
        return response


class _Server(web.Server):
    """Creates the connections, and puts the request boundary around the application."""

    def __init__(self, original: web.Server, app: web.Application) -> None:
        """Take over the handler and the options of the server that aiohttp's runner has created."""
        super().__init__(
            RequestBoundary(app, original.request_handler).handle,  # type: ignore[arg-type]  # `app` makes requests
            request_factory=original.request_factory,
            handler_cancellation=original.handler_cancellation,
            loop=original._loop,  # noqa: SLF001  # aiohttp has no public access to these
            **original._kwargs,  # noqa: SLF001
        )
        self.worker_errors = app[WORKER_ERRORS]
        self.composer_errors = app[COMPOSER_ERRORS]
        self.composer_prefix = f"{self.composer_errors.base}/".encode()

    def __call__(self) -> _HttpConnection:
        return _HttpConnection(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """Runs an application over connections that answer malformed requests with predefined errors."""

    async def _make_server(self) -> web.Server:
        original = await super()._make_server()
        return _Server(original, self.app)

"""Connections whose requests never reach a handler: what is no HTTP, or HTTP that is not taken, is answered with a predefined error too."""

import logging
import re
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMethod, HttpProcessingError

from composerd.errors import InvalidContent
from composerd.http.context import COMPOSER_ERRORS, OPERATION_HEADER, WORKER_ERRORS, operation_id
from composerd.http.errors import UNSPECIFIED, ErrorTable, MethodNotSupported
from composerd.ids import new_id_text

log = logging.getLogger(__name__)

_BEGIN = re.compile(rb"[!#-'*+.^-z|~-]{1,32} (?:https?://[^/ ]{0,255})?(/[^ ?#]{0,64})", re.IGNORECASE)
"""How a request begins: a method, and as much of the path as tells which API is meant."""


class _Connection(web.RequestHandler):
    """One connection; aiohttp asks it what to answer where there is no request to hand on."""

    __slots__ = ("_made_by", "_meant")

    def __init__(self, manager: "_Server", **options: Any) -> None:
        super().__init__(manager, **options)
        self._made_by = manager
        self._meant: ErrorTable | None = None
        """That of the API that the latest request went to; None before anything began like a request."""

    def data_received(self, data: bytes) -> None:
        begin = _BEGIN.match(data, 0, 384)
        if begin is not None:
            self._meant = self._made_by.table_of(begin[1])
        super().data_received(data)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what went wrong outside of every handler; the connection ends with it."""
        table = self._meant or self._made_by.table_of(b"/")
        operation = new_id_text()
        operation_id.set(operation)
        if not isinstance(exc, HttpProcessingError):
            super().handle_error(request, status, exc, message)  # for its log
            response = table.response(table.row(UNSPECIFIED), operation)
        elif self._meant is not None and isinstance(exc, BadHttpMethod):
            response = table.response(table.row_of(MethodNotSupported()), operation)
        else:
            # What the parser says goes on with a piece of the request: there may be a token in it.
            problem = re.split(r"[:\n]| when reading", exc.message, maxsplit=1)[0].strip()
            log.warning("a request from %s was no HTTP: %s", request.remote, problem)
            details = {"field": "request", "problem": problem}
            response = table.response(table.row_of(InvalidContent()), operation, details)
        response.headers[OPERATION_HEADER] = operation
        response.force_close()
        return response


class _Server(web.Server):
    """Makes the connections."""

    def __init__(self, made: web.Server, tables: tuple[ErrorTable, ErrorTable]) -> None:
        super().__init__(
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            loop=made._loop,  # noqa: SLF001  # nobody offers the rest of what the runner made it with
            **made._kwargs,  # noqa: SLF001
        )
        self._worker, self._composer = tables
        self._composer_path = f"{self._composer.base}/".encode()
        self._handle = made.request_handler
        self.request_handler = self._expected

    def __call__(self) -> _Connection:
        return _Connection(self, loop=self._loop, **self._kwargs)

    def table_of(self, path: bytes) -> ErrorTable:
        """The errors of the API that a path is meant for."""
        return self._composer if path.startswith(self._composer_path) else self._worker

    async def _expected(self, request: Any) -> web.StreamResponse:
        """Handle a request; one that expects of HTTP what it does not know is refused before any middleware."""
        try:
            return await self._handle(request)
        except web.HTTPExpectationFailed:
            operation = new_id_text()
            table = self.table_of(request.path.encode())
            details = {"field": "Expect", "problem": "only 100-continue is known"}
            response = table.response(table.row_of(InvalidContent()), operation, details)
            response.headers[OPERATION_HEADER] = operation
            return response


class Runner(web.AppRunner):
    """Runs an application over such connections."""

    async def _make_server(self) -> web.Server:
        tables = (self.app[WORKER_ERRORS], self.app[COMPOSER_ERRORS])
        return _Server(await super()._make_server(), tables)

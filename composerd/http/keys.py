"""The typed keys under which the application holds what its handlers need."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from aiohttp import web

from composerd.artifacts.files import Files
from composerd.http.admission import Admission
from composerd.http.cut_answers import CutAnswers
from composerd.http.errors import ErrorTable
from composerd.http.identifying import Identifier
from composerd.queue import JobQueue
from composerd.settings import Settings


class RequestMetrics(Protocol):
    """The part of the server's metrics that the HTTP layer counts and shows."""

    content_type: str

    def served(self, handler: Callable[..., Any], status: int) -> None:
        """Count an answered request."""

    async def render(self, queue: JobQueue, connections: int) -> bytes:
        """Return all metrics as text. Raises what `Driver.info` raises."""


QUEUE: web.AppKey[JobQueue] = web.AppKey("QUEUE", JobQueue)
SETTINGS: web.AppKey[Settings] = web.AppKey("SETTINGS", Settings)
WORKER_ERRORS: web.AppKey[ErrorTable] = web.AppKey("WORKER_ERRORS", ErrorTable)
COMPOSER_ERRORS: web.AppKey[ErrorTable] = web.AppKey("COMPOSER_ERRORS", ErrorTable)
ARTIFACTS: web.AppKey[Files | None] = web.AppKey("ARTIFACTS")
"""The artifact store; None when artifacts are switched off."""

OPENAPI: web.AppKey[Mapping[str, bytes]] = web.AppKey("OPENAPI")
"""The OpenAPI documents, by base path."""

ADMISSION: web.AppKey[Admission] = web.AppKey("ADMISSION", Admission)
IDENTIFIER: web.AppKey[Identifier] = web.AppKey("IDENTIFIER", Identifier)
CUT_ANSWERS: web.AppKey[CutAnswers] = web.AppKey("CUT_ANSWERS", CutAnswers)
METRICS: web.AppKey[RequestMetrics] = web.AppKey("METRICS")

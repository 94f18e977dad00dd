"""What a handler needs, under typed keys: the queue, the settings of the API, the tables of errors, and small questions about a request."""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, Protocol
from uuid import UUID

import msgspec
from aiohttp import web

from composerd.artifacts.files import Files
from composerd.errors import InvalidContent, JobNotFound, Unavailable
from composerd.http.errors import ErrorTable
from composerd.ids import parse_uuid
from composerd.queue import JobQueue
from composerd.units import parse_duration

WORKER_BASE = "/api/worker/v1"
COMPOSER_BASE = "/api/composer/v1"

MAX_WAIT = 600.0
"""The longest `wait` that a request may ask for, in seconds."""


class ApiOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the APIs behave; durations in seconds, sizes in bytes."""

    worker_base: str = WORKER_BASE
    request_job_timeout: float | None = None
    """How long a worker's question waits; None: without end."""
    max_retries: int = 2
    """For jobs that do not say."""
    retention: float | None = 14 * 86400.0
    """For jobs that do not say; None: for ever."""
    undequeueable_types: frozenset[str] = frozenset({"manifest-id-only"})
    max_body_size: int = 32 * 1024 * 1024
    max_artifact_size: int = 64 * 1024**3
    allowed_domains: tuple[str, ...] = ()
    """Where a client's certificate has to be from; none: anywhere."""


class ConnectionLimit:
    """How many connections may be open; `count` is known when the server runs."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.count: Callable[[], int] = int

    def check(self) -> None:
        """Raise `Unavailable` if there are more."""
        if self.count() > self.limit:
            raise Unavailable("as many connections are open as may", limit=self.limit)


class RequestMetrics(Protocol):
    """The metrics of the server, as far as the protocol fills and shows them."""

    content_type: str

    def served(self, handler: Callable[..., Any], status: int) -> None:
        """Count a request that was answered."""

    async def render(self, queue: JobQueue, connections: int) -> bytes:
        """Return all metrics as text. Raises what `Driver.info` raises."""


QUEUE: web.AppKey[JobQueue] = web.AppKey("QUEUE", JobQueue)
OPTIONS: web.AppKey[ApiOptions] = web.AppKey("OPTIONS", ApiOptions)
WORKER_ERRORS: web.AppKey[ErrorTable] = web.AppKey("WORKER_ERRORS", ErrorTable)
COMPOSER_ERRORS: web.AppKey[ErrorTable] = web.AppKey("COMPOSER_ERRORS", ErrorTable)
ARTIFACTS: web.AppKey[Files | None] = web.AppKey("ARTIFACTS")
OPENAPI: web.AppKey[Mapping[str, bytes]] = web.AppKey("OPENAPI")
"""The OpenAPI documents, by base path."""

CONNECTIONS: web.AppKey[ConnectionLimit] = web.AppKey("CONNECTIONS", ConnectionLimit)
METRICS: web.AppKey[RequestMetrics] = web.AppKey("METRICS")

OPERATION_HEADER = "X-Operation-Id"

operation_id: ContextVar[str] = ContextVar("operation_id", default="-")
"""The operation that is being served: in the log, in errors and in the answer's header."""

job_known: ContextVar[str | None] = ContextVar("job_known", default=None)
"""The job that a request is about, once that is known: in the log."""

held: ContextVar[int] = ContextVar("held", default=0)
"""The bytes of the budget that the request holds; the middleware gives them back."""


def segment(name: str, *, empty: bool = False) -> str:
    """A variable segment of a route: whatever has no slash. aiohttp's own spares the braces."""
    return f"{{{name}:[^/]{'*' if empty else '+'}}}"


def job_id_of(request: web.Request) -> UUID:
    """The job that the path names. Raises `JobNotFound`."""
    job_id = parse_uuid(request.match_info["id"])
    if job_id is None:
        raise JobNotFound(id=request.match_info["id"])
    job_known.set(str(job_id))
    return job_id


def error_table(request: web.Request) -> ErrorTable:
    """The errors of the API that a request belongs to; outside both, the worker API's."""
    path = request.path
    composer = request.app[COMPOSER_ERRORS]
    if path.startswith(composer.base) and path[len(composer.base) :][:1] in ("", "/"):
        return composer
    return request.app[WORKER_ERRORS]


def wait_of(request: web.Request) -> float | None:
    """The `wait` that a request asks for, in seconds; None if it does not ask. Raises `InvalidContent`."""
    if not request.query_string or (text := request.query.get("wait")) is None:
        return None
    try:
        wait = parse_duration(text)
    except ValueError as exc:
        raise InvalidContent(field="wait", problem=str(exc)) from None
    if wait > MAX_WAIT:
        raise InvalidContent(field="wait", problem="at most 10m")
    return wait

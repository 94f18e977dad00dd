"""The endpoints that both APIs have (status, errors, OpenAPI), and those of neither (front page, health, metrics)."""

import asyncio
import re
from functools import partial

import msgspec
from aiohttp import web

from composerd.artifacts.files import Files
from composerd.errors import ComposerdError, StorageFull, WritesStopped
from composerd.http import schemas
from composerd.http.arguments import error_table_of, number_of, segment
from composerd.http.delivery import answer
from composerd.http.errors import InvalidErrorId
from composerd.http.keys import ADMISSION, ARTIFACTS, IDENTIFIER, METRICS, OPENAPI, QUEUE
from composerd.http.latest import Latest
from composerd.http.openapi import JSON, endpoint, operation
from composerd.http.paths import BASES, bases
from composerd.queue import JobQueue
from composerd.version import VERSION

PING_WITHIN = 5.0
"""Time in seconds that the storage may take to say that it accepts writes."""


def add_api_routes(app: web.Application, base: str) -> None:
    """Add the routes that each API has below its base path."""
    app.router.add_get(f"{base}/status", get_status if base == app[BASES].composer else get_worker_status)
    app.router.add_get(f"{base}/errors", get_errors)
    app.router.add_get(f"{base}/errors/{segment('id')}", get_error)
    app.router.add_get(f"{base}/openapi", get_openapi)


_READINESS: web.AppKey[Latest[str | None]] = web.AppKey("_READINESS", Latest)
_METRICS_TEXT: web.AppKey[Latest[bytes]] = web.AppKey("_METRICS_TEXT", Latest)


def add_site_routes(app: web.Application) -> None:
    """Add the routes that belong to neither API."""
    app[_READINESS] = Latest(partial(_refusal, app))
    app[_METRICS_TEXT] = Latest(partial(_metrics_text, app))
    app.on_cleanup.append(_close)
    site = app[BASES].site
    app.router.add_get(f"{site}/", front_page)
    if site:
        app.router.add_get(site, front_page)
    app.router.add_get(f"{site}/healthz", healthz)
    app.router.add_get(f"{site}/readyz", readyz)
    app.router.add_get(f"{site}/metrics", metrics)


@endpoint(
    "getStatus",
    "Check that the server answers",
    description="Check that the server answers. This asks no storage.",
    responses={200: ("The server answers", schemas.Status)},
)
async def get_status(request: web.Request) -> web.StreamResponse:
    """Answer that the server is running."""
    base = error_table_of(request).href
    return answer(schemas.Status(kind="Status", href=f"{base}/status", id="status", status="OK", version=VERSION))


@endpoint(
    "GetStatus",
    "Check that the server answers",
    description="Check that the server answers. This asks no storage.",
    responses={200: ("The server answers", schemas.Status)},
)
async def get_worker_status(request: web.Request) -> web.StreamResponse:
    """Answer that the server is running, under the endpoint name of osbuild-composer's worker API."""
    return await get_status(request)


@endpoint(
    "getErrors",
    "List the predefined errors",
    description="List the predefined errors of this API, by number.",
    responses={200: ("A page of errors", schemas.ErrorList)},
    query={"page": "Number of the page, from 0", "size": "Errors in a page, 1 to 1000, default 100"},
)
async def get_errors(request: web.Request) -> web.StreamResponse:
    """List the errors of the API, a page at a time, by number. Raises `InvalidContent` for an invalid page or size."""
    table = error_table_of(request)
    page = number_of(request, "page", default=0, least=0)
    size = number_of(request, "size", default=100, least=1)
    entries = table.entries[page * size : (page + 1) * size]
    return answer(
        {
            "kind": "ErrorList",
            "href": f"{table.href}/errors",
            "id": "errors",
            "page": page,
            "size": size,
            "total": len(table.entries),
            "items": [table.body(entry) for entry in entries],
        }
    )


@endpoint(
    "getError",
    "Get one predefined error",
    description="Get one predefined error of this API.",
    responses={200: ("The error", schemas.Error)},
)
async def get_error(request: web.Request) -> web.StreamResponse:
    """Return one error of the API. Raises `InvalidErrorId` and `ErrorNotFound`."""
    table = error_table_of(request)
    text = request.match_info["id"]
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise InvalidErrorId
    return answer(table.body(table.entry(int(text))))


@endpoint(
    "getOpenapi",
    "Get this document",
    description="Get this document, with the base path as the client knows it.",
    responses={200: ("The OpenAPI document", JSON)},
)
async def get_openapi(request: web.Request) -> web.Response:
    """Return the OpenAPI document of the API, whose server is the base path as the client knows it."""
    table = error_table_of(request)
    body = request.app[OPENAPI][table.base]
    if table.href != table.base:
        body = msgspec.json.encode({**msgspec.json.decode(body), "servers": [{"url": table.href}]})
    return web.Response(body=body, content_type=JSON)


async def _close(app: web.Application) -> None:
    await app[_READINESS].close()
    await app[_METRICS_TEXT].close()


@operation("getFrontPage")
async def front_page(_request: web.Request) -> web.Response:
    """Name both APIs, for people with a browser."""
    return web.Response(
        text=f"composerd\n\nworker API:   {bases.get().worker}/openapi\ncomposer API: {bases.get().composer}/openapi\n"
    )


@operation("getHealth")
async def healthz(_request: web.Request) -> web.Response:
    """Answer 200 as long as the process is alive, without asking the storage."""
    return web.Response(text="alive\n")


@operation("getReadiness")
async def readyz(request: web.Request) -> web.Response:
    """Tell whether the server can take requests, and if not, why: 200, or 503 with the reason as text.

    If something else is wrong, a second line says so; the server is ready all the same. Reasons are only for identities
    whose role may see them.

    The storage is asked at most once a second, whoever asks.
    """
    reason = _known_reason(request.app[QUEUE], request.app[ARTIFACTS]) or await request.app[_READINESS].get()
    identifier = request.app[IDENTIFIER]
    if not await identifier.sees_reasons(request):
        return web.Response(text="ready\n") if reason is None else web.Response(status=503, text="not ready\n")
    if reason is not None:
        return web.Response(status=503, text=f"{reason}\n")
    queue = request.app[QUEUE]
    quotas = None if queue.quotas is None else queue.quotas.problem
    problems = [problem for problem in (queue.handovers.problem, identifier.problem, quotas) if problem is not None]
    return web.Response(text="\n".join(["ready", *problems, ""]))


async def _refusal(app: web.Application) -> str | None:
    """Ask the storage, and the artifact store, why they do not accept writes; return None if both do."""
    try:
        async with asyncio.timeout(PING_WITHIN):
            await app[QUEUE].driver.ping()
    except TimeoutError:
        return "the storage does not answer"
    except ComposerdError as exc:
        return f"the storage does not accept writes: {_reason(exc)}"
    try:
        if (files := app[ARTIFACTS]) is not None:
            await files.check()
    except ComposerdError as exc:
        return f"artifacts cannot be stored: {_reason(exc)}"
    return None


def _known_reason(queue: JobQueue, files: Files | None) -> str | None:
    """Return why the server cannot take requests, or only some, as far as that is known without asking the storage."""
    if queue.draining:
        return "draining"
    if queue.hangs:
        return f"the storage does not accept writes: a write has had no answer for {queue.oldest_write:.0f} s"
    spaces = [queue.space] if files is None else [queue.space, files.space]
    return next((space.shortage for space in spaces if space.is_low), None)


def _reason(error: ComposerdError) -> str:
    """Return a reason that may be shown to anyone: the texts of most errors name hosts and paths."""
    if isinstance(error, StorageFull):
        return "the disk is full, or a quota is used up"
    return str(error) if isinstance(error, WritesStopped) else f"{error.code}; the log says why"


@operation("getMetrics")
async def metrics(request: web.Request) -> web.Response:
    """Return the metrics of the server in Prometheus's format, which are computed at most once a second."""
    text = await request.app[_METRICS_TEXT].get()
    return web.Response(body=text, headers={"Content-Type": request.app[METRICS].content_type})


async def _metrics_text(app: web.Application) -> bytes:
    return await app[METRICS].render(app[QUEUE], app[ADMISSION].used)

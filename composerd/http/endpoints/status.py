"""What both APIs have alike (status, errors, their OpenAPI document), and what belongs to neither: the front page, health, readiness."""

import re

from aiohttp import web

from composerd.errors import ComposerdError, InvalidContent
from composerd.http import schemas
from composerd.http.context import (
    ARTIFACTS,
    COMPOSER_BASE,
    CONNECTIONS,
    METRICS,
    OPENAPI,
    OPTIONS,
    QUEUE,
    error_table,
    segment,
)
from composerd.http.delivery import answer
from composerd.http.errors import InvalidErrorId
from composerd.http.openapi import operation


def add_api_routes(app: web.Application, base: str) -> None:
    """The operations that each API has below its base path."""
    app.router.add_get(f"{base}/status", get_status if base == COMPOSER_BASE else get_worker_status)
    app.router.add_get(f"{base}/errors", get_errors)
    app.router.add_get(f"{base}/errors/{segment('id')}", get_error)
    app.router.add_get(f"{base}/openapi", get_openapi)


def add_site_routes(app: web.Application) -> None:
    """What belongs to neither API."""
    app.router.add_get("/", front_page)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)


@operation("getStatus", "Ask whether the server is there", responses={200: ("It is", schemas.Status)})
async def get_status(request: web.Request) -> web.StreamResponse:
    """Answer."""
    base = error_table(request).base
    return answer(schemas.Status(kind="Status", href=f"{base}/status", id="status", status="OK"))


@operation("GetStatus", "Ask whether the server is there", responses={200: ("It is", schemas.Status)})
async def get_worker_status(request: web.Request) -> web.StreamResponse:
    """The same, under the name that the worker API has for it."""
    return await get_status(request)


@operation(
    "getErrors",
    "List the predefined errors",
    responses={200: ("A page of them", schemas.ErrorList)},
    query={"page": "Which page, from 0", "size": "How many on a page, 1 to 1000, by default 100"},
)
async def get_errors(request: web.Request) -> web.StreamResponse:
    """List the errors of the API."""
    table = error_table(request)
    page = _number(request, "page", 0, 0)
    size = _number(request, "size", 100, 1)
    rows = table.rows[page * size : (page + 1) * size]
    return answer(
        {
            "kind": "ErrorList",
            "href": f"{table.base}/errors",
            "id": "errors",
            "page": page,
            "size": size,
            "total": len(table.rows),
            "items": [table.body(row) for row in rows],
        }
    )


@operation("getError", "Get one predefined error", responses={200: ("The error", schemas.Error)})
async def get_error(request: web.Request) -> web.StreamResponse:
    """Show an error of the API."""
    table = error_table(request)
    text = request.match_info["id"]
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise InvalidErrorId
    return answer(table.body(table.row(int(text))))


@operation("getOpenapi", "Get this document", responses={200: ("The OpenAPI document", "application/json")})
async def get_openapi(request: web.Request) -> web.Response:
    """Answer the OpenAPI document of the API."""
    return web.Response(body=request.app[OPENAPI][error_table(request).base], content_type="application/json")


async def front_page(request: web.Request) -> web.Response:
    """Say what this is, for people."""
    return web.Response(
        text=f"composerd\n\nworker API:   {request.app[OPTIONS].worker_base}/openapi\ncomposer API: {COMPOSER_BASE}/openapi\n"
    )


async def healthz(_request: web.Request) -> web.Response:
    """The process lives."""
    return web.Response(text="alive\n")


async def readyz(request: web.Request) -> web.Response:
    """Whether to send requests here."""
    queue = request.app[QUEUE]
    if queue.draining:
        return web.Response(status=503, text="draining\n")
    try:
        await queue.driver.ping()
    except ComposerdError as exc:
        return web.Response(status=503, text=f"the storage does not take writes: {exc.code}\n")
    files = request.app[ARTIFACTS]
    try:
        if files is not None:
            await files.check()
    except ComposerdError as exc:
        return web.Response(status=503, text=f"artifacts are not taken: {exc.code}\n")
    return web.Response(text="ready\n")


async def metrics(request: web.Request) -> web.Response:
    """What the server counts of itself."""
    counted = request.app[METRICS]
    text = await counted.render(request.app[QUEUE], request.app[CONNECTIONS].count())
    return web.Response(body=text, headers={"Content-Type": counted.content_type})


def _number(request: web.Request, name: str, default: int, least: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,4}", text) or not least <= int(text) <= 1000:
        raise InvalidContent(field=name, problem=f"{least} to 1000")
    return int(text)

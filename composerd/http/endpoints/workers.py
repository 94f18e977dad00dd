"""The composer API's list of workers. What workers themselves send is in `worker`."""

from uuid import UUID

from aiohttp import web

from composerd.http import schemas
from composerd.http.arguments import MAX_PAGE, limit_of, query_of
from composerd.http.cursors import CURSORS
from composerd.http.delivery import answer_bytes, encode
from composerd.http.keys import QUEUE
from composerd.http.openapi import endpoint
from composerd.http.paths import BASES, bases
from composerd.http.request_context import identity
from composerd.http.turns import heavy
from composerd.models import WorkerCursor
from composerd_protocol.times import rfc3339


def add_routes(app: web.Application) -> None:
    """Add the route of the list."""
    app.router.add_get(f"{app[BASES].composer}/workers", list_workers)


@endpoint(
    "listWorkers",
    "List the workers seen lately",
    description="List the workers that were seen lately, those seen last first. A page may be short "
    "although there is a next one.",
    responses={200: ("A page of the workers, those seen last first", schemas.WorkerList)},
    query={
        "limit": f"Maximum number of workers in the page, 1 to {MAX_PAGE}, which is the default",
        "cursor": "The `next` of the previous page",
    },
)
async def list_workers(request: web.Request) -> web.StreamResponse:
    """List the workers that were seen lately, the latest first, with the jobs that they run.

    `arch` is null for a worker that has only given a sign of life. A page may be short although there is a next one.
    Raises `InvalidCursor` for a filter, and for an invalid limit or cursor.
    """
    queue = request.app[QUEUE]
    query = query_of(request, "limit", "cursor")
    limit = limit_of(query, MAX_PAGE)
    after = await _cursor(request)
    await heavy(request)
    page = await queue.roster.page(after, limit, identity.get().scope)
    href = f"{bases.get().composer}/workers"
    items = [
        schemas.Worker(
            kind="Worker",
            href=href,
            id=str(worker.id),
            arch=worker.arch or None,
            types=list(worker.types),
            channel=worker.channel,
            jobs=schemas.strings(worker.jobs),
            seen_at=rfc3339(worker.seen_at),
            problem=worker.problem,
        )
        for worker in page.workers
        if worker.seen_at is not None
    ]
    listed = schemas.WorkerList(kind="WorkerList", href=href, id="workers", items=items)
    if page.next is not None:
        listed.next = await request.app[CURSORS].text(_place(page.next), "workers", identity.get().scope)
    return await answer_bytes(request, encode(listed))


async def _cursor(request: web.Request) -> WorkerCursor | None:
    """Return the worker after which a request wants to go on. Raises `InvalidCursor`."""
    text = request.query.get("cursor")
    if text is None:
        return None
    place = await request.app[CURSORS].place(text, "workers", identity.get().scope)
    return WorkerCursor(int.from_bytes(place[:8]), UUID(bytes=place[8:]))


def _place(cursor: WorkerCursor) -> bytes:
    return cursor.seen.to_bytes(8) + cursor.id.bytes

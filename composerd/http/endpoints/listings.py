"""The composer API: pages of jobs, and of the jobs that one depends on or that depend on it."""

from functools import partial
from uuid import UUID

from aiohttp import web

from composerd.errors import InvalidCursor
from composerd.http import schemas
from composerd.http.arguments import job_of, limit_of, query_of, segment
from composerd.http.cursors import CURSORS
from composerd.http.delivery import answer_bytes, encode
from composerd.http.endpoints.shown import encoded, job_list, listed_body
from composerd.http.fields import LONGEST_WORD
from composerd.http.keys import QUEUE
from composerd.http.openapi import endpoint
from composerd.http.paths import BASES, bases
from composerd.http.request_context import client, identity
from composerd.http.turns import heavy, next_turn
from composerd.models import JobFilter, JobState
from composerd.slices import Slices
from composerd_protocol.words import is_word

MAX_PAGE_SIZE = 1024 * 1024
"""Size in bytes of its jobs at which a page ends, although there may be more."""

READ_AT_ONCE = 100
"""The most jobs that are read for a page before other tasks have a turn."""

_PAGE = {
    "limit": "Maximum number of jobs in the page, 1 to 1000, default 100",
    "cursor": "The `next` of the previous page",
}


def add_routes(app: web.Application) -> None:
    """Add the routes of listings."""
    base = f"{app[BASES].composer}/jobs"
    app.router.add_get(base, list_jobs)
    app.router.add_get(f"{base}/{segment('id')}/dependencies", list_dependencies)
    app.router.add_get(f"{base}/{segment('id')}/dependents", list_dependents)


@endpoint(
    "listJobs",
    "List jobs, newest first",
    description="List jobs, the newest first, without their dependencies, progress and results.",
    responses={200: ("A page of jobs", schemas.JobList)},
    query={
        "state": "Only jobs in this state, or in one of these if it is there several times",
        "type": "Only jobs of this type",
        "channel": "Only jobs of this channel",
        "arch": "Only jobs of this arch",
        **_PAGE,
    },
)
async def list_jobs(request: web.Request) -> web.StreamResponse:
    """Return a page of jobs, without their dependencies and dependents.

    It may be short, or empty, although there is a next page. Raises `InvalidCursor` for an unknown filter, and for an
    invalid filter, limit or cursor.
    """
    queue = request.app[QUEUE]
    query = query_of(request, "state", "type", "channel", "arch", *_PAGE, repeatable="state")
    try:
        states = tuple({JobState(state): None for state in request.query.getall("state", ())})
    except ValueError:
        raise InvalidCursor(field="state", problem=f"must be one of {', '.join(JobState)}") from None
    for name in ("type", "arch", "channel"):
        value = query.get(name)
        if value is not None and not (is_word(value) and (value or name == "channel") and len(value) <= LONGEST_WORD):
            raise InvalidCursor(field=name, problem="must be 1 to 128 printable characters without white space")
    left = limit_of(query, 100)
    cursor = await _cursor(request, "jobs")
    state, states = (states[0], ()) if len(states) == 1 else (None, states)
    own = identity.get().scope
    channel = query.get("channel", own)
    chosen = JobFilter(state, query.get("type"), channel, query.get("arch"), states)
    queue.budgets.answers.check(client.get())
    await heavy(request)
    slices = Slices()
    again = partial(next_turn, request) if own is not None else None
    if own is not None and channel != own:
        return await _page(request, [], None)
    items: list[bytes] = []
    size = 0
    while True:
        wanted = min(left, READ_AT_ONCE)
        page = await queue.list(chosen, cursor, wanted, alone=again)
        some = await encoded(page.jobs, listed_body, slices)
        items += some
        size += sum(map(len, some))
        left -= len(some)
        cursor = page.next
        if cursor is None or left == 0 or len(some) < wanted or size >= MAX_PAGE_SIZE:
            break
    if again is not None:
        cursor = await queue.following(chosen, cursor, again)
    return await _page(request, items, cursor)


async def _page(request: web.Request, items: list[bytes], cursor: int | None) -> web.StreamResponse:
    following = await _cursor_text(request, "jobs", cursor)
    return await answer_bytes(request, job_list("jobs", f"{bases.get().composer}/jobs", items, following))


@endpoint(
    "listDependencies",
    "List the jobs that a job depends on",
    description="List the ids of the jobs that a job depends on, also of those that were deleted.",
    responses={200: ("A page of ids, in the order in which the job names them", schemas.JobIdList)},
    query=_PAGE,
)
async def list_dependencies(request: web.Request) -> web.StreamResponse:
    """Return a page of the ids that a job names as its dependencies, also of jobs that were deleted.

    Raises `JobNotFound`, and `InvalidCursor` for an invalid limit or cursor.
    """
    query = query_of(request, *_PAGE)
    limit = limit_of(query, 100)
    begin = await _cursor(request, "dependencies") or 0
    await heavy(request)
    job = await request.app[QUEUE].get(job_of(request))
    end = begin + limit
    rest = end if end < len(job.dependencies) else None
    return await _ids(request, job.id, "dependencies", job.dependencies[begin:end], rest)


@endpoint(
    "listDependents",
    "List the jobs that depend on a job",
    description="List the ids of the jobs that depend on a job.",
    responses={200: ("A page of ids, those submitted first come first", schemas.JobIdList)},
    query=_PAGE,
)
async def list_dependents(request: web.Request) -> web.StreamResponse:
    """Return a page of the ids of the jobs that depend on a job.

    Raises `JobNotFound`, and `InvalidCursor` for an invalid limit or cursor.
    """
    query = query_of(request, *_PAGE)
    limit = limit_of(query, 100)
    cursor = await _cursor(request, "dependents")
    wanted = job_of(request)
    await heavy(request)
    page = await request.app[QUEUE].dependents(wanted, cursor, limit)
    return await _ids(request, wanted.id, "dependents", page.ids, page.next)


async def _ids(
    request: web.Request, job_id: UUID, what: str, ids: tuple[UUID, ...], rest: int | None
) -> web.StreamResponse:
    listed = schemas.JobIdList(
        kind="JobIdList",
        href=f"{bases.get().composer}/jobs/{job_id}/{what}",
        id=str(job_id),
        items=schemas.strings(ids),
        next=await _cursor_text(request, what, rest),
    )
    return await answer_bytes(request, encode(listed))


async def _cursor(request: web.Request, listing: str) -> int | None:
    """Return the place in a listing from which a request wants to go on. Raises `InvalidCursor`."""
    text = request.query.get("cursor")
    return None if text is None else await request.app[CURSORS].number(text, listing, identity.get().scope)


async def _cursor_text(request: web.Request, listing: str, number: int | None) -> str | None:
    if number is None:
        return None
    return await request.app[CURSORS].text_of_number(number, listing, identity.get().scope)

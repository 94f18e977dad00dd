"""The composer API: pages of jobs, and of the jobs that one depends on or that depend on it."""

import base64
import binascii
from uuid import UUID

from aiohttp import web

from composerd.errors import InvalidCursor, JobNotFound
from composerd.http import schemas
from composerd.http.arguments import job_id_of, limit_of, query_of, segment
from composerd.http.delivery import answer_bytes, encode
from composerd.http.endpoints.shown import encoded, job_list, listed_body
from composerd.http.keys import QUEUE
from composerd.http.openapi import endpoint
from composerd.http.paths import BASES, bases
from composerd.http.request_context import client
from composerd.http.turns import heavy
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
        if value is not None and not (is_word(value) and (value or name == "channel") and len(value) <= 128):
            raise InvalidCursor(field=name, problem="must be 1 to 128 printable characters without white space")
    left = limit_of(query, 100)
    cursor = _cursor(query.get("cursor"))
    state, states = (states[0], ()) if len(states) == 1 else (None, states)
    chosen = JobFilter(state, query.get("type"), query.get("channel"), query.get("arch"), states)
    queue.budgets.answers.check(client.get())
    await heavy(request)
    slices = Slices()
    items: list[bytes] = []
    size = 0
    while True:
        wanted = min(left, READ_AT_ONCE)
        page = await queue.list(chosen, cursor, wanted)
        some = await encoded(page.jobs, listed_body, slices)
        items += some
        size += sum(map(len, some))
        left -= len(some)
        cursor = page.next
        if cursor is None or left == 0 or len(some) < wanted or size >= MAX_PAGE_SIZE:
            break
    following = None if cursor is None else _cursor_text(cursor)
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
    begin = _cursor(query.get("cursor")) or 0
    await heavy(request)
    job = await request.app[QUEUE].get(job_id_of(request))
    end = begin + limit
    following = end if end < len(job.dependencies) else None
    return await _ids(request, job.id, "dependencies", job.dependencies[begin:end], following)


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
    cursor = _cursor(query.get("cursor"))
    job_id = job_id_of(request)
    await heavy(request)
    page = await request.app[QUEUE].driver.dependents(job_id, cursor, limit)
    if page is None:
        raise JobNotFound(id=str(job_id))
    return await _ids(request, job_id, "dependents", page.ids, page.next)


async def _ids(
    request: web.Request, job_id: UUID, what: str, ids: tuple[UUID, ...], following: int | None
) -> web.StreamResponse:
    listed = schemas.JobIdList(
        kind="JobIdList",
        href=f"{bases.get().composer}/jobs/{job_id}/{what}",
        id=str(job_id),
        items=schemas.strings(ids),
        next=None if following is None else _cursor_text(following),
    )
    return await answer_bytes(request, encode(listed))


def _cursor(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        number = int.from_bytes(base64.urlsafe_b64decode(text.encode("ascii")))
    except (binascii.Error, UnicodeEncodeError):
        number = 0
    # The decoder ignores unknown characters and accepts shorter texts: only the exact spelling is a cursor.
    if not 0 < number < 2**63 or _cursor_text(number) != text:
        raise InvalidCursor(field="cursor", problem="must be the `next` of an earlier page")
    return number


def _cursor_text(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes(9)).decode()

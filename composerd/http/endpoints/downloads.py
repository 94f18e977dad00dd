"""Artifacts in the composer API: listing the files of a job, and downloading one."""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from urllib.parse import quote

from aiohttp import web

from composerd.errors import ArtifactNotFound, ComposerdError, InvalidContent
from composerd.http import schemas
from composerd.http.arguments import artifact_name_of, job_of, segment
from composerd.http.conditions import Validators, check_preconditions, selected_range, unchanged
from composerd.http.delivery import answer_bytes, complete, encode, flush, hang_up
from composerd.http.errors import PreconditionFailed
from composerd.http.keys import ARTIFACTS, COMPOSER_ERRORS, QUEUE, SETTINGS
from composerd.http.openapi import BYTES, endpoint
from composerd.http.pace import Pace, TooSlow
from composerd.http.paths import BASES, bases
from composerd.http.request_context import client, request_id
from composerd.http.turns import heavy
from composerd.slices import Slices

_WRITTEN_AT_ONCE = 64 * 1024
"""Most bytes of a file that are passed to a connection at once: as many stay in memory while a client does not read."""

_VALIDATORS = ("ETag", "Last-Modified")

_NOT_PLAIN = re.compile(r'[^ -~]|["%\\]')


def add_routes(app: web.Application) -> None:
    """Add the routes of the list and the download to the composer API."""
    path = f"{app[BASES].composer}/jobs/{segment('id')}/artifacts"
    app.router.add_get(path, list_artifacts)
    app.router.add_get(f"{path}/{segment('name', empty=True)}", get_artifact)


@endpoint(
    "listArtifacts",
    "List a job's artifacts; the list is empty until the job has ended",
    description="List the files of a job by name. The list is empty until the job has ended.",
    responses={200: ("The artifacts", schemas.ArtifactList)},
)
async def list_artifacts(request: web.Request) -> web.StreamResponse:
    """List the artifacts of a job, by name. Raises `JobNotFound`."""
    wanted = job_of(request)
    href = f"{bases.get().composer}/jobs/{wanted.id}/artifacts"
    await heavy(request)
    slices = Slices()
    items = []
    queue = request.app[QUEUE]
    for artifact in await queue.artifacts(await queue.listed(wanted)):
        items.append(schemas.artifact(artifact, f"{href}/{quote(artifact.name, safe='')}"))
        await slices.pause()
    listed = schemas.ArtifactList(kind="ArtifactList", href=href, id="artifacts", items=items)
    return await answer_bytes(request, encode(listed))


@endpoint(
    "getArtifact",
    "Download an artifact",
    description="Download a file, or one part of it.",
    responses={
        200: ("The file", BYTES),
        206: ("The requested part of the file", BYTES),
        304: ("The client has the file, as `If-None-Match` or `If-Modified-Since` says", None),
        412: ("The file is another one, as `If-Match` or `If-Unmodified-Since` says", schemas.Error),
        416: ("The file has no such part", schemas.Error),
    },
    takes=("If-Match", "If-Modified-Since", "If-None-Match", "If-Range", "If-Unmodified-Since", "Range"),
    gives={
        200: (*_VALIDATORS, "Accept-Ranges", "Content-Disposition"),
        206: (*_VALIDATORS, "Accept-Ranges", "Content-Disposition", "Content-Range"),
        304: (*_VALIDATORS, "Accept-Ranges", "Content-Disposition"),
        412: _VALIDATORS,
        416: (*_VALIDATORS, "Content-Range"),
    },
)
async def get_artifact(request: web.Request) -> web.StreamResponse:
    """Stream a file, or the part of it that a single Range selects.

    The conditions of the request are those of RFC 9110. Raises `ArtifactNotFound` if the job has no such artifact, also
    because it has not ended yet. If the file turns out to be shorter than recorded, the connection is closed in the
    middle of the answer.
    """
    wanted = job_of(request)
    name = artifact_name_of(request)
    files = request.app[ARTIFACTS]
    queue = request.app[QUEUE]
    job = await queue.listed(wanted)
    found = next((one for one in await queue.artifacts(job) if one.name == name), None)
    if found is None or files is None or job.finished_at is None:
        raise ArtifactNotFound
    file = Validators.of(found.sha256, job.finished_at)
    try:
        check_preconditions(request, file)
    except PreconditionFailed as exc:
        return _refusal(request, exc, 412, file.headers)
    headers = {
        **file.headers,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Content-Disposition": disposition(name),
    }
    complete(headers, request_id.get())
    if unchanged(request, file):
        return web.Response(status=304, headers=headers)
    start, stop = 0, found.size
    if (requested := selected_range(request, file, found.size)) is not None:
        start, stop = requested
        if start >= stop:
            error = InvalidContent(field="Range", problem=f"the artifact has {found.size} bytes")
            return _refusal(request, error, 416, {"Content-Range": f"bytes */{found.size}", **file.headers})
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{found.size}"
    response = web.StreamResponse(status=206 if "Content-Range" in headers else 200, headers=headers)
    response.content_type = BYTES
    response.content_length = stop - start
    with files.transfer(client.get()):
        async with aclosing(files.read(found.location, start, stop)) as parts:
            first = [await anext(parts, b"")]  # before the answer begins, because the job may just have been removed
            await response.prepare(request)
            if request.method == "HEAD":
                await response.write_eof()
            else:
                try:
                    await _send(request, response, first, parts)
                except TooSlow:
                    hang_up(request, "the client reads the file too slowly")
    return response


async def _send(
    request: web.Request, response: web.StreamResponse, first: list[bytes], parts: AsyncIterator[bytes]
) -> None:
    """Write a file to a client, and return once all of it has left this process.

    The first part is removed from its list, so that no more than one part is in memory. Raises `TooSlow` for a client
    that does not read fast enough.
    """
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client has gone")
    settings = request.app[SETTINGS]
    async with Pace(settings.body_timeout, settings.min_rate, transport.get_write_buffer_size) as pace:
        part = first.pop()
        while part:
            view = memoryview(part)
            for begin in range(0, len(view), _WRITTEN_AT_ONCE):
                piece = view[begin : begin + _WRITTEN_AT_ONCE]
                pace.moved(len(piece))
                await response.write(piece)
            with pace.paused():
                part = await anext(parts, b"")
        await response.write_eof()
        await flush(request)


def disposition(name: str) -> str:
    """Return the Content-Disposition of a file, with a name in plain ASCII for clients that read only `filename`.

    Those save percent signs as they are and disagree about quotes and backslashes, so the plain name has none.
    """
    return f"attachment; filename=\"{_NOT_PLAIN.sub('_', name)}\"; filename*=UTF-8''{quote(name, safe='')}"


def _refusal(request: web.Request, error: ComposerdError, status: int, headers: Mapping[str, str]) -> web.Response:
    """Return an answer with a status of HTTP's own for conditional requests, and the predefined error as its body."""
    table = request.app[COMPOSER_ERRORS]
    response = table.response(table.entry_for(error), request_id.get(), error.details)
    response.set_status(status)
    response.headers.update(headers)
    return response

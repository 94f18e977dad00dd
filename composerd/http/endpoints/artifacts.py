"""The composer API's artifacts: what files a job left, and each of them, whole or in part."""

import re
from contextlib import aclosing
from urllib.parse import quote

from aiohttp import web

from composerd.errors import ArtifactNotFound, InvalidContent
from composerd.http import schemas
from composerd.http.context import (
    ARTIFACTS,
    COMPOSER_BASE,
    COMPOSER_ERRORS,
    OPERATION_HEADER,
    QUEUE,
    job_id_of,
    operation_id,
    segment,
)
from composerd.http.delivery import answer
from composerd.http.endpoints.worker import artifact_name
from composerd.http.openapi import BYTES, operation


def add_routes(app: web.Application, of_job: str) -> None:
    """Put the operations on their places below a job's."""
    app.router.add_get(f"{of_job}/artifacts", list_artifacts)
    app.router.add_get(f"{of_job}/artifacts/{segment('name', empty=True)}", get_artifact)


@operation(
    "listArtifacts",
    "List a job's artifacts; none until it has ended",
    responses={200: ("The artifacts", schemas.ArtifactList)},
)
async def list_artifacts(request: web.Request) -> web.StreamResponse:
    """Show what files a job left."""
    job_id = job_id_of(request)
    href = f"{COMPOSER_BASE}/jobs/{job_id}/artifacts"
    items = [
        schemas.Artifact(
            kind="Artifact",
            href=f"{href}/{quote(artifact.name, safe='')}",
            id=artifact.name,
            name=artifact.name,
            size=artifact.size,
            sha256=artifact.sha256,
        )
        for artifact in await request.app[QUEUE].artifacts(job_id)
    ]
    return answer(schemas.ArtifactList(kind="ArtifactList", href=href, id="artifacts", items=items))


@operation("getArtifact", "Get an artifact's bytes", responses={200: ("The file", BYTES), 206: ("A part of it", BYTES)})
async def get_artifact(request: web.Request) -> web.StreamResponse:
    """Stream a file, or the part of it that a single Range asks for."""
    job_id = job_id_of(request)
    name = artifact_name(request)
    files = request.app[ARTIFACTS]
    found = next((one for one in await request.app[QUEUE].artifacts(job_id) if one.name == name), None)
    if found is None or files is None:
        raise ArtifactNotFound
    etag = f'"{found.sha256}"'
    headers = {
        OPERATION_HEADER: operation_id.get(),
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}",
    }
    if any(one.value in (found.sha256, "*") for one in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    start, stop = 0, found.size
    if (asked := _range(request, found.size)) is not None and request.headers.get("If-Range", etag) == etag:
        start, stop = asked
        if start >= stop:
            return _no_such_range(request, found.size, etag)
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{found.size}"
    response = web.StreamResponse(status=206 if "Content-Range" in headers else 200, headers=headers)
    response.content_type = BYTES
    response.content_length = stop - start
    async with aclosing(files.read(found.location, start, stop)) as parts:
        part = await anext(parts, b"")  # before the answer begins: the job may have been removed just now
        await response.prepare(request)
        if request.method != "HEAD":
            await response.write(part)
            async for part in parts:
                await response.write(part)
    await response.write_eof()
    return response


_RANGE = re.compile(r"bytes=(?:([0-9]{1,40})-([0-9]{1,40})?|-([0-9]{1,40}))", re.IGNORECASE)


def _range(request: web.Request, size: int) -> tuple[int, int] | None:
    """The part of a file that a GET asks for, an empty one if there is no such part.

    None for the whole file: RFC 9110 lets a server ignore what is malformed and what asks for several parts, and has it
    ignore other units and other methods.
    """
    match = _RANGE.fullmatch(request.headers.get("Range", "").strip())
    if match is None or request.method != "GET":
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        return max(size - int(suffix), 0), size
    if last is None:
        return int(first), size
    return None if int(last) < int(first) else (int(first), min(int(last) + 1, size))


def _no_such_range(request: web.Request, size: int, etag: str) -> web.Response:
    """HTTP's own status, and as the body the predefined error that comes closest."""
    table = request.app[COMPOSER_ERRORS]
    details = {"field": "Range", "problem": f"the artifact has {size} bytes"}
    response = table.response(table.row_of(InvalidContent()), operation_id.get(), details)
    response.set_status(416)
    response.headers.update({"Content-Range": f"bytes */{size}", "ETag": etag})
    return response

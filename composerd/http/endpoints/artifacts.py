"""Artifacts: uploading a file in the worker API, listing and downloading files in the composer API."""

import asyncio
import base64
import binascii
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from urllib.parse import quote, unquote_to_bytes
from uuid import UUID

from aiohttp import web

from composerd.artifacts.files import Files, Upload
from composerd.errors import (
    ArtifactNotFound,
    ArtifactsDisabled,
    ArtifactTooLarge,
    AttemptCanceled,
    AttemptFinished,
    AttemptSuperseded,
    ComposerdError,
    IncompleteUpload,
    InvalidArtifactName,
    InvalidContent,
    TokenNotFound,
)
from composerd.file_names import problem_with
from composerd.http import schemas
from composerd.http.arguments import job_id_of, segment, token_of
from composerd.http.delivery import answer_bytes, close_after_answer, complete, encode, flush, hang_up
from composerd.http.keys import ARTIFACTS, COMPOSER_ERRORS, QUEUE, SETTINGS
from composerd.http.openapi import BYTES, endpoint
from composerd.http.pace import Pace, TooSlow
from composerd.http.paths import BASES, bases
from composerd.http.request_context import client, known_job_id, request_id
from composerd.http.turns import heavy
from composerd.models import Attachment
from composerd.queue import JobQueue, check_running
from composerd.slices import Slices

_REST_WITHIN = 1.0
"""Seconds that the rest of an upload may take to arrive after the upload has failed."""


_WRITTEN_AT_ONCE = 64 * 1024
"""Most bytes of a file that are passed to a connection at once: as many stay in memory while a client does not read."""


def add_worker_routes(app: web.Application) -> None:
    """Add the route of the upload to the worker API."""
    path = f"{app[BASES].worker}/jobs/{segment('token')}/artifacts/{segment('name', empty=True)}"
    app.router.add_put(path, upload_job_artifact)


def add_composer_routes(app: web.Application) -> None:
    """Add the routes of the list and the download to the composer API."""
    path = f"{app[BASES].composer}/jobs/{segment('id')}/artifacts"
    app.router.add_get(path, list_artifacts)
    app.router.add_get(f"{path}/{segment('name', empty=True)}", get_artifact)


@endpoint(
    "UploadJobArtifact",
    "Upload a file of the job",
    description="Upload a file, which the job has once this attempt finishes it. A further upload of the "
    "same name replaces it.",
    request=BYTES,
    responses={200: ("The file is stored completely", None)},
    takes=("Content-Digest",),
)
async def upload_job_artifact(request: web.Request) -> web.Response:
    """Store a file, and attach it to the attempt once it is on stable storage.

    The file is in memory one part at a time. Each part renews the lease, at times. The upload ends with the attempt,
    and if it is too slow. If anything fails, nothing of it is attached; a file that was stored already is removed, here
    or by the sweeper. Raises `IncompleteUpload`, `ArtifactTooLarge`, `InvalidArtifactName`, `ArtifactsDisabled`,
    `StorageFull`, `TooSlow`, the error for the state of an attempt that is not running, and `Unavailable` if there are
    too many uploads and downloads.
    """
    token = token_of(request)
    name = artifact_name_of(request)
    files = request.app[ARTIFACTS]
    if files is None:
        raise ArtifactsDisabled
    queue = request.app[QUEUE]
    attempt = await queue.touch(token)
    check_running(attempt)
    job_id = attempt.job_id
    assert job_id is not None
    known_job_id.set(str(job_id))
    expected = _content_digest(request.headers.get("Content-Digest"))
    with files.transfer(client.get()):
        async with files.allowances.upload(token, name, lambda: queue.uploads.attached(job_id)) as allowance:
            announced = request.content_length or 0
            allowance.check(announced)
            files.space.check(announced)
            try:
                async with (
                    files.upload(job_id, attempt.number, allowance) as upload,
                    queue.uploads.while_running(token, job_id, client.get()),
                ):
                    await _receive(request, token, upload)
                    artifact = await upload.complete(name)
            except ComposerdError:
                _close_soon(request)
                raise
            if expected is not None and artifact.sha256 != expected:
                await files.remove([artifact.location])
                raise IncompleteUpload(expected_sha256=expected, received_sha256=artifact.sha256)
            limits = files.limits
            await _attach(queue, files, job_id, Attachment(token, artifact, limits.max_files, limits.max_total))
            allowance.attached()
    return web.Response()


async def _receive(request: web.Request, token: UUID, upload: Upload) -> None:
    """Write the body of a request into an upload, and renew the lease of the attempt while parts arrive."""
    queue = request.app[QUEUE]
    settings = request.app[SETTINGS]
    renew_after = queue.options.handover_timeout / 2
    clock = asyncio.get_running_loop().time
    renewed_at = clock()
    try:
        async with Pace(settings.body_timeout, settings.min_rate) as pace:
            async for part in request.content.iter_any():
                pace.moved(len(part))
                with pace.paused():
                    await upload.write(part)
                    if clock() - renewed_at > renew_after:
                        renewed_at = clock()
                        check_running(await queue.touch(token))
    except web.RequestPayloadError as exc:
        raise IncompleteUpload(problem=str(exc)) from None
    if request.content_length is not None and upload.size != request.content_length:
        raise IncompleteUpload(expected=request.content_length, received=upload.size)


def _close_soon(request: web.Request) -> None:
    """Let the connection be closed after the answer, and a moment later even if the rest of the body does not arrive.

    aiohttp would wait for that for 10 s, and the client of an upload that was ended may send nothing.
    """

    def close() -> None:
        if not request.content.is_eof():
            request.protocol.force_close()

    if not request.content.is_eof():
        close_after_answer(request)
        asyncio.get_running_loop().call_later(_REST_WITHIN, close)


async def _attach(queue: JobQueue, files: Files, job_id: UUID, attachment: Attachment) -> None:
    """Attach a stored file to its attempt, and remove the file that it replaces, or itself if it is refused."""
    location = attachment.artifact.location
    try:
        attached = await queue.uploads.attach(attachment)
        if attached.exceeded is not None:
            raise files.allowances.error(attached.exceeded)
    except (TokenNotFound, AttemptSuperseded, AttemptCanceled, ArtifactTooLarge):
        await files.remove([location])
        raise
    except AttemptFinished:  # if an earlier call has attached the file after all, the job has it
        files.leftovers.put_nowait(job_id)
        raise
    if attached.replaced is not None:
        await files.remove([attached.replaced])


@endpoint(
    "listArtifacts",
    "List a job's artifacts; the list is empty until the job has ended",
    description="List the files of a job by name. The list is empty until the job has ended.",
    responses={200: ("The artifacts", schemas.ArtifactList)},
)
async def list_artifacts(request: web.Request) -> web.StreamResponse:
    """List the artifacts of a job, by name. Raises `JobNotFound`."""
    job_id = job_id_of(request)
    href = f"{bases.get().composer}/jobs/{job_id}/artifacts"
    await heavy(request)
    slices = Slices()
    items = []
    for artifact in await request.app[QUEUE].artifacts(job_id):
        quoted = quote(artifact.name, safe="")
        items.append(
            schemas.Artifact(
                kind="Artifact",
                href=f"{href}/{quoted}",
                id=artifact.name,
                name=artifact.name,
                size=artifact.size,
                sha256=artifact.sha256,
            )
        )
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
        304: ("The file has the ETag that `If-None-Match` names", None),
        416: ("The file has no such part", schemas.Error),
    },
    takes=("If-None-Match", "If-Range", "Range"),
    gives={
        200: ("ETag", "Accept-Ranges", "Content-Disposition"),
        206: ("ETag", "Accept-Ranges", "Content-Disposition", "Content-Range"),
        304: ("ETag", "Accept-Ranges", "Content-Disposition"),
        416: ("ETag", "Content-Range"),
    },
)
async def get_artifact(request: web.Request) -> web.StreamResponse:
    """Stream a file, or the part of it that a single Range selects.

    Raises `ArtifactNotFound` if the job has no such artifact, also because it has not ended yet. If the file turns out
    to be shorter than recorded, the connection is closed in the middle of the answer.
    """
    job_id = job_id_of(request)
    name = artifact_name_of(request)
    files = request.app[ARTIFACTS]
    found = next((one for one in await request.app[QUEUE].artifacts(job_id) if one.name == name), None)
    if found is None or files is None:
        raise ArtifactNotFound
    etag = f'"{found.sha256}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}",
    }
    complete(headers, request_id.get())
    if any(one.value in (found.sha256, "*") for one in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    start, stop = 0, found.size
    if (requested := _range(request, found.size)) is not None and request.headers.get("If-Range", etag) == etag:
        start, stop = requested
        if start >= stop:
            return _range_not_satisfiable(request, found.size, etag)
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


def artifact_name_of(request: web.Request) -> str:
    """Return the artifact name in the path, decoded from the path as it was sent. Raises `InvalidArtifactName`."""
    sent = request.raw_path.partition("?")[0].rpartition("/")[2]
    name = unquote_to_bytes(sent).decode(errors="surrogateescape")
    if (problem := problem_with(name)) is not None:
        raise InvalidArtifactName(problem=problem)
    return name


def _content_digest(header: str | None) -> str | None:
    """Return the SHA-256 of a Content-Digest header (RFC 9530) in hexadecimal, or None if the header has none.

    Raises `IncompleteUpload` if it is malformed.
    """
    for member in (header or "").split(","):
        algorithm, _, value = member.strip().partition("=")
        if algorithm.lower() == "sha-256":
            try:
                encoded = value.partition(";")[0].strip().removeprefix(":").removesuffix(":")
                digest = base64.b64decode(encoded, validate=True)
            except (binascii.Error, ValueError):
                digest = b""
            if len(digest) != hashlib.sha256().digest_size:
                raise IncompleteUpload(problem="the Content-Digest header is malformed")
            return digest.hex()
    return None


_RANGE = re.compile(r"bytes=(?:([0-9]{1,40})-([0-9]{1,40})?|-([0-9]{1,40}))", re.IGNORECASE)


def _range(request: web.Request, size: int) -> tuple[int, int] | None:
    """Return where the part that a GET selects begins and ends. If there is no such part, it is empty or reversed.

    Returns None for the whole file: RFC 9110 lets a server ignore a malformed Range and one of several parts, and
    requires it to ignore other units and other methods.
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


def _range_not_satisfiable(request: web.Request, size: int, etag: str) -> web.Response:
    """Return HTTP's own status for it, with the closest predefined error as its body."""
    table = request.app[COMPOSER_ERRORS]
    details = {"field": "Range", "problem": f"the artifact has {size} bytes"}
    response = table.response(table.entry_for(InvalidContent()), request_id.get(), details)
    response.set_status(416)
    response.headers.update({"Content-Range": f"bytes */{size}", "ETag": etag})
    return response

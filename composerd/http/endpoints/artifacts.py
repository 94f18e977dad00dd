"""Artifacts in the worker API: uploading a file. Listing and downloading them are in `downloads`."""

import asyncio
import re
from urllib.parse import quote
from uuid import UUID

from aiohttp import web

from composerd.artifacts.files import Files, Upload
from composerd.errors import (
    ArtifactsDisabled,
    ArtifactTooLarge,
    AttemptCanceled,
    AttemptFinished,
    AttemptSuperseded,
    IncompleteUpload,
    ShorterUpload,
    TokenNotFound,
    Unavailable,
)
from composerd.http import schemas
from composerd.http.arguments import artifact_name_of, given_token_of, segment, stored_token_of
from composerd.http.bodies import invite
from composerd.http.delivery import answer
from composerd.http.keys import ARTIFACTS, IDENTIFIER, QUEUE, SETTINGS
from composerd.http.openapi import BYTES, endpoint
from composerd.http.pace import Pace
from composerd.http.paths import BASES, bases
from composerd.http.request_context import client, identity, known_job_id
from composerd.http.tenant_quotas import UploadRoom, upload_room
from composerd.models import Artifact, Attachment
from composerd.queue import JobQueue, check_running
from composerd_protocol.content_digest import content_digest, sha256_in


def add_routes(app: web.Application) -> None:
    """Add the route of the upload to the worker API."""
    path = f"{app[BASES].worker}/jobs/{segment('token')}/artifacts/{segment('name', empty=True)}"
    app.router.add_put(path, upload_job_artifact)


@endpoint(
    "UploadJobArtifact",
    "Upload a file of the job",
    description="Upload a file, which the job has once this attempt finishes it. A further upload of the "
    "same name replaces it.",
    request=BYTES,
    responses={200: ("The file is stored completely", schemas.Artifact)},
    takes=("Content-Digest",),
    gives={200: ("Content-Digest",)},
)
async def upload_job_artifact(request: web.Request) -> web.StreamResponse:
    """Store a file, and attach it to the attempt once it is on stable storage.

    The file is in memory one part at a time. Each part renews the lease, at times. The upload ends with the attempt,
    and if it is too slow. If anything fails, nothing of it is attached; a file that was stored already is removed, here
    or by the sweeper. Raises `IncompleteUpload`, `ShorterUpload`, `ArtifactTooLarge`, `InvalidArtifactName`,
    `ArtifactsDisabled`, `StorageFull`, `TooSlow`, the error for the state of an attempt that is not running,
    `QuotaUsedUp` and `QuotaForbids`, and `Unavailable` if there are too many uploads and downloads.
    """
    given = given_token_of(request)
    token = stored_token_of(given)
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
    expected = _content_digest(request)
    with files.transfer(client.get()):
        async with (
            files.allowances.upload(token, name, lambda: queue.uploads.attached(job_id)) as allowance,
            upload_room(queue, job_id) as room,
        ):
            announced = request.content_length or 0
            allowance.check(announced)
            files.space.check(announced)
            await room.grow(announced)
            async with (
                files.upload(job_id, attempt.number, allowance) as upload,
                queue.uploads.while_running(token, job_id, client.get()),
            ):
                await invite(request)
                await _receive(request, token, upload, room)
                artifact = await _complete(queue, token, upload, name)
            if expected is not None and artifact.sha256 != expected:
                await files.remove([artifact.location])
                raise IncompleteUpload(expected_sha256=expected, received_sha256=artifact.sha256)
            limits = files.limits
            whole = request.content_length is not None or expected is not None
            attachment = Attachment(token, artifact, limits.max_files, limits.max_total, whole)
            room.attaching()
            await _attach(queue, files, job_id, attachment)
            allowance.attached()
    return _stored(request, given, artifact)


def _stored(request: web.Request, given: UUID, artifact: Artifact) -> web.StreamResponse:
    """Return the answer that says what is stored: its digest, and as JSON everything to a client that takes JSON."""
    response: web.StreamResponse = web.Response()
    if _takes_json(request.headers.get("Accept", "")):
        href = f"{bases.get().worker}/jobs/{given}/artifacts/{quote(artifact.name, safe='')}"
        response = answer(schemas.artifact(artifact, href))
    response.headers["Content-Digest"] = content_digest(artifact.sha256)
    return response


def _takes_json(accept: str) -> bool:
    """Return True if an Accept header allows JSON.

    A client without this header gets no body, as from osbuild-composer: Go's client closes a connection whose answer
    has a body that nobody reads.
    """
    for one in accept.lower().split(","):
        media, *parameters = (part.strip() for part in one.split(";"))
        if media in ("application/json", "application/*", "*/*"):
            return not any(re.fullmatch(r"q\s*=\s*0(\.0*)?", parameter) for parameter in parameters)
    return False


async def _receive(request: web.Request, token: UUID, upload: Upload, room: UploadRoom) -> None:
    """Write the body of a request into an upload, and renew the lease of the attempt while parts arrive.

    The upload ends at a renewal if the credentials are revoked by then: otherwise it could keep its job without end.
    The room for a body that announces its length is taken already.
    """
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
                    if request.content_length is None:
                        await room.grow(len(part))
                    await upload.write(part)
                    if clock() - renewed_at > renew_after:
                        renewed_at = clock()
                        await request.app[IDENTIFIER].check_not_revoked(request, identity.get())
                        check_running(await queue.touch(token))
    except web.RequestPayloadError as exc:
        raise IncompleteUpload(problem=str(exc)) from None
    if request.content_length is not None and upload.size != request.content_length:
        raise IncompleteUpload(expected=request.content_length, received=upload.size)


async def _complete(queue: JobQueue, token: UUID, upload: Upload, name: str) -> Artifact:
    """Publish an uploaded file.

    If that fails because the attempt is over, and a server has removed its files, the error for its state is raised.
    """
    try:
        return await upload.complete(name)
    except Unavailable:
        check_running(await queue.delivered(token))
        raise


async def _attach(queue: JobQueue, files: Files, job_id: UUID, attachment: Attachment) -> None:
    """Attach a stored file to its attempt, and remove the file that it replaces, or itself if it is refused."""
    location = attachment.artifact.location
    try:
        attached = await queue.uploads.attach(attachment)
        if attached.exceeded is not None:
            raise files.allowances.error(attached.exceeded)
    except (TokenNotFound, AttemptSuperseded, AttemptCanceled, ArtifactTooLarge, ShorterUpload):
        await files.remove([location])
        raise
    except AttemptFinished:  # if an earlier call has attached the file after all, the job has it
        files.leftovers.put_nowait(job_id)
        raise
    if attached.replaced is not None:
        await files.remove([attached.replaced])


def _content_digest(request: web.Request) -> str | None:
    """Return the SHA-256 in the header Content-Digest, or None if there is none. Raises `IncompleteUpload`."""
    try:
        return sha256_in(request.headers.get("Content-Digest", ""))
    except ValueError:
        raise IncompleteUpload(problem="the Content-Digest header is malformed") from None

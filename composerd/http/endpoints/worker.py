"""The worker API: asking for a job, staying alive, reporting, uploading. PROTOCOL: wire compatible with osbuild-composer's worker API."""

import asyncio
import base64
import binascii
import hashlib
from urllib.parse import unquote_to_bytes
from uuid import UUID

import msgspec
from aiohttp import web

from composerd.errors import (
    ArtifactsDisabled,
    ArtifactTooLarge,
    AttemptSuperseded,
    IncompleteUpload,
    InvalidArtifactName,
    InvalidContent,
    TokenNotFound,
    TypeNotAllowed,
)
from composerd.http import schemas
from composerd.http.bodies import read_json
from composerd.http.context import ARTIFACTS, OPTIONS, QUEUE, job_known, segment, wait_of
from composerd.http.delivery import answer, deliver, encode
from composerd.http.errors import InvalidToken, InvalidTokenForStatus, InvalidWorkerId
from composerd.http.openapi import BYTES, operation
from composerd.ids import parse_uuid
from composerd.models import AttemptState, Claimed, Worker
from composerd.queue.dispatcher import keys_for
from composerd.queue.jobqueue import JobQueue, check_running

_REQUEST_JOB = msgspec.json.Decoder(schemas.RequestJob)
_UPDATE_JOB = msgspec.json.Decoder(schemas.UpdateJob)
_POST_WORKERS = msgspec.json.Decoder(schemas.PostWorkers)
_RELEASE_JOB = msgspec.json.Decoder(schemas.ReleaseJob)


class _Result(msgspec.Struct):
    job_error: msgspec.Raw = msgspec.Raw(b"null")


_RESULT = msgspec.json.Decoder(_Result)


def add_routes(app: web.Application, base: str) -> None:
    """Put the worker API's operations on their places."""
    app.router.add_post(f"{base}/jobs", request_job)
    location = f"{base}/jobs/{segment('token')}"
    app.router.add_get(location, get_job)
    app.router.add_patch(location, update_job)
    app.router.add_post(f"{location}/release", release_job)
    app.router.add_post(f"{base}/workers", post_workers)
    app.router.add_post(f"{base}/workers/{segment('worker_id')}/status", post_worker_status)
    app.router.add_put(f"{location}/artifacts/{segment('name', empty=True)}", upload_job_artifact)


@operation(
    "RequestJob",
    "Wait for a job of one of the types, for the arch",
    request=schemas.RequestJob,
    responses={201: ("A job", schemas.RequestJobResponse), 204: ("The wait ended without one", None)},
    query={"wait": "A wait shorter than the server's, at most 10m"},
)
async def request_job(request: web.Request) -> web.StreamResponse:
    """Hold the question until there is a job, and write the answer while the job can still go back."""
    queue = request.app[QUEUE]
    options = request.app[OPTIONS]
    asked = await read_json(request, _REQUEST_JOB, queue.budget)
    if not schemas.is_word(asked.arch):
        raise InvalidContent(field="arch", problem="white space or control characters")
    for index, type in enumerate(asked.types):
        if type in options.undequeueable_types:
            raise TypeNotAllowed(type=type)
        if not schemas.is_word(type):
            raise InvalidContent(field=f"types[{index}]", problem="white space or control characters")
    worker_id = None
    if asked.worker_id is not None and (worker_id := parse_uuid(asked.worker_id)) is None:
        raise InvalidWorkerId(field="worker_id")
    wait = wait_of(request)
    if options.request_job_timeout is not None:
        wait = options.request_job_timeout if wait is None else min(wait, options.request_job_timeout)
    worker = None if worker_id is None else Worker(worker_id, asked.arch, tuple(asked.types))
    claimed = await queue.request(
        keys_for("", asked.types, asked.arch), worker=worker, confirm=asked.confirm, wait=wait
    )
    if claimed is None:
        nothing = web.Response(status=204)
        if queue.draining:
            nothing.force_close()
        return nothing
    try:
        return await _hand_over(request, queue, claimed, confirm=asked.confirm)
    except BaseException:  # whatever it was: the job was not delivered
        queue.give_back(claimed.token)
        raise


async def _hand_over(request: web.Request, queue: JobQueue, claimed: Claimed, *, confirm: bool) -> web.StreamResponse:
    base = request.app[OPTIONS].worker_base
    location = f"{base}/jobs/{claimed.token}"
    job_known.set(str(claimed.job_id))
    handed = schemas.RequestJobResponse(
        kind="RequestJob",
        href=f"{base}/jobs",
        id=str(claimed.job_id),
        type=claimed.key.type,
        location=location,
        artifact_location=f"{location}/artifacts/",
    )
    if claimed.args is not None:
        handed.args = msgspec.Raw(claimed.args)
    if claimed.dependencies:
        results = await queue.results(claimed.dependencies)
        handed.dynamic_args = [msgspec.Raw(b"null" if result is None else result) for result in results]
    body = encode(handed)
    clock = asyncio.get_running_loop().time
    renewed = clock()

    async def progressed() -> None:
        nonlocal renewed
        if confirm and clock() - renewed > queue.options.handover_timeout / 4:
            renewed = clock()
            await queue.delivered(claimed.token)

    with queue.budget.held(len(body)):
        return await deliver(request, 201, body, progressed)


@operation(
    "GetJob",
    "Ask whether to go on; renews the lease",
    responses={200: ("Whether the job was canceled", schemas.JobStatus)},
    query={"wait": "Answer as soon as it is canceled or superseded, or after this wait; at most a third of the lease"},
)
async def get_job(request: web.Request) -> web.StreamResponse:
    """Renew the attempt, and say whether it is still wanted."""
    queue = request.app[QUEUE]
    token = parse_uuid(request.match_info["token"])
    if token is None:
        raise InvalidTokenForStatus
    wait = wait_of(request)
    if wait is None:
        attempt = await queue.touch(token)
    else:
        attempt = await queue.attempt_changed(token, min(wait, queue.options.heartbeat_timeout / 3))
    job_known.set(str(attempt.job_id))
    if attempt.state is AttemptState.FINISHED:
        raise TokenNotFound
    if attempt.state is AttemptState.SUPERSEDED and attempt.confirm:
        raise AttemptSuperseded
    location = f"{request.app[OPTIONS].worker_base}/jobs/{token}"
    canceled = attempt.state is not AttemptState.RUNNING
    return answer(schemas.JobStatus(kind="JobStatus", href=location, id=str(token), canceled=canceled))


@operation(
    "UpdateJob",
    "Finish the job with a result, or report progress",
    request=schemas.UpdateJob,
    responses={200: ("Accepted", schemas.UpdateJobResponse)},
)
async def update_job(request: web.Request) -> web.StreamResponse:
    """Accept an outcome, once, or progress."""
    queue = request.app[QUEUE]
    token = _token(request)
    update = await read_json(request, _UPDATE_JOB, queue.budget)
    if isinstance(update.partial, msgspec.Raw):
        if isinstance(update.result, msgspec.Raw):
            raise InvalidContent(field="partial", problem="result and partial at once")
        await queue.progress(token, bytes(update.partial))
    elif isinstance(update.result, msgspec.Raw):
        result = bytes(update.result)
        await queue.finish(token, result, failed=has_job_error(result))
    elif (await request.read()).strip()[1:-1].strip():
        raise InvalidContent(field="result", problem="neither result nor partial")
    else:
        await queue.finish(token, b"null", failed=False)  # an empty object, as older workers send
    return answer(_update_response(request, token))


@operation(
    "ReleaseJob",
    "Give the job back without counting a retry",
    request=schemas.ReleaseJob,
    responses={200: ("It is in the queue again", schemas.UpdateJobResponse)},
)
async def release_job(request: web.Request) -> web.StreamResponse:
    """Put the job back."""
    queue = request.app[QUEUE]
    token = _token(request)
    if request.body_exists:
        await read_json(request, _RELEASE_JOB, queue.budget)
    await queue.release(token)
    return answer(_update_response(request, token))


@operation(
    "UploadJobArtifact",
    "Upload a file of the job",
    request=BYTES,
    responses={200: ("It is stored whole", None)},
)
async def upload_job_artifact(request: web.Request) -> web.Response:
    """Stream a file in; it becomes the attempt's when all of it is on stable storage."""
    token = _token(request)
    name = artifact_name(request)
    files = request.app[ARTIFACTS]
    if files is None:
        raise ArtifactsDisabled
    queue = request.app[QUEUE]
    limit = request.app[OPTIONS].max_artifact_size
    attempt = await queue.touch(token)
    check_running(attempt)
    assert attempt.job_id is not None
    job_known.set(str(attempt.job_id))
    if (request.content_length or 0) > limit:
        raise ArtifactTooLarge(limit=limit)
    expected = _content_digest(request.headers.get("Content-Digest"))
    renewal = queue.options.handover_timeout / 2
    clock = asyncio.get_running_loop().time
    renewed = clock()
    async with files.upload(attempt.job_id, attempt.number, limit) as upload:
        try:
            async for part in request.content.iter_any():
                await upload.write(part)
                if clock() - renewed > renewal:
                    renewed = clock()
                    check_running(await queue.touch(token))
        except web.RequestPayloadError as exc:
            raise IncompleteUpload(problem=str(exc)) from None
        if request.content_length is not None and upload.size != request.content_length:
            raise IncompleteUpload(expected=request.content_length, received=upload.size)
        artifact = await upload.complete(name)
        if expected is not None and artifact.sha256 != expected:
            await files.remove([artifact.location])
            raise IncompleteUpload(expected_sha256=expected, received_sha256=artifact.sha256)
    try:
        replaced = await queue.attach(token, artifact)
    except (TokenNotFound, AttemptSuperseded):
        await files.remove([artifact.location])
        raise
    if replaced is not None:
        await files.remove([replaced])
    return web.Response()


@operation(
    "postWorkers",
    "Register a worker",
    request=schemas.PostWorkers,
    responses={201: ("Its id", schemas.WorkerID)},
)
async def post_workers(request: web.Request) -> web.StreamResponse:
    """Give a worker an id."""
    queue = request.app[QUEUE]
    asked = await read_json(request, _POST_WORKERS, queue.budget)
    if not schemas.is_word(asked.arch):
        raise InvalidContent(field="arch", problem="white space or control characters")
    worker_id = str(await queue.roster.register(asked.arch))
    href = f"{request.app[OPTIONS].worker_base}/workers"
    return answer(schemas.WorkerID(kind="WorkerID", href=href, id=worker_id, worker_id=worker_id), 201)


@operation("postWorkerStatus", "Give a sign of life", responses={200: ("The worker is known", None)})
async def post_worker_status(request: web.Request) -> web.Response:
    """Hear of a worker; one that is not known registers again. What it says of itself is ignored."""
    worker_id = parse_uuid(request.match_info["worker_id"])
    if worker_id is None:
        raise InvalidWorkerId(field="worker_id")
    await request.app[QUEUE].roster.check(worker_id)
    return web.Response()


def has_job_error(result: bytes) -> bool:
    """Whether a result says that the job failed: an object with a `job_error` that is not null."""
    return result[:1] == b"{" and bytes(_RESULT.decode(result).job_error) != b"null"


def artifact_name(request: web.Request) -> str:
    """The artifact's name, from the path as it was sent. Raises `InvalidArtifactName`."""
    sent = request.raw_path.partition("?")[0].rpartition("/")[2]
    try:
        name = unquote_to_bytes(sent).decode()
    except UnicodeDecodeError:
        raise InvalidArtifactName(problem="not UTF-8") from None
    if not 1 <= len(name.encode()) <= 255:
        raise InvalidArtifactName(problem="1 to 255 bytes")
    if name[0] == "." or "/" in name or "\\" in name or any(ord(char) < 32 or 127 <= ord(char) < 160 for char in name):
        raise InvalidArtifactName(problem="a slash, a backslash, a control character or a leading dot")
    return name


def _content_digest(header: str | None) -> str | None:
    """The sha-256 of a Content-Digest header (RFC 9530), hexadecimal. Raises `IncompleteUpload` for a malformed one."""
    for member in (header or "").split(","):
        algorithm, _, value = member.strip().partition("=")
        if algorithm.lower() == "sha-256":
            try:
                encoded = value.partition(";")[0].strip().removeprefix(":").removesuffix(":")
                digest = base64.b64decode(encoded, validate=True)
            except (binascii.Error, ValueError):
                digest = b""
            if len(digest) != hashlib.sha256().digest_size:
                raise IncompleteUpload(problem="the Content-Digest is malformed")
            return digest.hex()
    return None


def _token(request: web.Request) -> UUID:
    token = parse_uuid(request.match_info["token"])
    if token is None:
        raise InvalidToken
    return token


def _update_response(request: web.Request, token: UUID) -> schemas.UpdateJobResponse:
    location = f"{request.app[OPTIONS].worker_base}/jobs/{token}"
    return schemas.UpdateJobResponse(kind="UpdateJobResponse", href=location, id=str(token))

"""The worker API, as far as it needs the token of an attempt: the lease, progress, the result, a release.

Uploads are in `artifacts`. The wire format is compatible with osbuild-composer's worker API.
"""

from uuid import UUID

import msgspec
from aiohttp import hdrs, web
from msgspec import UNSET

from composerd.errors import AttemptSuperseded, InvalidContent, TokenNotFound
from composerd.http import schemas
from composerd.http.arguments import given_token_of, segment, stored_token_of, wait_of
from composerd.http.bodies import (
    Body,
    check_headers,
    check_size,
    decoded,
    off_loop,
    read_body,
    read_optional_json,
    take_turn,
)
from composerd.http.delivery import answer
from composerd.http.endpoints.artifact_lists import listed_artifacts
from composerd.http.errors import InvalidTokenForStatus
from composerd.http.inspection import Wait
from composerd.http.keys import IDENTIFIER, QUEUE, SETTINGS
from composerd.http.openapi import endpoint
from composerd.http.paths import BASES, bases
from composerd.http.request_context import client, identity, known_job_id
from composerd.http.tenant_quotas import may_wait, open_wait
from composerd.ids import parse_uuid
from composerd.models import Attempt, AttemptState
from composerd.queue import JobQueue, check_running
from composerd_protocol.job_errors import has_job_error

_UPDATE_JOB = msgspec.json.Decoder(schemas.UpdateJob)
_RELEASE_JOB = msgspec.json.Decoder(schemas.ReleaseJob)


def add_routes(app: web.Application) -> None:
    """Add the routes."""
    location = f"{app[BASES].worker}/jobs/{segment('token')}"
    app.router.add_get(location, get_job)
    app.router.add_patch(location, update_job)
    app.router.add_post(location, update_job_with_post)
    app.router.add_post(f"{location}/release", release_job)


@endpoint(
    "GetJob",
    "Renew the lease, and ask whether to go on",
    description="Renew the lease of the attempt. A worker calls this often enough while it works, and "
    "stops when `canceled` is true.",
    responses={200: ("Whether the job was canceled", schemas.JobStatus)},
    query={
        "wait": "Answer when the job is canceled or the attempt superseded, or after this wait; "
        "at most a third of the server's heartbeat timeout"
    },
)
async def get_job(request: web.Request) -> web.StreamResponse:
    """Renew the lease of an attempt, and tell whether its job was canceled.

    An attempt that was superseded gets `canceled: true` too, unless its worker has promised to confirm: such a worker
    knows error 22 (`AttemptSuperseded`). Raises `TokenNotFound` for a finished attempt and an unknown token.
    """
    queue = request.app[QUEUE]
    given = parse_uuid(request.match_info["token"])
    if given is None:
        raise InvalidTokenForStatus
    token = stored_token_of(given)
    try:
        wait = wait_of(request)
    except InvalidContent:
        _check_known(await queue.delivered(token))
        raise
    if wait is None or not may_wait(queue):  # without an error, because the lease has to be renewed in any case
        attempt = await queue.touch(token)
    else:
        with Wait(request), open_wait(queue):
            wait = min(wait, queue.options.heartbeat_timeout / 3)
            attempt = await queue.wait_while_running(token, wait, client.get())
        await request.app[IDENTIFIER].check_again(request, identity.get())
    known_job_id.set(str(attempt.job_id))
    _check_known(attempt)
    location = f"{bases.get().worker}/jobs/{given}"
    canceled = attempt.state is not AttemptState.RUNNING
    return answer(schemas.JobStatus(kind="JobStatus", href=location, id=str(given), canceled=canceled))


def _check_known(attempt: Attempt) -> None:
    """Raise `TokenNotFound` or `AttemptSuperseded` for an attempt that is over in a way that a GET does not show."""
    if attempt.state in (AttemptState.FINISHED, AttemptState.UNKNOWN):
        raise TokenNotFound
    if attempt.state is AttemptState.SUPERSEDED and attempt.confirm:
        raise AttemptSuperseded


async def _check_token(queue: JobQueue, token: UUID) -> None:
    """Raise what `check_running` raises for an attempt that is not running, and renew no lease.

    It is for requests that are refused in any case: others learn the same from the call that does what they ask for.
    """
    check_running(await queue.delivered(token))


@endpoint(
    "UpdateJob",
    "Finish the job with a result, or report progress",
    description="Finish the job with a result, which fails it if it is an object with a `job_error`, or "
    "report progress, which renews the lease.",
    request=schemas.UpdateJob,
    responses={200: ("Accepted", schemas.UpdatedJob)},
)
async def update_job(request: web.Request) -> web.StreamResponse:
    """Accept the outcome of an attempt, or its progress.

    An empty object is the result null, and a null beside the other counts as left out. Raises `InvalidContent` for any
    other body with neither or both of `result` and `partial`, and for `artifacts` that are wrong or not with a result;
    and what `JobQueue.finish` and `JobQueue.progress` raise.
    """
    queue = request.app[QUEUE]
    given = given_token_of(request)
    token = stored_token_of(given)
    check_headers(request)
    if hdrs.EXPECT in request.headers:  # the client has not sent the body yet
        check_size(request, queue.budgets.results)
        attempt = await queue.delivered(token)
        if attempt.state is not AttemptState.FINISHED:  # the same result may be repeated
            check_running(attempt)
    body = await read_body(request, queue.budgets.results)
    await take_turn(request, body)
    try:
        update = await decoded(body, _UPDATE_JOB)
        _settle(update, body)
        artifacts = None
        if update.artifacts is not UNSET and update.result is not UNSET:
            artifacts = await listed_artifacts(update.artifacts, request.app[SETTINGS].max_artifacts)
    except InvalidContent:
        await _check_token(queue, token)  # what is wrong with the token is said first
        raise
    if update.partial is not UNSET:
        await queue.progress(token, await off_loop(len(body), bytes, update.partial))
    elif update.result is not UNSET:
        result, failed = await off_loop(len(body), _outcome, update.result)
        del body, update  # the result is a copy of its part of them
        await queue.finish(token, result, failed=failed, artifacts=artifacts)
    else:
        await queue.finish(token, b"null", failed=False)  # older workers finish with an empty object
    attempt_id = str(given)
    location = f"{bases.get().worker}/jobs/{attempt_id}"
    return answer(schemas.UpdatedJob(kind="UpdateJobResponse", href=location, id=attempt_id))


@endpoint(
    "UpdateJobWithPost",
    "Do the same as UpdateJob, for clients that cannot send PATCH",
    description="Finish the job or report progress, as with PATCH, which some HTTP clients cannot send.",
    request=schemas.UpdateJob,
    responses={200: ("Accepted", schemas.UpdatedJob)},
)
async def update_job_with_post(request: web.Request) -> web.StreamResponse:
    """Do the same as `update_job`: Java's HttpURLConnection, for example, has no PATCH."""
    return await update_job(request)


def _settle(update: schemas.UpdateJob, body: Body) -> None:
    """Treat a null as absent if the other of `result` and `partial` is present. Raises `InvalidContent`.

    That is for both of them, for neither in an object that is not empty, and for artifacts without a result.
    """
    if update.partial is not UNSET and update.result is not UNSET:
        if is_null(update.partial) == is_null(update.result):
            problem = "must not be sent together with result: leave one of them out"
            raise InvalidContent(field="partial", problem=problem)
        for name, value in (("result", update.result), ("partial", update.partial)):
            if is_null(value):
                setattr(update, name, UNSET)
    if update.partial is not UNSET:
        if update.artifacts is not UNSET and not is_null(update.artifacts):
            raise InvalidContent(field="artifacts", problem="must be sent together with result")
    elif update.result is UNSET and body.strip()[1:-1].strip():
        raise InvalidContent(field="result", problem="either result or partial is required")


@endpoint(
    "ReleaseJob",
    "Return the job to the queue without counting a retry",
    description="Return the job to the queue, for another worker, without counting a retry.",
    request=schemas.ReleaseJob,
    responses={200: ("The job is in the queue again", schemas.UpdatedJob)},
)
async def release_job(request: web.Request) -> web.StreamResponse:
    """Return the job of a running attempt to the queue.

    The body may be missing. Raises what `JobQueue.release` raises.
    """
    queue = request.app[QUEUE]
    given = given_token_of(request)
    token = stored_token_of(given)
    try:
        await read_optional_json(request, _RELEASE_JOB)
    except InvalidContent:
        await _check_token(queue, token)
        raise
    await queue.release(token)
    location = f"{bases.get().worker}/jobs/{given}"
    return answer(schemas.UpdatedJob(kind="UpdateJobResponse", href=location, id=str(given)))


def is_null(value: msgspec.Raw) -> bool:
    """Return True if a JSON value is null."""
    return bytes(memoryview(value)[:5]) == b"null"


def _outcome(result: msgspec.Raw) -> tuple[bytes, bool]:
    copy = bytes(result)
    return copy, has_job_error(copy)

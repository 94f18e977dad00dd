"""The worker API: requesting a job. `attempts` has what needs a token, and `registration` what a worker says of itself.

Its wire format is compatible with osbuild-composer's worker API.
"""

import time
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import cast
from uuid import UUID

import msgspec
from aiohttp import web

from composerd.errors import InvalidContent
from composerd.http import schemas
from composerd.http.arguments import wait_of
from composerd.http.bodies import check_headers, decoded, read_body
from composerd.http.connection import HttpConnection
from composerd.http.cut_answers import HandedOver
from composerd.http.delivery import Answer, complete, encode, gone, hang_up, write
from composerd.http.endpoints.registration import check_description
from composerd.http.errors import InvalidWorkerId
from composerd.http.inspection import Wait
from composerd.http.keys import ADMISSION, CUT_ANSWERS, IDENTIFIER, QUEUE, SETTINGS
from composerd.http.openapi import endpoint
from composerd.http.paths import BASES, bases
from composerd.http.request_context import client, identity, known_job_id, request_id
from composerd.http.scope import own_channel
from composerd.http.tenant_quotas import check_wait, open_wait
from composerd.ids import parse_uuid
from composerd.models import AttemptState, Worker
from composerd.queue import PART, SMALL, HandedOut, Piece, Stored, keys_for, size_of

_REQUEST_JOB = msgspec.json.Decoder(schemas.RequestJob)


def add_routes(app: web.Application) -> None:
    """Add the routes."""
    base = app[BASES].worker
    app.router.add_post(f"{base}/jobs", request_job)


@endpoint(
    "RequestJob",
    "Wait for a job of one of the types, for the arch",
    description="Wait until there is a job of one of the types, for the arch or for any, and take it. The "
    "worker then calls `location`.",
    request=schemas.RequestJob,
    responses={201: ("A job", schemas.RequestedJob), 204: ("No job became ready in time", None)},
    query={"wait": "How long to wait, at most 10m; the server may answer sooner"},
)
async def request_job(request: web.Request) -> web.StreamResponse:
    """Wait until there is a job, and write it to the worker. A job that cannot be delivered is released.

    If the client goes away, aiohttp cancels the handler, and the claim of the request with it. Without a job in time,
    or when the server stops, the answer is 204. Raises `TypeNotAllowed`, `InvalidContent`, `InvalidWorkerId`,
    `NotAllowed`, `RequestIdUsed`, `QuotaUsedUp` or `QuotaForbids` if too many requests of the tenant wait, and
    `Unavailable` if too many wait altogether.
    """
    queue = request.app[QUEUE]
    settings = request.app[SETTINGS]
    check_wait(queue)
    check_headers(request)
    sent = await read_body(request)
    body = await decoded(sent, _REQUEST_JOB)
    sender = client.get()
    channel = own_channel(body.channel, identity.get())
    worker = _checked_worker(body, channel, settings.undequeueable_types, sender)
    wait = wait_of(request)
    if wait is None:
        wait = settings.request_job_timeout or None
        if request.app[ADMISSION].clients.is_proxied(request):
            wait = settings.proxied_wait if wait is None else min(wait, settings.proxied_wait)
    keys = keys_for(channel, body.types, body.arch)
    name = _request_id_of(body)
    same = hash((sender, request.raw_path, bytes(sent)))
    cut_answers = request.app[CUT_ANSWERS]
    cut_off = cut_answers.begin(same)
    try:
        if cut_off is not None:
            await queue.release_unconfirmed(cut_off)
        with Wait(request), open_wait(queue):
            claimed = await queue.request(
                keys,
                worker=worker,
                confirm=bool(body.confirm),
                wait=wait,
                client=sender,
                request_id=name,
                slots=body.slots,
                owner=identity.get().key,
            )
    finally:
        cut_answers.end(same)
    if claimed is None:
        return web.Response(status=204)
    try:
        await request.app[IDENTIFIER].check_again(request, identity.get())
        response = await _hand_over(request, claimed, confirm=bool(body.confirm))
        queue.handovers.delivered(claimed, sender, request.remote or "a unix socket")
        if name is None:
            cast(HttpConnection, request.protocol).handed_over = HandedOver(claimed.token, same, bool(body.confirm))
        return response
    except BaseException:  # for whatever reason, the job was not delivered
        queue.release_undelivered(claimed.token, named=name is not None)
        raise
    finally:
        queue.free(claimed, sender)


def _checked_worker(
    body: schemas.RequestJob, channel: str, undequeueable_types: Collection[str], sender: str
) -> Worker | None:
    """Return the worker that a request for a job names, or None.

    Raises `TypeNotAllowed`, `InvalidContent` and `InvalidWorkerId`.
    """
    check_description(body.arch, body.types, undequeueable_types)
    if body.worker_id is None:
        return None
    worker_id = parse_uuid(body.worker_id)
    if worker_id is None:
        raise InvalidWorkerId(field="worker_id")
    return Worker(worker_id, body.arch, tuple(body.types), channel=channel, client=sender)


def _request_id_of(body: schemas.RequestJob) -> UUID | None:
    """Return the id of a request for a job, if it has one. Raises `InvalidContent` for one that is not random."""
    if body.request_id is None:
        return None
    request_id = parse_uuid(body.request_id)
    if request_id is None or request_id.version != 4:
        raise InvalidContent(field="request_id", problem="must be a random UUID (version 4)")
    return request_id


async def _hand_over(request: web.Request, claimed: HandedOut, *, confirm: bool) -> web.StreamResponse:
    """Write a claimed job to its worker. Raises `ConnectionError` if the client has gone."""
    queue = request.app[QUEUE]
    base = bases.get().worker
    token = str(claimed.given)
    location = f"{base}/jobs/{token}"
    job_id = str(claimed.job_id)
    known_job_id.set(job_id)
    job = schemas.RequestedJob(
        kind="RequestJob",
        href=f"{base}/jobs",
        id=job_id,
        type=claimed.key.type,
        location=location,
        token=token,
        artifact_location=f"{location}/artifacts/",
        lease=_lease(queue.options.heartbeat_timeout),
    )
    results = await queue.results(claimed.dependencies) if claimed.dependencies else ()
    if gone(request):
        raise ConnectionResetError("the client has gone")
    if len(claimed.args or b"") + sum(map(size_of, results)) > SMALL:
        return await _hand_over_large(request, claimed, _pieces(job, claimed, results), confirm=confirm)
    if claimed.args is not None:
        job.args = msgspec.Raw(claimed.args)
    if results:
        job.dynamic_args = [msgspec.Raw(result) for result in results if isinstance(result, bytes)]
    response = Answer(201, encode(job))
    complete(response.headers, request_id.get())
    await response.prepare(request)
    return response


@lru_cache(maxsize=4)
def _lease(seconds: float) -> str:
    """Return a lease as a duration that is always in seconds, so that a worker without a parser can read it."""
    return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"


def _pieces(job: schemas.RequestedJob, claimed: HandedOut, results: Sequence[Piece]) -> list[Piece]:
    """Return the JSON of a job in pieces, so that what is large is not copied, or not even read yet."""
    pieces: list[Piece] = [encode(job)[:-1]]
    if claimed.args is not None:
        pieces += (b',"args":', claimed.args)
    separator = b',"dynamic_args":['
    for result in results:
        pieces += (separator, result)
        separator = b","
    pieces.append(b"]}" if results else b"}")
    return pieces


async def _hand_over_large(
    request: web.Request, claimed: HandedOut, pieces: Sequence[Piece], *, confirm: bool
) -> web.StreamResponse:
    """Write a job of any size to its worker, and restart its time to confirm again and again until that is done.

    Raises `ConnectionError` also if the attempt is over before the worker has read its job.
    """
    queue = request.app[QUEUE]
    began = restarted_at = time.monotonic()

    async def go_on() -> None:
        nonlocal restarted_at
        now = time.monotonic()
        over = False
        if confirm and now - restarted_at > queue.options.handover_timeout / 4:
            restarted_at = now
            over = (await queue.delivered(claimed.token)).state is not AttemptState.RUNNING
        if over or (not confirm and now - began > queue.options.heartbeat_timeout):
            hang_up(request, "the attempt was over before its worker had read the job")

    buffered = min(sum(piece.size for piece in pieces if isinstance(piece, Stored)), PART)
    with queue.budgets.claims.held(client.get(), buffered):
        return await write(request, 201, pieces, go_on)

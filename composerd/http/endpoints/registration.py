"""The worker API: what a worker says of itself. It registers, says that it is alive or has a problem, and signs off."""

from collections.abc import Collection, Sequence
from uuid import UUID

import msgspec
from aiohttp import web

from composerd.errors import InvalidContent, TypeNotAllowed
from composerd.http import schemas
from composerd.http.arguments import segment
from composerd.http.bodies import decode, discard_body, read_body, read_json
from composerd.http.delivery import answer
from composerd.http.errors import InvalidWorkerId
from composerd.http.keys import QUEUE, SETTINGS
from composerd.http.openapi import endpoint
from composerd.http.paths import BASES, bases
from composerd.http.request_context import client, identity
from composerd.http.scope import own_channel
from composerd.ids import parse_uuid
from composerd.models import Worker
from composerd_protocol.escaping import escaped
from composerd_protocol.words import is_word

_POST_WORKERS = msgspec.json.Decoder(schemas.PostWorkers)
_WORKER_STATUS = msgspec.json.Decoder(schemas.WorkerStatus)
_ANY_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


def add_routes(app: web.Application) -> None:
    """Add the routes."""
    base = f"{app[BASES].worker}/workers"
    one = f"{base}/{segment('worker_id')}"
    app.router.add_post(base, post_workers)
    app.router.add_delete(one, sign_off_worker)
    app.router.add_post(f"{one}/status", post_worker_status)


@endpoint(
    "postWorkers",
    "Register a worker",
    description="Get an id for a worker, under which the list of workers shows it.",
    request=schemas.PostWorkers,
    responses={201: ("The worker's id", schemas.WorkerID)},
)
async def post_workers(request: web.Request) -> web.StreamResponse:
    """Register a worker, and return its new id. Raises `InvalidContent` and `NotAllowed`."""
    queue = request.app[QUEUE]
    body = await read_json(request, _POST_WORKERS)
    check_description(body.arch, ())
    channel = own_channel(body.channel, identity.get())
    worker_id = str(await queue.roster.register(body.arch, channel, client.get()))
    href = f"{bases.get().worker}/workers"
    return answer(schemas.WorkerID(kind="WorkerID", href=href, id=worker_id, worker_id=worker_id), 201)


@endpoint(
    "postWorkerStatus",
    "Report that the worker is alive",
    description="Keep a worker in the list of workers while it has no job, and say why it asks for none. "
    "A body that is no JSON object is ignored.",
    request=schemas.WorkerStatus,
    responses={200: ("The worker is known", None)},
)
async def post_worker_status(request: web.Request) -> web.Response:
    """Note that a worker is alive, and which problem it has.

    A worker that describes itself is known from then on. Otherwise an unknown one gets an error, and then registers
    again. Raises `InvalidContent`, `InvalidWorkerId`, `NotAllowed`, `TypeNotAllowed` and `WorkerNotFound`.
    """
    worker_id = _worker_id_of(request)
    status = await _status_of(request)
    problem = escaped((status.problem or "").strip())
    roster = request.app[QUEUE].roster
    if status.arch is None or status.types is None:
        channel = own_channel(status.channel, identity.get())
        await roster.check(worker_id, client.get(), problem, channel, owned=bool(identity.get().key))
    else:
        check_description(status.arch, status.types, request.app[SETTINGS].undequeueable_types)
        channel = own_channel(status.channel, identity.get())
        roster.describe(
            Worker(worker_id, status.arch, tuple(status.types), channel, client=client.get(), problem=problem)
        )
    return web.Response()


@endpoint(
    "signOffWorker",
    "Say that the worker ends",
    description="Remove a worker from the list of workers, until it asks for a job again. "
    "Its running jobs stay with it as long as their leases.",
    responses={204: ("The worker is not listed", None)},
    query={"channel": "The channel of the worker; that of the identity if it is left out"},
)
async def sign_off_worker(request: web.Request) -> web.Response:
    """List a worker no longer. The answer is the same for an unknown worker and for one of another client.

    Raises `InvalidContent`, `InvalidWorkerId` and `NotAllowed`.
    """
    worker_id = _worker_id_of(request)
    await discard_body(request)
    channel = own_channel(request.query.get("channel"), identity.get())
    await request.app[QUEUE].sign_off(worker_id, client.get(), channel)
    return web.Response(status=204)


def check_description(arch: str, types: Sequence[str], undequeueable_types: Collection[str] = ()) -> None:
    """Raise `InvalidContent` or `TypeNotAllowed` unless a worker may have this arch and ask for these types."""
    if not is_word(arch):
        raise InvalidContent(field="arch", problem=schemas.NOT_A_WORD)
    for index, type in enumerate(types):
        if type in undequeueable_types:
            raise TypeNotAllowed(type=type)
        if not is_word(type):
            raise InvalidContent(field=f"types[{index}]", problem=schemas.NOT_A_WORD)


def _worker_id_of(request: web.Request) -> UUID:
    worker_id = parse_uuid(request.match_info["worker_id"])
    if worker_id is None:
        raise InvalidWorkerId(field="worker_id")
    return worker_id


async def _status_of(request: web.Request) -> schemas.WorkerStatus:
    """Return what the body of a status says; nothing if it is no JSON object, because older workers may send anything.

    Raises `InvalidContent` if it is one whose fields have bad values.
    """
    body = await read_body(request) if request.body_exists else b""
    try:
        _ANY_OBJECT.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return schemas.WorkerStatus()
    return decode(body, _WORKER_STATUS)

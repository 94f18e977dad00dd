"""Around every endpoint: the boundary that decides what is served, and turns exceptions into predefined errors."""

import logging
import time
from collections.abc import Sequence

from aiohttp import HttpVersion11, hdrs, web

from composerd.errors import (
    BodyTooLarge,
    ComposerdError,
    DriverError,
    InvalidContent,
    NotAllowed,
    NotAuthenticated,
    OutcomeUnknown,
    QuotaUsedUp,
    StorageFull,
    Unavailable,
)
from composerd.host_names import matches
from composerd.http.admission import place_of
from composerd.http.arguments import error_table_of
from composerd.http.bodies import STILL_KNOWN, discard_body
from composerd.http.browsers import BrowserGuard
from composerd.http.delivery import close_after_answer, complete, flush_earlier_answers
from composerd.http.errors import UNSPECIFIED, MethodNotSupported, ResourceNotFound
from composerd.http.identifying import challenge
from composerd.http.keys import ADMISSION, COMPOSER_ERRORS, IDENTIFIER, METRICS, QUEUE, SETTINGS
from composerd.http.lingering import Lingering
from composerd.http.paths import BASES, PREFIX_HEADER, bases, forwarded_prefix
from composerd.http.request_context import client, held_body, identity, request_id
from composerd.http.turns import end_turn
from composerd.ids import new_id_text
from composerd_protocol.escaping import without_uuids

log = logging.getLogger(__name__)

_LONGEST_PATH = 200
"""The most characters of a path in the log."""

_REPEATED = frozenset({"GET", "HEAD"})
"""Methods whose 503 has `Retry-After`. Some clients repeat such requests by themselves, a few of them without end, and
some then send only what is left of a stream."""

_WITHOUT_BODY = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})
"""Methods whose requests need no body. One that is sent is read first, because a handler may wait for long."""


class RequestBoundary:
    """Finds the endpoint of each request, and answers every failure with an error of the API's table.

    It takes the place of the part of aiohttp that calls endpoints and middlewares, so that requests that this would
    refuse get a predefined error too. It decides which requests reach their endpoint. Every answer is counted.
    """

    def __init__(self, app: web.Application) -> None:
        self._app = app
        self._resolve = app.router.resolve
        self._domains: Sequence[str] = app[SETTINGS].allowed_domains
        self._admission = app[ADMISSION]
        self._guard = BrowserGuard(app[SETTINGS])
        self._identifier = app[IDENTIFIER]
        self._queue = app[QUEUE]
        self._gate = app[QUEUE].gate
        self._metrics = app[METRICS]
        self._bases = app[BASES]
        self._health = f"{app[BASES].site}/healthz"
        self._readiness = f"{app[BASES].site}/readyz"
        self._lingering = Lingering(app[SETTINGS])

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Return the answer to a request, whatever happens to it."""
        new_id = new_id_text()
        request_id.set(new_id)
        bases.set(self._bases)
        counted = None
        response: web.StreamResponse
        try:
            try:
                endpoint = await self._resolve(request)
                endpoint.add_app(self._app)
                request._match_info = endpoint  # noqa: SLF001
                try:
                    counted = self._admit(request)
                    if self._identifier.required:
                        await self._identify(request)
                except ComposerdError as exc:
                    if counted is not None:  # a refusal that is held back must not take a place of its client's others
                        self._admission.requests.free(counted)
                        counted = None
                    await self._hold_back(request, exc)
                    raise
                await self._take_turn(request)
                response = await endpoint.handler(request)
            except ComposerdError as exc:
                response = _failure(request, new_id, exc)
            except web.HTTPException as exc:
                response = _http_failure(request, new_id, exc)
            except ConnectionError:
                response = _hang_up(request)  # the client has gone
            except Exception:
                log.exception("%s %s failed with an unexpected exception", request.method, loggable_path(request))
                table = error_table_of(request)
                response = table.response(table.entry(UNSPECIFIED), new_id)
            finally:
                end_turn()
                if (held := held_body.get()) is not None:
                    held_body.set(None)
                    held.free()
            response = self._completed(request, response, new_id)
            if not request.content.is_eof():
                await self._lingering.answer_early(request, response)
            return response
        finally:
            if counted is not None:
                self._admission.requests.free(counted)

    async def _identify(self, request: web.Request) -> None:
        """Find out whose request it is, and raise an error unless that identity may make it."""
        known = self._identifier.recognized(request) or await self._identifier.permitted(request)
        if known is not None:
            identity.set(known)
            client.set(known.key)

    async def _hold_back(self, request: web.Request, refusal: ComposerdError) -> None:
        """Return when it is the turn of a refusal.

        With wrong credentials that is later and later, except of those that have expired: a fleet notices that all at
        once.
        """
        if isinstance(refusal, NotAuthenticated):
            attempts = self._identifier.wrong_attempts
            if refusal.expired:
                attempts.note(client.get(), str(refusal))
            elif refusal.sent and not await attempts.hold(client.get(), str(refusal)):
                close_after_answer(request)
        if (turn := self._gate.enter(client.get())) is not None:  # there may be very many
            await turn

    async def _take_turn(self, request: web.Request) -> None:
        """Wait until it is the client's turn, and leave nothing of earlier requests in memory."""
        if (turn := self._gate.enter(client.get())) is not None:
            await turn
        if hdrs.EXPECT in request.headers:
            _check_expectation(request)
        if _leaves_bytes(request):
            began = time.monotonic()
            await _clear(request)
            if time.monotonic() - began > STILL_KNOWN:  # its credentials may have been revoked while it was in reserve
                await self._identifier.check_again(request, identity.get())

    def _completed(self, request: web.Request, response: web.StreamResponse, new_id: str) -> web.StreamResponse:
        """Return the answer that is to be written, with what every answer has, and count it."""
        if not response.prepared:  # a handler that has written its answer itself has sent the id with it
            if request.writer.output_size:  # failed within an answer: the client would take an error for its rest
                response = _hang_up(request)
            complete(response.headers, new_id)
        self._metrics.served(request.match_info.handler, response.status)
        if self._queue.draining:
            response.force_close()
        return response

    def _admit(self, request: web.Request) -> str | None:
        """Find out whose request it is, and raise an error unless it may be served.

        Returns the client if the request is counted among those that came through trusted proxies.
        """
        place = place_of(request)
        sender = self._admission.clients.of(request) if place.client is None else place.client
        client.set(sender)
        if PREFIX_HEADER in request.headers and self._admission.clients.is_trusted(request.remote):
            bases.set(self._bases.behind(forwarded_prefix(request)))
        if place.surplus or request._message.upgrade:  # noqa: SLF001  # what follows is of another protocol
            close_after_answer(request)
        if self._queue.draining and request.path not in (self._health, self._readiness):
            raise self._admission.stopping()
        self._guard.check(request)
        if self._domains:
            _check_certificate(request, self._domains)
        if (place.client is not None and not place.surplus) or request.path == self._health:
            return None
        if place.surplus:
            raise self._admission.refusal()
        self._admission.requests.take(sender)
        return sender


def _leaves_bytes(request: web.Request) -> bool:
    """Return True if earlier answers, or a body that no endpoint reads, would stay in memory during a wait."""
    if request.method in _WITHOUT_BODY and request.body_exists:
        return True
    return request.transport is not None and request.transport.get_write_buffer_size() > 0


async def _clear(request: web.Request) -> None:
    """Wait until the client has taken its earlier answers, and read a body that no endpoint reads.

    Raises `BodyTooLarge`, `TooSlow`, `ConnectionError`.
    """
    await flush_earlier_answers(request)
    if request.method in _WITHOUT_BODY:
        await discard_body(request)


def loggable_path(request: web.Request) -> str:
    """Return the path, with TOKEN for what may be a token: whoever read one in the log could finish the job.

    The request may have matched no route, so nothing says which part of the path is the token. Only the composer API
    has none.
    """
    path = request.path[:_LONGEST_PATH]
    composer = error_table_of(request) is request.app[COMPOSER_ERRORS]
    return path if composer else without_uuids(path)


def _hang_up(request: web.Request) -> web.Response:
    """Close the connection. The response returned only satisfies aiohttp; nothing of it is sent."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=499)


def _failure(request: web.Request, new_id: str, error: ComposerdError) -> web.Response:
    table = error_table_of(request)
    entry = table.entry_for(error)
    if entry.status >= 500 and not error.logged:
        origin = error.__cause__ if isinstance(error, OutcomeUnknown) else error
        cause = origin.__cause__ if isinstance(origin, DriverError) else None  # the others' messages say everything
        path = loggable_path(request)
        log.warning("%s %s failed: %s: %s", request.method, path, error.code, error, exc_info=cause)
    # Details from the storage may name paths and addresses of the server. They belong in the log, not in the answer.
    internal = isinstance(error, (DriverError, StorageFull)) or (
        isinstance(error, Unavailable) and "limit" not in error.details
    )
    response = table.response(entry, new_id, None if internal else error.details)
    if isinstance(error, QuotaUsedUp) and request.method != "PUT":  # some clients would send the rest of a stream
        response.headers["Retry-After"] = str(error.retry_after)
    elif entry.status == 503 and request.method in _REPEATED:
        response.headers["Retry-After"] = "1"
    if isinstance(error, NotAuthenticated):
        response.headers["WWW-Authenticate"] = challenge(error)
    return response


def _http_failure(request: web.Request, new_id: str, error: web.HTTPException) -> web.StreamResponse:
    """Return the predefined error for what aiohttp has raised; a redirection stays as it is."""
    table = error_table_of(request)
    mapped: ComposerdError
    if isinstance(error, web.HTTPMethodNotAllowed):
        mapped = MethodNotSupported(allowed=sorted(error.allowed_methods))
    elif isinstance(error, web.HTTPRequestEntityTooLarge):
        mapped = BodyTooLarge(limit=request.client_max_size)
    elif error.status < 400:
        return error
    else:
        mapped = _not_found(request)
    response = table.response(table.entry_for(mapped), new_id, mapped.details)
    if "Allow" in error.headers:
        response.headers["Allow"] = error.headers["Allow"]
    return response


def _not_found(request: web.Request) -> ResourceNotFound:
    """Return the error for an unknown path; its details name a superfluous slash, or where the APIs are."""
    path, served = request.path, request.app[BASES]
    if "//" in path:
        return ResourceNotFound(field="path", problem="there are two slashes in a row: send only one")
    if path.endswith("/") and path != "/":
        return ResourceNotFound(field="path", problem="there is a slash at the end: remove it")
    if not path.startswith((f"{served.worker}/", f"{served.composer}/")):
        known = bases.get()
        problem = f"the APIs are below {known.worker} and {known.composer}: compare the URL of the server"
        return ResourceNotFound(field="path", problem=problem)
    return ResourceNotFound()


def _check_expectation(request: web.BaseRequest) -> None:
    """Raise `InvalidContent` for an unknown expectation. `100-continue` is met when the body is read."""
    if request.version >= HttpVersion11 and request.headers[hdrs.EXPECT].lower() != "100-continue":
        raise InvalidContent(field="Expect", problem="only 100-continue is supported")


def _check_certificate(request: web.BaseRequest, domains: Sequence[str]) -> None:
    """Raise `NotAllowed` for a TLS client whose certificate has no DNS name in one of the domains.

    Connections without TLS are let through: if client certificates are required, they come through a unix socket.
    """
    certificate = request.get_extra_info("peercert")
    if certificate is not None:
        names = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"]
        if not any(matches(name, domain) for name in names for domain in domains):
            raise NotAllowed(certificate_names=names, problem="none of them is in an allowed domain")

"""Sends requests to one server, and repeats them with backoff and jitter if that is safe."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

import msgspec

from composerd_client.errors import ClientError, ProxyAnswered, RequestFailed, ServerUnreachable, UnexpectedAnswer
from composerd_client.hedging import first_answer
from composerd_client.repeating import Backoff, may_pass, nothing_done
from composerd_protocol.units import format_size

if TYPE_CHECKING:
    from composerd_client.transport import Response, Transport

DEFAULT_SERVER = "http://127.0.0.1:8700"

_ANSWER_WITHIN = 60.0
"""Seconds that an answer may take if the server was not asked to wait."""

_ANSWER_AFTER_WAIT = 20.0
"""Seconds that an answer may take after the time that the server was asked to wait, which counts as 20 s at least."""

LARGEST_PAYLOAD = 1024 * 1024**2
"""Bytes of the largest answer that has args or results: the most that a server can be set to accept."""

_LARGEST_ANSWER = 64 * 1024**2
"""Bytes of the largest answer without args and results, such as a page of a listing."""

T = TypeVar("T")

UNDECODABLE = (msgspec.DecodeError, RecursionError, ValueError)
"""Errors of msgspec for JSON that is invalid, nested too deeply, or has a number of too many digits."""


class Answer(NamedTuple):
    """An answer with a status below 400."""

    status: int
    body: bytes


class Connection:
    """Sends requests to one server. Use it as an async context manager.

    `server` is a URL (`http://host:8700`, `https://host/prefix`) or `unix:/path`. While the server cannot be reached or
    is unavailable, a request that is safe to repeat is repeated for `patience` seconds. For https, `ca_file` has the
    certificate of the CA that signed the server's certificate, unless the system trusts that CA anyway; `cert_file` and
    `key_file` have the client's own certificate and key, for a server that requires them. All three are PEM files.
    Raises `ValueError` if one of these is invalid.
    """

    def __init__(
        self,
        server: str = DEFAULT_SERVER,
        patience: float = 0.0,
        *,
        ca_file: Path | str | None = None,
        cert_file: Path | str | None = None,
        key_file: Path | str | None = None,
    ) -> None:
        # Imported here, because yarl and ssl take a third of the time that the package may take to import.
        from composerd_client.address import Address  # noqa: PLC0415
        from composerd_client.tls import tls_context  # noqa: PLC0415

        self.server = server
        self.patience = patience
        self._transport: Transport | None = None
        self._address = Address(server)
        self._tls = tls_context(ca_file, cert_file, key_file) if self._address.https else None

    async def __aenter__(self) -> Self:
        # Imported here, because aiohttp takes more time to import than everything else together.
        from composerd_client.transport import Transport  # noqa: PLC0415

        self._transport = Transport(self._address, self._tls)
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _exc: BaseException | None, _tb: TracebackType | None
    ) -> None:
        if self._transport is not None:
            await self._transport.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        query: Mapping[str, str | Sequence[str]] | None = None,
        wait: float = 0.0,
        repeat: bool | None = None,
        patience: float | None = None,
        largest: int = _LARGEST_ANSWER,
        answer_within: float | None = None,
        again_after: Sequence[float] = (),
        backoff: Backoff | None = None,
        on_failure: Callable[[ClientError], None] | None = None,
    ) -> Answer:
        """Send a request with a JSON body or none, and return the answer.

        `wait` is the number of seconds that the server was asked to wait before it answers. `repeat` allows sending the
        request again even if the server, or a proxy in front of it, may have processed it before it failed; by default
        this is allowed for GET. `answer_within` replaces the seconds that an answer may take; after silence they are
        doubled, up to a minute. While there is no answer, the request is sent again after each pause of `again_after`:
        on a new connection, and without the query, so that the server does not wait. `backoff` replaces the one for the
        patience, and `on_failure` is called before each repetition. Raises `RequestFailed`, `ServerUnreachable`, and
        `UnexpectedAnswer` if the answer has more bytes than `largest`.
        """
        if repeat is None:
            repeat = method == "GET"
        headers = {} if body is None else {"Content-Type": "application/json"}
        if answer_within is None:
            answer_within = _ANSWER_AFTER_WAIT + max(wait, _ANSWER_AFTER_WAIT) if wait else _ANSWER_WITHIN
        backoff = backoff or Backoff(self.patience if patience is None else patience)

        async def send(again: bool) -> Answer:
            asked = None if again else query
            async with self.open(
                method, path, body=body, query=asked, headers=headers, answer_within=answer_within, fresh=again
            ) as response:
                answer = await response.read(largest)
                if answer is None:
                    raise UnexpectedAnswer(f"the answer has more than {format_size(largest)}: it was not read")
                return Answer(response.status, answer)

        while True:
            try:
                return await first_answer(send, again_after)
            except ServerUnreachable as exc:
                if exc.sent and not repeat:
                    raise  # the server may have processed it
                failure: ClientError = exc
                answer_within = max(answer_within, min(answer_within * 2, _ANSWER_WITHIN))
            except RequestFailed as exc:
                if not may_pass(exc) or not (repeat or nothing_done(exc)):
                    raise
                failure = exc
            await backoff.failed(failure, on_failure)

    async def answers(self, path: str) -> bool:
        """Return True if composerd itself answers a GET, with whatever status."""
        try:
            await self.request("GET", path, patience=0.0)
        except ClientError as exc:
            return isinstance(exc, RequestFailed) and not isinstance(exc, ProxyAnswered)
        return True

    @asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: Mapping[str, str | Sequence[str]] | None = None,
        headers: Mapping[str, str] | None = None,
        answer_within: float | None = None,
        fresh: bool = False,
    ) -> "AsyncIterator[Response]":
        """Send one request, and yield its answer with the body unread; see `Transport.open`."""
        assert self._transport is not None, "a connection has to be used as an async context manager"
        async with self._transport.open(
            method, path, body=body, query=query, headers=headers, answer_within=answer_within, fresh=fresh
        ) as response:
            yield response


def decoded(answer: bytes, decoder: "msgspec.json.Decoder[T]") -> T:
    """Decode an answer of the server. Raises `UnexpectedAnswer` if that fails."""
    try:
        return decoder.decode(answer)
    except UNDECODABLE as exc:
        raise UnexpectedAnswer(f"the answer is not from composerd, or from a much newer version: {exc}") from exc

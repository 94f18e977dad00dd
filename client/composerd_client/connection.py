"""Sends requests to one server, and repeats them with backoff and jitter if that is safe."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar

import msgspec

from composerd_client.answers import UNDECODABLE, Expected
from composerd_client.errors import (
    ClientError,
    ProxyAnswered,
    RequestFailed,
    ServerNotTrusted,
    ServerUnreachable,
    TokenRefused,
    UnexpectedAnswer,
)
from composerd_client.hedging import first_answer
from composerd_client.outages import Outages
from composerd_client.repeating import FOREVER, Backoff, may_pass, not_let_in, nothing_done
from composerd_client.waits import Waits
from composerd_protocol.options import DEFAULT_SERVER
from composerd_protocol.units import format_duration, format_size

if TYPE_CHECKING:
    from composerd_client.credentials.tokens import Credentials
    from composerd_client.transport import Transport

_ANSWER_WITHIN = 60.0
"""Seconds that an answer may take if the server was not asked to wait."""

_ANSWER_AFTER_WAIT = 20.0
"""Seconds that an answer may take after the time that the server was asked to wait, which counts as 20 s at least."""

LARGEST_PAYLOAD = 1024 * 1024**2
"""Bytes of the largest answer that has args or results: the most that a server can be set to accept."""

_LARGEST_ANSWER = 64 * 1024**2
"""Bytes of the largest answer without args and results, such as a page of a listing."""

T = TypeVar("T")


class Answer(NamedTuple):
    """composerd's answer to a request that has succeeded."""

    status: int
    body: bytes
    wait: float = 0.0
    """Seconds that the server was asked to wait."""


class Connection:
    """Sends requests to one server. Use it as an async context manager.

    `server` is a URL (`http://host:8700`, `https://host/prefix`) or `unix:/path`. While the server cannot be reached or
    is unavailable, a request that is safe to repeat is repeated for `patience` seconds. For https, `ca_file` has the
    certificate of the CA that signed the server's certificate, unless the system trusts that CA anyway; `cert_file` and
    `key_file` have the client's own certificate and key, for a server that requires them. All three are PEM files, and
    are read again when they change. `proxy` is the URL of an HTTP proxy, or empty for none; by default the environment
    names it (`http_proxy`, `https_proxy` and `no_proxy`). `credentials` have the token that says who the client is.
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
        proxy: str | None = None,
        credentials: "Credentials | None" = None,
    ) -> None:
        # Imported here, because yarl and ssl take a third of the time that the package may take to import.
        from composerd_client.address import Address  # noqa: PLC0415
        from composerd_client.credentials.sending import check_sendable  # noqa: PLC0415
        from composerd_client.forward_proxy import forward_proxy  # noqa: PLC0415
        from composerd_client.tls import TlsFiles  # noqa: PLC0415

        self.patience = patience
        self.outages = Outages()
        self._waits = Waits()
        self._transport: Transport | None = None
        self._address = Address(server)
        self.server = self._address.server
        """The address for messages."""
        self._tls = TlsFiles(ca_file, cert_file, key_file) if self._address.https else None
        self._proxy = forward_proxy(proxy, self._address)
        self._credentials = credentials
        self._was_let_in = False
        """True once the server has done something for this client."""
        if credentials is not None:
            if self._address.has_login:
                raise ValueError(
                    f"the URL {self._address.server} has a login, which would replace the token: leave one out"
                )
            check_sendable(self._address, self._proxy, "the token", insecure_http=credentials.insecure_http)

    async def __aenter__(self) -> Self:
        # Imported here, because aiohttp takes more time to import than everything else together.
        from composerd_client.transport import Transport  # noqa: PLC0415

        if self._transport is not None:
            raise RuntimeError(
                "it is open already: use it in one `async with` block, or `run` a worker once, at a time"
            )
        self._transport = Transport(self._address, self._tls, self._proxy, self._credentials)
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _exc: BaseException | None, _tb: TracebackType | None
    ) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.close()

    @property
    def transport(self) -> "Transport":
        """The transport for single requests, whose bodies and answers may be large files."""
        if self._transport is None:
            raise RuntimeError("the client is not open: use it within `async with`")
        return self._transport

    async def request(
        self,
        method: str,
        path: str,
        expected: Expected,
        *,
        body: bytes | None = None,
        query: Mapping[str, str | Sequence[str]] | None = None,
        wait: float = 0.0,
        repeat: bool | None = None,
        patience: float | None = None,
        small: bool = False,
        largest: int = _LARGEST_ANSWER,
        answer_within: float | None = None,
        again_after: Sequence[float] = (),
        backoff: Backoff | None = None,
        doing: str = "",
    ) -> Answer:
        """Send a request with a JSON body or none, and return the answer, which is one of those that are expected.

        The server is asked to `wait` for so many seconds before it answers, or less if something in between ends such
        waits. `repeat` allows sending the request again even if the server, or a proxy in front of it, may have
        processed it before it failed; by default this is allowed for GET. If the body is `small`, a proxy that refuses
        it as too large is out of order, and the request is repeated. `answer_within` replaces the seconds that an
        answer may take; after silence they are doubled, up to a minute. While there is no answer, the request is sent
        again after each pause of `again_after`: on a new connection, and without a wait. `backoff` replaces the one for
        the patience, and `doing` says in the log what cannot be done meanwhile. If that never gives up, neither do
        refused tokens end it once the server has let this client in: somebody may be changing tokens or rights. Raises
        `RequestFailed`, of which `repeated` is set if the request may have been processed before, `TokenRefused` and
        `ServerUnreachable`.
        """
        repeats = method == "GET" if repeat is None else repeat
        patience = self.patience if patience is None else patience
        gives_up = backoff is None and patience < FOREVER
        backoff = backoff or Backoff(patience)
        asked = 0.0
        usual = _ANSWER_AFTER_WAIT + max(wait, _ANSWER_AFTER_WAIT) if wait else _ANSWER_WITHIN
        within = usual if answer_within is None else answer_within

        async def send(again: bool) -> Answer:
            return await self._once(
                method,
                path,
                expected,
                body=body,
                query=query,
                wait=0.0 if again else asked,
                largest=largest,
                answer_within=within,
                fresh=again,
            )

        unknown = False
        with self.outages.of(doing or f"send {method} {path}") as outage:
            while True:
                began = time.monotonic()
                asked = self._waits.allowed(wait) if wait else 0.0
                try:
                    answer = await first_answer(send, again_after)
                except ServerUnreachable as exc:
                    if exc.sent and not repeats:
                        raise  # the server may have processed it
                    if gives_up and isinstance(exc, ServerNotTrusted) and not exc.sent:
                        raise  # a certificate that is not trusted seldom becomes so
                    unknown = unknown or exc.sent
                    failure: ClientError = exc
                    within = max(within, min(within * 2, _ANSWER_WITHIN))
                except (RequestFailed, TokenRefused) as exc:
                    if isinstance(exc, RequestFailed):
                        exc.repeated = unknown
                    if not self._goes_on(exc, None if small else body, repeat=repeats, gives_up=gives_up):
                        raise
                    unknown = unknown or not nothing_done(exc)
                    failure = exc
                else:
                    self._was_let_in = True
                    if asked:
                        self._waits.answered()
                    return answer
                if not (asked and self._waits.ended(asked, time.monotonic() - began, failure)):
                    await backoff.failed(failure, outage.failed)

    def _goes_on(self, error: ClientError, body: bytes | None, *, repeat: bool, gives_up: bool) -> bool:
        """Return True if a request that was refused is sent again."""
        passes = isinstance(error, RequestFailed) and may_pass(error, body)
        if not passes and (gives_up or not self.lets_in_again(error)):
            return False
        return repeat or nothing_done(error)

    async def _once(
        self,
        method: str,
        path: str,
        expected: Expected,
        *,
        body: bytes | None,
        query: Mapping[str, str | Sequence[str]] | None,
        wait: float,
        largest: int,
        answer_within: float,
        fresh: bool,
    ) -> Answer:
        """Send a request once, and return the answer."""
        headers = {} if body is None else {"Content-Type": "application/json"}
        if wait:
            query = {**(query or {}), "wait": format_duration(round(wait, 3))}
        async with self.transport.open(
            method, path, body=body, query=query, headers=headers, answer_within=answer_within, fresh=fresh
        ) as response:
            content = await response.read(largest)
            if content is None:
                raise response.refused(f"the answer has more than {format_size(largest)}: it was not read")
            problem = expected.problem(response.status, response.headers, content)
            if problem is not None:
                raise response.refused(problem, content)
            return Answer(response.status, content, wait)

    def lets_in_again(self, error: ClientError) -> bool:
        """Return True if the server refuses who this client is, and did not before; so it may let it in again."""
        return self._was_let_in and not_let_in(error)

    async def answers(self, path: str, expected: Expected) -> bool:
        """Return True if composerd itself answers a GET, with an answer that is expected or an error."""
        try:
            await self.request("GET", path, expected, patience=0.0)
        except ClientError as exc:
            return isinstance(exc, RequestFailed) and not isinstance(exc, ProxyAnswered)
        return True

    def usable(self, path: str) -> str | None:
        """Return what is wrong with a path that the server names, or None."""
        try:
            self._address.url(path)
        except UnexpectedAnswer as exc:
            return str(exc)
        return None


def decoded(answer: bytes, decoder: "msgspec.json.Decoder[T]") -> T:
    """Decode an answer of the server. Raises `UnexpectedAnswer` if that fails."""
    try:
        return decoder.decode(answer)
    except UNDECODABLE as exc:
        raise UnexpectedAnswer(f"the answer is not from composerd, or from a much newer version: {exc}") from exc

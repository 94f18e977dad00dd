"""Sends requests to one server over TCP or a unix socket, and repeats them with backoff and jitter if that is safe."""

import io
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import aiohttp
import msgspec
from yarl import URL

from composerd.client.address import Address, tls_context
from composerd.client.errors import (
    ClientError,
    OutcomeUnknown,
    ProxyAnswered,
    RequestFailed,
    ServerNotTrusted,
    ServerUnreachable,
    UnexpectedAnswer,
)
from composerd.client.proxies import REQUEST_ID_HEADER, proxy_answer
from composerd.client.repeating import Backoff, may_pass, nothing_done
from composerd.escaping import without_tokens
from composerd.units import format_size

DEFAULT_SERVER = "http://127.0.0.1:8700"

_ANSWER_WITHIN = 60.0
"""Seconds that an answer may take if the server was not asked to wait."""

_ANSWER_AFTER_WAIT = 20.0
"""Seconds that an answer may take after the time that the server was asked to wait, which counts as 20 s at least."""

LARGEST_PAYLOAD = 1024 * 1024**2
"""Bytes of the largest answer that has args or results: the most that a server can be set to accept."""

_LARGEST_ANSWER = 64 * 1024**2
"""Bytes of the largest answer without args and results, such as a page of a listing."""

_LARGEST_ERROR = 64 * 1024
"""Bytes of the largest body of an error; a larger one is not read."""

_MOST_REDIRECTS = 5
"""Number of redirects of one request that are followed."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})

T = TypeVar("T")

_LARGE = 512 * 1024
"""Size in bytes above which a body is sent in parts."""

_OUTCOME_UNKNOWN = 40
"""Number of the error of a server that does not know whether a change was stored."""

_UNDECODABLE = (msgspec.DecodeError, RecursionError, ValueError)
"""Errors of msgspec for JSON that is invalid, nested too deeply, or has a number of too many digits."""

_CLOSED = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientConnectionResetError)
"""Errors of a connection that the server has closed."""


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

    The server is not trusted with more than its answers. A path that it names is used only if it is on this server, and
    a redirect is followed only for GET and to this server. Answers have limits, are never decompressed, and set no
    cookies. A proxy that the environment names is not used, because it would get the args and the tokens.
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
        self.server = server
        self.patience = patience
        self._session: aiohttp.ClientSession | None = None
        self._address = Address(server)
        self._tls = tls_context(ca_file, cert_file, key_file) if self._address.https else None

    async def __aenter__(self) -> Self:
        path = self._address.socket_path
        connector = (
            aiohttp.TCPConnector(limit=0, ssl=self._tls or True)
            if path is None
            else aiohttp.UnixConnector(path, limit=0)
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None),
            headers={"Accept-Encoding": "identity"},
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _exc: BaseException | None, _tb: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        query: Mapping[str, str] | None = None,
        wait: float = 0.0,
        repeat: bool | None = None,
        patience: float | None = None,
        largest: int = _LARGEST_ANSWER,
        backoff: Backoff | None = None,
        on_failure: Callable[[ClientError], None] | None = None,
    ) -> Answer:
        """Send a request with a JSON body or none, and return the answer.

        `wait` is the number of seconds that the server was asked to wait before it answers. `repeat` allows sending the
        request again even if the server, or a proxy in front of it, may have processed it before it failed; by default
        this is allowed for GET. `backoff` replaces the one for the patience, and `on_failure` is called before each
        repetition. Raises `RequestFailed`, `ServerUnreachable`, and `UnexpectedAnswer` if the answer has more bytes
        than `largest`.
        """
        if repeat is None:
            repeat = method == "GET"
        headers = {} if body is None else {"Content-Type": "application/json"}
        answer_within = _ANSWER_AFTER_WAIT + max(wait, _ANSWER_AFTER_WAIT) if wait else _ANSWER_WITHIN
        backoff = backoff or Backoff(self.patience if patience is None else patience)
        while True:
            try:
                async with self.open(
                    method, path, data=as_data(body), params=query, headers=headers, answer_within=answer_within
                ) as response:
                    answer = await read_answer(response, largest)
                    if answer is None:
                        raise UnexpectedAnswer(f"the answer has more than {format_size(largest)}: it was not read")
                    return Answer(response.status, answer)
            except ServerUnreachable as exc:
                if not repeat and not isinstance(exc.__cause__, aiohttp.ClientConnectorError):
                    raise  # the server may have processed it
                failure: ClientError = exc
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
        self, method: str, path: str, *, answer_within: float | None = None, **kwargs: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send one request, and yield its answer with the body unread.

        Raises `RequestFailed`, which is a `ProxyAnswered` for any answer without composerd's request id,
        `ServerUnreachable`, and `UnexpectedAnswer` if the path is not one on this server, or if the answer is
        compressed.
        """
        assert self._session is not None, "a connection has to be used as an async context manager"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=answer_within)
        url = self._address.url(path)
        redirects_left = _MOST_REDIRECTS if method == "GET" else 0
        try:
            while True:
                async with self._session.request(
                    method, url, timeout=timeout, allow_redirects=False, **kwargs
                ) as response:
                    if response.status < 300 and REQUEST_ID_HEADER in response.headers:
                        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                            raise UnexpectedAnswer("the answer is compressed, which was not asked for")
                        yield response
                        return
                    target = _target(url, response) if redirects_left else None
                    if target is None:
                        raise await _failure(response)
                    url = target
                    redirects_left -= 1
                    kwargs.pop("params", None)  # the new URL has a query of its own
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise self._unreachable(exc) from exc

    def _unreachable(self, error: Exception) -> ServerUnreachable:
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            why = getattr(error.certificate_error, "verify_message", "") or error.certificate_error
            return ServerNotTrusted(f"{self.server} cannot be reached: its certificate is not trusted: {why}")
        if self._tls is not None and type(error) in _CLOSED:
            # With TLS 1.3 a server rejects the client's certificate only after the client has finished the handshake.
            return ServerNotTrusted(f"{self.server} closed the connection: it may not trust this client's certificate")
        return ServerUnreachable(f"{self.server} cannot be reached: {without_tokens(_described(error))}")


def decoded(answer: bytes, decoder: "msgspec.json.Decoder[T]") -> T:
    """Decode an answer of the server. Raises `UnexpectedAnswer` if that fails."""
    try:
        return decoder.decode(answer)
    except _UNDECODABLE as exc:
        raise UnexpectedAnswer(f"the answer is not from composerd, or from a much newer version: {exc}") from exc


async def read_answer(response: aiohttp.ClientResponse, largest: int) -> bytes | None:
    """Return the body of an answer, or None if it is larger than `largest`, of which no more is read."""
    if (response.content_length or 0) > largest:
        return None
    body = bytearray()
    async for part in response.content.iter_any():
        body += part
        if len(body) > largest:
            return None
    return bytes(body)


def as_data(body: bytes | None) -> io.BytesIO | bytes | None:
    """Return a body for aiohttp; a large one as a file, so that it is sent in parts."""
    return io.BytesIO(body) if body is not None and len(body) > _LARGE else body


def _target(url: URL, response: aiohttp.ClientResponse) -> URL | None:
    """Return the URL that an answer redirects to; None unless it is on the same server."""
    location = response.headers.get("Location", "")
    with suppress(ValueError):
        target = url.join(URL(location))
        if response.status in _REDIRECTS and location and target.origin() == url.origin():
            return target
    return None


async def _failure(response: aiohttp.ClientResponse) -> RequestFailed:
    """Return the error for an answer that is not a success, or not from composerd."""
    status = response.status
    location = response.headers.get("Location", "")[:100]
    body = await read_answer(response, _LARGEST_ERROR) or b""
    if REQUEST_ID_HEADER not in response.headers:
        moved = f"it redirects to {without_tokens(location)!r}; if composerd is there, change the URL of the server"
        return proxy_answer(status, response.headers, body, response.method, moved if location else None)
    try:
        decoded = msgspec.json.decode(body, type=dict[str, Any])
    except _UNDECODABLE:
        decoded = {}
    if status < 400:
        reason = f"HTTP {status}: not redirected to {location!r}; only GET is, and only on the same server"
        return RequestFailed(status, {"reason": reason})
    failed = RequestFailed(status, decoded)
    return OutcomeUnknown(status, decoded) if failed.number == _OUTCOME_UNKNOWN else failed


def _described(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.strerror or str(error.os_error)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__

"""Sends requests to one server over TCP or a unix socket, and repeats them with backoff and jitter if that is safe."""

import asyncio
import io
import random
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import aiohttp
import msgspec
from yarl import URL

from composerd.client.errors import OutcomeUnknown, RequestFailed, ServerNotTrusted, ServerUnreachable, UnexpectedAnswer
from composerd.escaping import without_tokens
from composerd.units import format_size

DEFAULT_SERVER = "http://127.0.0.1:8700"

FIRST_BACKOFF = 0.1
"""Seconds of the first pause before a request is repeated."""

LONGEST_BACKOFF = 10.0
"""Seconds of the longest pause before a request is repeated."""

_ANSWER_WITHIN = 60.0
"""Seconds that an answer may take, in addition to the time that the server was asked to wait."""

LARGEST_PAYLOAD = 1024 * 1024**2
"""Bytes of the largest answer that has args or results: the most that a server can be set to accept."""

_LARGEST_ANSWER = 64 * 1024**2
"""Bytes of the largest answer without args and results, such as a page of a listing."""

_LARGEST_ERROR = 64 * 1024
"""Bytes of the largest body of an error; a larger one is not read."""

_MOST_REDIRECTS = 5
"""Number of redirects of one request that are followed."""

_SHORTEST_ROUND = 0.1
"""Seconds from one request that asks the server to wait to the next one, even if the server answers at once."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})

_PATH = re.compile(r"/(?![/\\])[^\s\\\x00-\x1f\x7f-\x9f]*")
"""A path on the server, without anything that could be read as the name of another one."""

T = TypeVar("T")

_LARGE = 512 * 1024
"""Size in bytes above which a body is sent in parts."""

_NOTHING_DONE = frozenset({503, 507})
"""Statuses of a server that is unavailable, stopping or full, and has not done anything."""

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

    `server` is a URL (`http://host:8700`, `https://…`) or `unix:/path`. While the server cannot be reached or is
    unavailable, a request that is safe to repeat is repeated for `patience` seconds. For https, `ca_file` has the
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
        self._socket_path, self._base = _parse(server)
        self._tls = _tls(ca_file, cert_file, key_file) if self._base.startswith("https://") else None

    async def __aenter__(self) -> Self:
        path = self._socket_path
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
    ) -> Answer:
        """Send a request with a JSON body or none, and return the answer.

        `wait` is the number of seconds that the server was asked to wait before it answers. `repeat` allows sending the
        request again even if the server, or a proxy in front of it, may have processed it before it failed; by default
        this is allowed for GET. Raises `RequestFailed`, `ServerUnreachable`, and `UnexpectedAnswer` if the answer has
        more bytes than `largest`.
        """
        if repeat is None:
            repeat = method == "GET"
        headers = {} if body is None else {"Content-Type": "application/json"}
        backoff = Backoff(self.patience if patience is None else patience)
        while True:
            try:
                async with self.open(
                    method, path, data=as_data(body), params=query, headers=headers, answer_within=wait + _ANSWER_WITHIN
                ) as response:
                    answer = await _read(response, largest)
                    if answer is None:
                        raise UnexpectedAnswer(f"the answer has more than {format_size(largest)}: it was not read")
                    return Answer(response.status, answer)
            except ServerUnreachable as exc:
                if not repeat and not isinstance(exc.__cause__, aiohttp.ClientConnectorError):
                    raise  # the server may have processed it
                await backoff.failed(exc)
            except RequestFailed as exc:
                if exc.status < 500 or not (repeat or exc.status in _NOTHING_DONE):
                    raise
                await backoff.failed(exc)

    @asynccontextmanager
    async def open(
        self, method: str, path: str, *, answer_within: float | None = None, **kwargs: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send one request, and yield its answer with the body unread.

        Raises `RequestFailed`, `ServerUnreachable`, and `UnexpectedAnswer` if the path is not one on this server, or if
        the answer is compressed.
        """
        assert self._session is not None, "a connection has to be used as an async context manager"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=answer_within)
        url = self._url(path)
        redirects_left = _MOST_REDIRECTS if method == "GET" else 0
        try:
            while True:
                async with self._session.request(
                    method, url, timeout=timeout, allow_redirects=False, **kwargs
                ) as response:
                    if response.status < 300:
                        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                            raise UnexpectedAnswer("the answer is compressed, which was not asked for")
                        yield response
                        return
                    if response.status >= 400:
                        raise _failure(response.status, await _read(response, _LARGEST_ERROR) or b"")
                    url = self._redirected(url, response, redirects_left)
                    redirects_left -= 1
                    kwargs.pop("params", None)  # the new URL has a query of its own
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise self._unreachable(exc) from exc

    def _url(self, path: str) -> URL:
        """Return the URL of a path, which may be one that the server has named."""
        if not _PATH.fullmatch(path):
            raise UnexpectedAnswer(f"the server names {path[:100]!r}, which is not a path on {self.server}")
        return URL(self._base + path)

    def _redirected(self, url: URL, response: aiohttp.ClientResponse, left: int) -> URL:
        """Return the URL of a redirect. Raises `RequestFailed` if it must not be followed."""
        location = response.headers.get("Location", "")
        with suppress(ValueError):
            target = url.join(URL(location))
            if response.status in _REDIRECTS and left and location and target.origin() == url.origin():
                return target
        reason = (
            f"HTTP {response.status}: not redirected to {location[:100]!r}; only GET is, and only on the same server"
        )
        raise RequestFailed(response.status, {"reason": reason})

    def _unreachable(self, error: Exception) -> ServerUnreachable:
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            why = getattr(error.certificate_error, "verify_message", "") or error.certificate_error
            return ServerNotTrusted(f"{self.server} cannot be reached: its certificate is not trusted: {why}")
        if self._tls is not None and type(error) in _CLOSED:
            # With TLS 1.3 a server rejects the client's certificate only after the client has finished the handshake.
            return ServerNotTrusted(f"{self.server} closed the connection: it may not trust this client's certificate")
        return ServerUnreachable(f"{self.server} cannot be reached: {without_tokens(_described(error))}")


class Backoff:
    """Pauses between attempts to reach a server.

    Each pause is longer than the one before, and partly random, so that many clients do not return at the same moment.
    """

    def __init__(self, patience: float = float("inf")) -> None:
        self._deadline = asyncio.get_running_loop().time() + patience
        self._pause = FIRST_BACKOFF

    async def failed(self, error: Exception) -> None:
        """Wait before the next attempt; raise `error` instead if that would exceed the patience."""
        pause = self._pause * random.uniform(0.5, 1.0)
        if asyncio.get_running_loop().time() + pause > self._deadline:
            raise error
        await asyncio.sleep(pause)
        self._pause = min(self._pause * 2, LONGEST_BACKOFF)


class Rounds:
    """Keeps a loop from asking a server without a pause, should it not wait as it is asked to."""

    def __init__(self) -> None:
        self._next = 0.0

    async def begin(self) -> None:
        """Wait until the beginning of the latest round is a moment ago."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._next - loop.time()))
        self._next = loop.time() + _SHORTEST_ROUND


def decoded(answer: bytes, decoder: "msgspec.json.Decoder[T]") -> T:
    """Decode an answer of the server. Raises `UnexpectedAnswer` if that fails."""
    try:
        return decoder.decode(answer)
    except _UNDECODABLE as exc:
        raise UnexpectedAnswer(f"the answer is not from composerd, or from a much newer version: {exc}") from exc


async def _read(response: aiohttp.ClientResponse, largest: int) -> bytes | None:
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


def _parse(server: str) -> tuple[str | None, str]:
    """Return the path of a unix socket, or None for TCP, and the base of URLs.

    Raises `ValueError` if `server` is not valid.
    """
    if server.startswith("unix:") and len(server) > len("unix:"):
        return server.removeprefix("unix:"), "http://localhost"
    with suppress(ValueError):  # raised by yarl and IDNA
        url = URL(server)
        if url.scheme in ("http", "https") and url.host and url.port and not url.query_string and not url.fragment:
            url.host.encode("idna")  # as the resolver does
            return None, str(url).rstrip("/")
    raise ValueError(f"{server!r} is not a server: write http://HOST:PORT, https://HOST:PORT or unix:/path")


def _failure(status: int, body: bytes) -> RequestFailed:
    try:
        decoded = msgspec.json.decode(body, type=dict[str, Any])
    except _UNDECODABLE:
        decoded = {}
    failed = RequestFailed(status, decoded)
    return OutcomeUnknown(status, decoded) if failed.number == _OUTCOME_UNKNOWN else failed


def _tls(ca_file: Path | str | None, cert_file: Path | str | None, key_file: Path | str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as exc:
        raise ValueError(f"{ca_file} has no PEM certificates: {exc.strerror or exc}") from exc
    if cert_file is not None:
        try:
            context.load_cert_chain(cert_file, key_file, password=_no_password)
        except OSError as exc:
            if key_file is None and not _has_key(cert_file):
                raise ValueError(f"no private key in {cert_file}; name its file with --key-file (key_file)") from exc
            pair = f"{cert_file} with the key in {key_file or cert_file}"
            raise ValueError(f"cannot load the PEM certificate {pair}: {exc.strerror or exc}") from exc
    elif key_file is not None:
        raise ValueError(f"{key_file} needs a certificate; name its file with --cert-file (cert_file)")
    return context


def _has_key(file: Path | str) -> bool:
    try:
        return b"PRIVATE KEY-----" in Path(file).read_bytes()
    except OSError:
        return True  # the file itself is the problem


def _no_password() -> str:
    raise ValueError("the private key is protected by a password, which is not supported; remove the password")


def _described(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.strerror or str(error.os_error)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__

"""Requests to one server: over TCP or a unix socket, tried again with backoff and jitter where that is safe."""

import asyncio
import io
import random
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import aiohttp
import msgspec
from yarl import URL

from composerd.client.errors import RequestFailed, ServerNotTrusted, ServerUnreachable, UnexpectedAnswer

DEFAULT_SERVER = "http://127.0.0.1:8700"

FIRST_BACKOFF = 0.1
LONGEST_BACKOFF = 10.0

_ANSWER_WITHIN = 60.0
"""How long an answer may take, on top of what was asked to wait, in seconds."""

T = TypeVar("T")

_LARGE = 512 * 1024

_NOTHING_DONE = frozenset({503, 507})
"""The server is away for a while, drains, or has no room: nothing was done."""

_ENDED = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientConnectionResetError)
"""How a connection ends that the server closes."""


class Answer(NamedTuple):
    """An answer that was no error."""

    status: int
    body: bytes


class Connection:
    """A server that requests are sent to; an async context manager.

    `server` is a URL (`http://host:8700`, `https://…`) or `unix:/path`. `patience` is for how long, in seconds, a
    request that may be repeated is repeated while the server cannot be reached or is unavailable. For https: `ca_file`
    is who signed the server's certificate, if the system does not know; `cert_file` and `key_file` are the client's own,
    for a server that asks. All three are PEM. Raises `ValueError` for what is none of that.
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
        self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None))
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
    ) -> Answer:
        """Send a request with a JSON body, or none.

        `wait` is for how long the server was asked to hold it. `repeat` says that it may be sent again though the
        server, or a proxy before it, may have got it and failed; by default, GET may. Raises `RequestFailed`,
        `ServerUnreachable`.
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
                    return Answer(response.status, await response.read())
            except ServerUnreachable as exc:
                if not repeat and not isinstance(exc.__cause__, aiohttp.ClientConnectorError):
                    raise  # it may have been done
                await backoff.failed(exc)
            except RequestFailed as exc:
                if exc.status < 500 or not (repeat or exc.status in _NOTHING_DONE):
                    raise
                await backoff.failed(exc)

    @asynccontextmanager
    async def open(
        self, method: str, path: str, *, answer_within: float | None = None, **kwargs: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send one request and give its answer unread. Raises `RequestFailed`, `ServerUnreachable`."""
        assert self._session is not None, "use it as a context manager"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=answer_within)
        try:
            async with self._session.request(method, self._base + path, timeout=timeout, **kwargs) as response:
                if response.status >= 400:
                    raise _failure(response.status, await response.read())
                yield response
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise self._unreachable(exc) from exc

    def _unreachable(self, error: Exception) -> ServerUnreachable:
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            why = getattr(error.certificate_error, "verify_message", "") or error.certificate_error
            return ServerNotTrusted(f"{self.server} cannot be reached: its certificate is not trusted, {why}")
        if self._tls is not None and type(error) in _ENDED:
            # TLS 1.3 refuses a client only after its handshake.
            return ServerNotTrusted(f"{self.server} ended the connection: it may not trust this client's certificate")
        return ServerUnreachable(f"{self.server} cannot be reached: {_in_words(error)}")


class Backoff:
    """Pauses between tries: longer after each, at random, so that a fleet does not come back in step."""

    def __init__(self, patience: float = float("inf")) -> None:
        self._deadline = asyncio.get_running_loop().time() + patience
        self._pause = FIRST_BACKOFF

    async def failed(self, error: Exception) -> None:
        """Wait before the next try; raises the error when patience, in seconds, is at its end."""
        pause = self._pause * random.uniform(0.5, 1.0)
        if asyncio.get_running_loop().time() + pause > self._deadline:
            raise error
        await asyncio.sleep(pause)
        self._pause = min(self._pause * 2, LONGEST_BACKOFF)


def decoded(answer: bytes, decoder: "msgspec.json.Decoder[T]") -> T:
    """What the server has answered. Raises `UnexpectedAnswer`."""
    try:
        return decoder.decode(answer)
    except msgspec.DecodeError as exc:
        raise UnexpectedAnswer(f"what answered is no composerd, or a much newer one: {exc}") from exc


def as_data(body: bytes | None) -> io.BytesIO | bytes | None:
    """A body as aiohttp wants it: a large one as a file, so that it is not written in one go."""
    return io.BytesIO(body) if body is not None and len(body) > _LARGE else body


def _parse(server: str) -> tuple[str | None, str]:
    """The path of a unix socket, if it is one, and where URLs begin. Raises `ValueError`."""
    if server.startswith("unix:") and len(server) > len("unix:"):
        return server.removeprefix("unix:"), "http://localhost"
    with suppress(ValueError):  # what yarl and IDNA raise
        url = URL(server)
        if url.scheme in ("http", "https") and url.host and url.port and not url.query_string and not url.fragment:
            url.host.encode("idna")  # as the resolver will
            return None, str(url).rstrip("/")
    raise ValueError(f"{server!r} is not a server: write http://HOST:PORT, https://HOST:PORT or unix:/path")


def _failure(status: int, body: bytes) -> RequestFailed:
    try:
        decoded = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError:
        decoded = {}
    return RequestFailed(status, decoded)


def _tls(ca_file: Path | str | None, cert_file: Path | str | None, key_file: Path | str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as exc:
        raise ValueError(f"{ca_file} has no certificates in PEM: {exc.strerror or exc}") from exc
    if cert_file is not None:
        try:
            context.load_cert_chain(cert_file, key_file, password=_no_password)
        except OSError as exc:
            raise ValueError(
                f"{cert_file} and {key_file or 'the key in it'} are not a certificate and its key in PEM: "
                f"{exc.strerror or exc}"
            ) from exc
    elif key_file is not None:
        raise ValueError(f"{key_file} is a key without its certificate")
    return context


def _no_password() -> str:
    raise ValueError("the key needs a password: give one that does not")


def _in_words(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.strerror or str(error.os_error)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__

"""Sends single requests with aiohttp over TCP or a unix socket. No other module of the client imports aiohttp."""

import io
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from composerd_client.address import Address
from composerd_client.connection import UNDECODABLE
from composerd_client.errors import (
    OutcomeUnknown,
    RequestFailed,
    ServerNotTrusted,
    ServerUnreachable,
    UnexpectedAnswer,
)
from composerd_client.proxies import REQUEST_ID_HEADER, proxy_answer
from composerd_protocol.escaping import without_tokens

_LARGEST_ERROR = 64 * 1024
"""Bytes of the largest body of an error; a larger one is not read."""

_MOST_REDIRECTS = 5
"""Number of redirects of one request that are followed."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})

_LARGE = 512 * 1024
"""Size in bytes above which a body is sent in parts."""

_OUTCOME_UNKNOWN = 40
"""Number of the error of a server that does not know whether a change was stored."""

_CLOSED = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientConnectionResetError)
"""Errors of a connection that the server has closed."""

_CONNECT_WITHIN = 30.0
"""Seconds that a connection may take to be established."""


class Response:
    """An answer with a status below 400, whose body is not read yet."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    async def read(self, largest: int) -> bytes | None:
        """Return the body, or None if it is larger than `largest`, of which no more is read."""
        return await _read(self._response, largest)

    def parts(self, size: int) -> AsyncIterator[bytes]:
        """Yield the body in parts of at most `size` bytes."""
        return self._response.content.iter_chunked(size)


class Transport:
    """Sends single requests to one server. Create it in a running event loop, and close it.

    The server is not trusted with more than its answers. A path that it names is used only if it is on this server, and
    a redirect is followed only for GET and to this server. Answers have limits, are never decompressed, and set no
    cookies. A proxy that the environment names is not used, because it would get the args and the tokens.
    """

    def __init__(self, address: Address, tls: ssl.SSLContext | None) -> None:
        self._address = address
        self._tls = tls
        path = address.socket_path
        connector = (
            aiohttp.TCPConnector(limit=0, ssl=tls or True) if path is None else aiohttp.UnixConnector(path, limit=0)
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None),
            headers={"Accept-Encoding": "identity"},
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    @asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        answer_within: float | None = None,
    ) -> AsyncIterator[Response]:
        """Send one request, and yield its answer with the body unread.

        `body` is bytes, an open file, or an async iterable of bytes. `answer_within` is the number of seconds for which
        the server may send nothing. Raises `RequestFailed`, which is a `ProxyAnswered` for any answer without
        composerd's request id, `ServerUnreachable`, and `UnexpectedAnswer` if the path is not one on this server, or if
        the answer is compressed.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_WITHIN, sock_read=answer_within)
        url = URL(self._address.url(path))
        redirects_left = _MOST_REDIRECTS if method == "GET" else 0
        try:
            while True:
                async with self._session.request(
                    method,
                    url,
                    data=_as_data(body),
                    params=query,
                    headers=headers,
                    timeout=timeout,
                    allow_redirects=False,
                ) as response:
                    if response.status < 300 and REQUEST_ID_HEADER in response.headers:
                        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                            raise UnexpectedAnswer("the answer is compressed, which was not asked for")
                        yield Response(response)
                        return
                    target = _target(url, response) if redirects_left else None
                    if target is None:
                        raise await _failure(response)
                    url = target
                    redirects_left -= 1
                    query = None  # the new URL has a query of its own
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise self._unreachable(exc) from exc

    def _unreachable(self, error: Exception) -> ServerUnreachable:
        server = self._address.server
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            why = getattr(error.certificate_error, "verify_message", "") or error.certificate_error
            return ServerNotTrusted(f"{server} cannot be reached: its certificate is not trusted: {why}", sent=False)
        if self._tls is not None and type(error) in _CLOSED:
            # With TLS 1.3 a server rejects the client's certificate only after the client has finished the handshake.
            return ServerNotTrusted(f"{server} closed the connection: it may not trust this client's certificate")
        sent = not isinstance(error, aiohttp.ClientConnectorError)
        return ServerUnreachable(f"{server} cannot be reached: {without_tokens(_described(error))}", sent=sent)


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


def _as_data(body: Any) -> Any:
    """Return a body for aiohttp; large bytes as a file, so that they are sent in parts."""
    return io.BytesIO(body) if isinstance(body, bytes) and len(body) > _LARGE else body


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
    body = await _read(response, _LARGEST_ERROR) or b""
    if REQUEST_ID_HEADER not in response.headers:
        moved = f"it redirects to {without_tokens(location)!r}; if composerd is there, change the URL of the server"
        return proxy_answer(status, response.headers, body, response.method, moved if location else None)
    try:
        decoded = msgspec.json.decode(body, type=dict[str, Any])
    except UNDECODABLE:
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

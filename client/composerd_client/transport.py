"""Sends single requests with aiohttp over TCP or a unix socket. No other module of the client imports aiohttp."""

import asyncio
import errno
import io
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from composerd_client.address import Address
from composerd_client.answers import REQUEST_ID_HEADER, UNDECODABLE, Origin, is_error
from composerd_client.credentials.sending import Sender
from composerd_client.credentials.tokens import Credentials
from composerd_client.errors import (
    OutcomeUnknown,
    ProxyAnswered,
    ProxyUnreachable,
    RequestFailed,
    ServerNotTrusted,
    ServerUnreachable,
)
from composerd_client.forward_proxy import ForwardProxy
from composerd_client.proxies import known_proxy, proxy_answer
from composerd_client.tls import TlsFiles
from composerd_protocol.escaping import without_tokens

_LARGEST_ERROR = 64 * 1024
"""Bytes of the largest body of an error; a larger one is not read."""

_MOST_REDIRECTS = 5
"""Number of redirects of one request that are followed."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})

_LARGE = 512 * 1024
"""Size in bytes above which a body is sent in parts."""

_NO_SUCH_PATH = 11
"""Number of the error of a server that has nothing at a path."""

_OUTCOME_UNKNOWN = 40
"""Number of the error of a server that does not know whether a change was stored."""

_CLOSED = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientConnectionResetError)
"""Errors of a connection that the server has closed."""

_NO_PROXY = (aiohttp.ClientProxyConnectionError, aiohttp.ClientConnectorDNSError)
"""Errors of a connection to a proxy, which looks up the name of the server itself."""

_CONNECT_WITHIN = 30.0
"""Seconds that a connection may take to be established."""

_IDLE_FOR = 15.0
"""Seconds that a connection without a request is kept for the next one."""

_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000),
)
"""The options of each TCP connection: probes after 15 s of silence, and an end after 60 s without an acknowledgement.

With a user timeout the kernel does not count the probes, and it ends a connection too whose receiver reads nothing for
so long. An upload may rest for 30 s at most, so 60 s end none that the server still wants.
"""


class Response:
    """An answer with a status below 300 that seems to be composerd's, and whose body is not read yet."""

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

    def refused(self, problem: str, body: bytes = b"") -> ProxyAnswered:
        """Return the error for an answer that is not composerd's answer to this request, with the reason."""
        return proxy_answer(self.status, self.headers, body, self._response.method, problem)


class Transport:
    """Sends single requests to one server. Create it in a running event loop, and close it.

    The server is not trusted with more than its answers. A path that it names is used only if it is on this server, and
    a redirect is followed only for GET and to this server, which alone gets the token. Answers have limits, are never
    decompressed, and set no cookies.
    """

    def __init__(
        self,
        address: Address,
        tls: TlsFiles | None,
        proxy: ForwardProxy | None,
        credentials: Credentials | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._address = address
        self._tls = tls
        self._proxy = proxy
        self._credentials = credentials
        login = {} if proxy is None or proxy.authorization is None else {"Proxy-Authorization": proxy.authorization}
        self._tunnel_login = login if address.https else {}
        self._login = {} if address.https else login
        self._pooled = self._session(keepalive_timeout=_IDLE_FOR)
        self._single = self._session(force_close=True)
        """Makes a new connection for each request."""
        self._origin = Origin()
        self._suspect_until = 0.0
        """The time until which the pool may have connections of before the latest silence, which may be silent too."""
        self._accepted: ssl.SSLContext | None = None
        """The context of the latest connection with an answer, so that its certificates are trusted on both sides."""
        self._answered = False
        """True if there was an answer, so that the scheme of the URL is right."""

    def _session(self, **options: Any) -> aiohttp.ClientSession:
        path = self._address.socket_path
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, socket_factory=_new_socket, **options)
            if path is None
            else aiohttp.UnixConnector(path, limit=0, **options),
            timeout=aiohttp.ClientTimeout(total=None),
            headers={"Accept-Encoding": "identity"},
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        # Otherwise aiohttp sends a DELETE or a GET again by itself, without saying so: the answer to a second DELETE is
        # that there is no such job, and a wait that a proxy ends seems to have been twice as long.
        session._retry_connection = False  # noqa: SLF001  # no public way
        return session

    async def close(self) -> None:
        """Close all connections."""
        await self._pooled.close()
        await self._single.close()

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
    ) -> AsyncIterator[Response]:
        """Send one request, and yield its answer with the body unread.

        `body` is bytes, an open file, or an async iterable of bytes. `answer_within` is the number of seconds for which
        the server may send nothing. `fresh` says that an older connection was silent, and asks for a new one. If the
        token is refused, the request is sent once more with another one, if there is one and the body is no stream.
        Raises `RequestFailed`, which is a `ProxyAnswered` for any answer that composerd has not made for this request,
        `ServerUnreachable`, and `UnexpectedAnswer` if the path is not one on this server.
        """
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(
                "the client belongs to another event loop: make one in each, or use that without `await`"
            )
        timeout = aiohttp.ClientTimeout(total=None, connect=_CONNECT_WITHIN, sock_read=answer_within)
        if fresh:
            self._suspect()
        session = self._single if self._suspect_until > self._loop.time() else self._pooled
        url = URL(self._address.url(path))
        redirects_left = _MOST_REDIRECTS if method == "GET" else 0
        redirect: RequestFailed | None = None
        sender = Sender(self._credentials, body)
        try:
            while True:
                identity = await sender.headers()
                began = time.monotonic()
                tls = None if self._tls is None else self._tls.context
                async with session.request(
                    method,
                    url,
                    data=_as_data(body),
                    params=query,
                    headers={**(headers or {}), **self._login, **identity},
                    timeout=timeout,
                    allow_redirects=False,
                    ssl=tls or True,
                    proxy=None if self._proxy is None else self._proxy.url,
                    proxy_headers=self._tunnel_login or None,
                ) as response:
                    self._accepted, self._answered = tls, True
                    problem = self._origin.problem(response.headers, time.monotonic() - began)
                    if problem is None and response.headers.get("Content-Encoding", "identity").lower() != "identity":
                        problem = "it has compressed the answer, which was not asked for"
                    if response.status < 300 and problem is None:
                        sender.accepted()
                        yield Response(response)
                        return
                    target = _target(url, response) if redirects_left else None
                    failure = await _failure(response, problem)
                if target is not None:
                    redirect = redirect or failure
                    url = target
                    redirects_left -= 1
                    query = None  # the new URL has a query of its own
                elif not await sender.sends_again(failure):
                    # A page of a proxy may be gone when its path is requested, which composerd does not have.
                    raise redirect if redirect is not None and failure.number == _NO_SUCH_PATH else failure
        except (aiohttp.ClientError, TimeoutError) as exc:
            if _is_silence(exc):
                self._suspect()
            raise self._unreachable(exc) from exc

    def _suspect(self) -> None:
        """Use none of the idle connections; each of them is closed by the time at which the pool is used again."""
        self._suspect_until = self._loop.time() + _IDLE_FOR

    def _unreachable(self, error: Exception) -> ServerUnreachable:
        server = self._address.server
        how = "cannot be reached"
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            why = getattr(error.certificate_error, "verify_message", "") or error.certificate_error
            return ServerNotTrusted(f"{server} cannot be reached: its certificate is not trusted: {why}", sent=False)
        if self._proxy is not None:
            if isinstance(error, _NO_PROXY):
                return ProxyUnreachable(
                    f"cannot connect to the proxy {self._proxy.url}: {_described(error)}", sent=False
                )
            if isinstance(error, aiohttp.ClientHttpProxyError):
                return ProxyUnreachable(_refusal(self._proxy.url, self._address, error), sent=False)
            how += f" through the proxy {self._proxy.url}"
        elif self._tls is not None and type(error) in _CLOSED and self._accepted is not self._tls.context:
            # With TLS 1.3 a server rejects the client's certificate only after the client has finished the handshake.
            return ServerNotTrusted(f"{server} closed the connection: it may not trust this client's certificate")
        elif self._tls is None and isinstance(error, aiohttp.ServerDisconnectedError) and not self._answered:
            return ServerUnreachable(f"{server} closed the connection without an answer; write https:// if it has TLS")
        sent = not isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
        return ServerUnreachable(f"{server} {how}: {without_tokens(_described(error))}", sent=sent)


def _refusal(proxy: str, address: Address, error: aiohttp.ClientHttpProxyError) -> str:
    """Return why a proxy opens no tunnel, and what to change."""
    target = f"{address.host}:{address.port}"
    name = known_proxy(error.headers or {}, b"")
    shown = f"the proxy {proxy}{f' ({name})' if name else ''}"
    if error.status == 407:
        return f"{shown} wants a login (407): write http://USER:PASSWORD@HOST:PORT as its URL, with the right password"
    if error.status in (502, 503, 504):
        return f"{shown} cannot connect to {target} ({error.status}): is `composerd serve` running there?"
    return f"{shown} does not connect to {target} ({error.status}): allow CONNECT to it in its access rules"


def _new_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """Return a socket for a connection, on which the kernel notices that the other side is gone."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    for level, option, value in _KEEPALIVE:
        made.setsockopt(level, option, value)
    return made


def _is_silence(error: Exception) -> bool:
    """Return True if a connection was silent, so that others that are as old may be silent too."""
    return isinstance(error, TimeoutError) or (isinstance(error, OSError) and error.errno == errno.ETIMEDOUT)


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


async def _failure(response: aiohttp.ClientResponse, problem: str | None) -> RequestFailed:
    """Return the error for an answer that is not a success, or, if there is a problem, not from composerd."""
    status = response.status
    location = response.headers.get("Location", "")[:100]
    body = await _read(response, _LARGEST_ERROR) or b""
    decoded: dict[str, Any] = {}
    if status >= 400 and problem is None:
        with suppress(*UNDECODABLE):
            decoded = msgspec.json.decode(body, type=dict[str, Any])
        if not is_error(decoded, response.headers[REQUEST_ID_HEADER]):
            problem = "it passes on composerd's request id, but not composerd's error"
    elif not problem and location:
        problem = f"it redirects to {without_tokens(location)!r}; if composerd is there, change the URL of the server"
    if status < 400 or problem is not None:
        return proxy_answer(status, response.headers, body, response.method, problem)
    failed = RequestFailed(status, decoded)
    if failed.number == _OUTCOME_UNKNOWN:
        return OutcomeUnknown(status, decoded)
    # The answer to an upload has it in the body only, because some clients repeat uploads by themselves.
    told = response.headers.get("Retry-After") or str(failed.details.get("retry_after", ""))
    failed.retry_after = float(told) if told.isdecimal() and len(told) < 10 else 0.0
    return failed


def _described(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorSSLError):  # its number is one of OpenSSL's
        reason = (getattr(error.os_error, "reason", "") or str(error.os_error)).replace("_", " ").lower()
        return f"no connection with TLS ({reason}); write http:// if it has no TLS"
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.errno or 0
        if number in errno.errorcode:  # others are the resolver's
            return os.strerror(number)
        return error.strerror or str(error.os_error) or "the connection was closed before TLS was established"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientResponseError):
        return f"its answer is not HTTP: {' '.join(error.message.split())}"
    broken = isinstance(error, aiohttp.ClientPayloadError)
    return "the answer broke off" if broken else str(error) or type(error).__name__

"""Requests to a token server. They block, and follow no redirects."""

import base64
import contextlib
import json
import re
import socket
import ssl
import threading
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote_plus, urlencode, urlsplit

from composerd_client.address import Address
from composerd_client.credentials.refresh_tokens import is_refresh_token
from composerd_client.credentials.sending import check_sendable
from composerd_client.credentials.tokens import TOKEN
from composerd_client.errors import TokenRefused, TokenUnavailable
from composerd_client.forward_proxy import forward_proxy
from composerd_client.tls import TlsFiles

_SILENT_FOR = 10.0
"""Seconds for which the token server may send nothing."""

_WITHIN = 30.0
"""Seconds within which the answer has to be complete."""

_LARGEST_ANSWER = 256 * 1024

_LONGEST_SAID = 200
"""The most characters of the token server's own words in a message."""

_ADVICE = {
    "invalid_client": "check the client id and the client secret; some token servers want the secret in the form "
    '(client_authentication = "post")',
    "invalid_grant": "the refresh token has expired, was revoked or was used before: get another one",
    "invalid_scope": "check the scope",
    "invalid_target": "check the audience and the resource",
    "unauthorized_client": "the token server has to allow this grant for the client",
    "unsupported_grant_type": "the token server has to allow this grant",
}
"""Advice about the errors of a token server (RFC 6749, 5.2; RFC 8707)."""

_CONTROL = re.compile(r"[^\x20-\x7e\u00a1-\uffff]+")


class Issued(NamedTuple):
    """The answer of a token server."""

    token: str
    lifetime: float
    """The seconds for which the token is valid; infinite if the token server does not say."""
    refresh_token: str
    """The refresh token for the next time; empty if the answer has none."""


class TokenServer:
    """The token endpoint of one server. Raises `ValueError` if an argument is invalid, or secrets must not go there."""

    def __init__(self, url: str, *, ca_file: Path | str | None, proxy: str | None, insecure_http: bool) -> None:
        parts = urlsplit(url)
        try:
            self._address = Address(f"{parts.scheme}://{parts.netloc}")
        except ValueError:
            raise ValueError(f"the token URL {url[:200]!r} is not one: write https://HOST/PATH") from None
        if parts.fragment or self._address.has_login:
            raise ValueError("the token URL must have no user, no password and no fragment")
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path}"
        """The URL without its query, for messages."""
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._proxy = forward_proxy(proxy, self._address)
        check_sendable(self._address, self._proxy, "the client secret", insecure_http=insecure_http)
        self._tls = TlsFiles(ca_file, None, None) if self._address.https else None

    def issue(self, form: Mapping[str, str], client_id: str, secret: str, *, in_form: bool) -> Issued:
        """Ask for a token, with the client's id and its secret, if it has one.

        Raises `TokenRefused`, and `TokenUnavailable` if the same request may succeed later.
        """
        headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": "composerd-client",
        }
        sent = {name: value for name, value in form.items() if value}
        if secret and not in_form:
            pair = f"{quote_plus(client_id)}:{quote_plus(secret)}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            sent |= {name: value for name, value in (("client_id", client_id), ("client_secret", secret)) if value}
        try:
            status, location, body = self._post(urlencode(sent).encode(), headers)
        except ssl.SSLCertVerificationError as exc:
            raise TokenUnavailable(
                f"cannot get a token from {self.url}: its certificate is not trusted: {exc.verify_message}; name the "
                "file of its CA"
            ) from exc
        except (OSError, HTTPException, ValueError, RuntimeError) as exc:  # RuntimeError: no thread can be started
            raise TokenUnavailable(f"cannot get a token from {self.url}: {_described(exc)}") from exc
        hidden = [secret, form.get("refresh_token", "")]
        return self._issued(status, location, body, [one for one in hidden if one])

    def _post(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, str, bytes]:
        """Send a request, and return the status, the location and the body of the answer."""
        connection, target, extra = self._connection()
        with contextlib.closing(connection):
            connection.connect()
            stop = threading.Timer(_WITHIN, _shut, [connection.sock])
            stop.daemon = True
            stop.start()
            try:
                connection.request("POST", target, body, {**headers, **extra})
                response: HTTPResponse = connection.getresponse()
                return response.status, response.getheader("Location", ""), response.read(_LARGEST_ANSWER)
            finally:
                stop.cancel()

    def _connection(self) -> tuple[HTTPConnection, str, Mapping[str, str]]:
        """Return a connection that is not open yet, the target of the request, and headers for a proxy."""
        address, proxy = self._address, self._proxy
        near, port = (address.host, address.port)
        login: dict[str, str] = {}
        if proxy is not None:
            parts = urlsplit(proxy.url)
            near, port = parts.hostname or "", parts.port or 80
            login = {} if proxy.authorization is None else {"Proxy-Authorization": proxy.authorization}
        if self._tls is None:
            host = f"[{address.host}]" if ":" in address.host else address.host
            target = self._target if proxy is None else f"http://{host}:{address.port}{self._target}"
            return HTTPConnection(near, port, timeout=_SILENT_FOR), target, login
        connection = HTTPSConnection(near, port, timeout=_SILENT_FOR, context=self._tls.context)
        if proxy is not None:
            connection.set_tunnel(address.host, address.port, login)
        return connection, self._target, {}

    def _issued(self, status: int, location: str, body: bytes, hidden: list[str]) -> Issued:
        """Return what an answer has. No message has the secrets, even if the token server quotes them."""
        answer: dict[str, Any] = {}
        with contextlib.suppress(ValueError, RecursionError):
            decoded = json.loads(body)
            answer = decoded if isinstance(decoded, dict) else {}
        if 200 <= status < 300 and isinstance(answer.get("access_token"), str):
            return self._checked(answer)
        if 300 <= status < 400 and location:
            where = _said(location.partition("?")[0], hidden)
            raise TokenRefused(f"{self.url} redirects to {where}: if the token server is there, change the token URL")
        code = answer.get("error")
        if isinstance(code, str) and code not in ("temporarily_unavailable", "server_error"):
            why = _said(str(answer.get("error_description") or ""), hidden)
            advice = _ADVICE.get(code)
            raise TokenRefused(
                f"{self.url} gives no token: {_said(code, hidden)}{f' ({why})' if why else ''}"
                f"{f'; {advice}' if advice else ''}"
            )
        if status >= 500 or status in (408, 429):
            raise TokenUnavailable(f"cannot get a token from {self.url}: it answers {status}")
        raise TokenRefused(f"{self.url} answers {status} without a token: is it the URL of the token endpoint?")

    def _checked(self, answer: Mapping[str, Any]) -> Issued:
        kind = str(answer.get("token_type", "Bearer"))
        if kind.lower() != "bearer":
            raise TokenRefused(f"{self.url} gives a token of the type {_said(kind, [])}; composerd takes Bearer only")
        if not TOKEN.fullmatch(answer["access_token"]):
            raise TokenRefused(f"{self.url} gives a token that cannot be sent: it has characters that no token has")
        lifetime = float("inf")
        with contextlib.suppress(KeyError, TypeError, ValueError, OverflowError):
            told = float(answer["expires_in"])
            lifetime = told if told >= 0 else lifetime
        refresh_token = str(answer.get("refresh_token") or "")
        return Issued(answer["access_token"], lifetime, refresh_token if is_refresh_token(refresh_token) else "")


def _shut(connection: socket.socket) -> None:
    """End a connection on which another thread waits."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _said(text: str, hidden: list[str]) -> str:
    """Return a text of the token server, short, on one line and without secrets."""
    for secret in hidden:
        text = text.replace(secret, "…")
    return _CONTROL.sub(" ", text).strip()[:_LONGEST_SAID]


def _described(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLError):
        return f"no connection with TLS ({(error.reason or str(error)).replace('_', ' ').lower()})"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__

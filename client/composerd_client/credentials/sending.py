"""Sending tokens: only where nobody else can read them, and again with another one after a refusal."""

import time
from collections.abc import Mapping
from typing import Any

from composerd_client.address import Address
from composerd_client.credentials.tokens import Credentials
from composerd_client.errors import RequestFailed
from composerd_client.forward_proxy import ForwardProxy

UNAUTHORIZED = 401

_LONG_WAIT = 2.0
"""Seconds after which an answer 401 means that the token has expired meanwhile."""

CONSENT = "--insecure-http (insecure_http)"
"""The option that allows sending tokens where others can read them."""


def check_sendable(address: Address, proxy: ForwardProxy | None, secret: str, *, insecure_http: bool) -> None:
    """Raise `ValueError` if a server must not get a secret over this connection, because others could read it."""
    if address.https or address.socket_path is not None or insecure_http:
        return
    if proxy is not None:
        raise ValueError(
            f"the proxy {proxy.url} could read {secret} for {address.server}: write https:// as its URL, or say "
            f"{CONSENT} if you trust the proxy and the network"
        )
    if not address.is_local:
        raise ValueError(
            f"anybody on the way to {address.server} could read {secret}: write https:// as its URL, or say {CONSENT} "
            "if you trust the network"
        )


class Sender:
    """The tokens of one request with a body, or None."""

    def __init__(self, credentials: Credentials | None, body: Any) -> None:
        self._credentials = credentials
        self._whole = body is None or isinstance(body, bytes)
        """True if the body can be sent again; aiohttp closes a file."""
        self._token = ""
        self._renewed = False
        self._sent_at = 0.0

    async def headers(self) -> Mapping[str, str]:
        """Return the headers that say who the client is, for a request that is sent now."""
        if self._credentials is None:
            return {}
        self._token = await self._credentials.token()
        self._sent_at = time.monotonic()
        return {"Authorization": f"Bearer {self._token}"}

    def accepted(self) -> None:
        """Note that composerd has answered the request."""
        if self._credentials is not None:
            self._credentials.accepted(self._token)

    async def sends_again(self, failure: RequestFailed) -> bool:
        """Return True if the request can be sent again with another token, because the first one was refused.

        That happens once, and again if the next token has expired during a long wait. A stream is not sent again, but
        there may be another token for the next request.
        """
        if failure.status != UNAUTHORIZED or self._credentials is None:
            return False
        failure.with_token = True
        if self._renewed and time.monotonic() - self._sent_at < _LONG_WAIT:
            return False
        self._renewed = True
        return await self._credentials.renewed(self._token) and self._whole

"""A token server of the tests (OAuth 2.0), whose tokens, failures and habits a test controls."""

import base64
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import parse_qsl, unquote_plus

from aiohttp import web

ID, SECRET = "worker 1", "s:cr+t&/é"
"""The id and the secret of the client that it knows; both have characters that have to be encoded."""


class TokenServer:
    """Issues tokens for a client's secret, and for refresh tokens."""

    def __init__(self) -> None:
        self.url = ""
        self.lifetime: float | str | None = 300.0
        """The `expires_in` of the answers; None for none."""
        self.rotates = False
        """True if each answer has a new refresh token, and the old one is of no use any more."""
        self.refresh_token = "refresh-0"  # of a test
        self.hook: Callable[[web.Request], Awaitable[web.StreamResponse | None]] | None = None
        """Answers a request, or returns None to let the server answer."""
        self.requests: list[dict[str, str]] = []
        """The forms of all requests, with the id and the secret of a header as `basic`."""
        self.issued: dict[str, float] = {}
        """The tokens, with the time at which each expires."""

    def accepts(self, token: str) -> bool:
        """Return True if a token is valid now."""
        return self.issued.get(token, 0.0) > time.monotonic()

    def revoke(self) -> None:
        """Revoke all tokens that were issued so far."""
        self.issued.clear()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer a request."""
        assert request.content_type == "application/x-www-form-urlencoded"
        form = dict(parse_qsl((await request.read()).decode(), keep_blank_values=True, strict_parsing=True))
        scheme, _, login = request.headers.get("Authorization", "").partition(" ")
        if scheme == "Basic":
            form["basic"] = base64.b64decode(login).decode()
        self.requests.append(form)
        if self.hook is not None and (answer := await self.hook(request)) is not None:
            return answer
        basic = [unquote_plus(one) for one in form["basic"].split(":")] if "basic" in form else []
        known = (basic or [form.get("client_id", ""), form.get("client_secret", "")]) == [ID, SECRET]
        if form.get("grant_type") == "refresh_token":
            if form.get("refresh_token") != self.refresh_token:
                return web.json_response({"error": "invalid_grant", "error_description": "no such token"}, status=400)
        elif not known:
            return web.json_response({"error": "invalid_client"}, status=401)
        token = f"access-{len(self.issued)}-{len(self.requests)}"
        self.issued[token] = time.monotonic() + float(300 if self.lifetime is None else self.lifetime)
        answered = {"access_token": token, "token_type": "bearer"}
        if self.lifetime is not None:
            answered["expires_in"] = self.lifetime  # type: ignore[assignment]  # a number or a text
        if self.rotates and "refresh_token" in form:
            self.refresh_token = answered["refresh_token"] = f"refresh-{len(self.requests)}"
        return web.json_response(answered)


@contextlib.asynccontextmanager
async def token_server(tls: ssl.SSLContext | None = None) -> AsyncIterator[TokenServer]:
    """Run a token server for the length of a block."""
    server = TokenServer()
    app = web.Application()
    app.router.add_post("/{path:.*}", server.serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    server.url = f"http{'s' if tls else ''}://127.0.0.1:{runner.addresses[0][1]}/token"
    try:
        yield server
    finally:
        await runner.cleanup()

"""A small HTTP proxy between clients and a server, which can answer itself or remove a prefix."""

import contextlib
import io
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
from aiohttp import web
from yarl import URL

NAME = "nginx/1.22.1"
"""Name of the relay in its own answers."""

_KEPT = ("Content-Type", "X-Operation-Id", "Content-Digest", "Retry-After", "ETag", "Content-Disposition")
"""The headers of the server's answers that are passed on."""

Hook = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


class Relay:
    """Passes every request on once it has read it, unless `hook` answers it."""

    def __init__(self, target: str, *, prefix: str = "", says_prefix: bool = False) -> None:
        self.target = target
        self.url = ""
        """The URL for clients, with the prefix."""
        self.requests: list[web.Request] = []
        """All requests, also those that were not passed on."""
        self.hook: Hook | None = None
        """Answers a request, or returns None to pass it on."""
        self._prefix = prefix
        self._says_prefix = says_prefix
        self._http: aiohttp.ClientSession

    def page(self, status: int, **headers: str) -> web.Response:
        """Return a page of the relay's own."""
        text = None if status == 204 else f"<html>{status}</html>"
        return web.Response(status=status, text=text, content_type="text/html", headers={"Server": NAME, **headers})

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer a request."""
        await request.read()
        self.requests.append(request)
        if self.hook is not None and (answer := await self.hook(request)) is not None:
            return answer
        if not request.raw_path.startswith(f"{self._prefix}/"):
            return self.page(404)
        headers = {"Via": "1.1 relay"}
        if self._says_prefix:
            headers |= {"X-Forwarded-Prefix": self._prefix, "X-Forwarded-For": "127.0.0.9"}
        headers |= {
            name: request.headers[name] for name in ("Content-Type", "Content-Digest") if name in request.headers
        }
        url = URL(self.target + request.raw_path.removeprefix(self._prefix), encoded=True)
        body = await request.read()
        async with self._http.request(
            request.method, url, data=io.BytesIO(body) if request.body_exists else None, headers=headers
        ) as answered:
            kept = {name: answered.headers[name] for name in _KEPT if name in answered.headers}
            return web.Response(status=answered.status, body=await answered.read(), headers=kept)


@contextlib.asynccontextmanager
async def relaying(target: str, *, prefix: str = "", says_prefix: bool = False) -> AsyncIterator[Relay]:
    """Run a relay in front of a server for the length of a block."""
    relay = Relay(target, prefix=prefix, says_prefix=says_prefix)
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", relay.serve)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    relay.url = f"http://127.0.0.1:{runner.addresses[0][1]}{prefix}"
    async with aiohttp.ClientSession(auto_decompress=False) as http:
        relay._http = http
        try:
            yield relay
        finally:
            await runner.cleanup()

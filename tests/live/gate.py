"""A gate before a server: it wants tokens as composerd does, and the test says which it accepts at any moment."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from types import MappingProxyType
from typing import Any

from aiohttp import web

from .conftest import Server
from .http_relay import Relay, relaying


class Gate:
    """Refuses requests without one of the accepted tokens, each with a predefined error."""

    def __init__(self, relay: Relay) -> None:
        self.url = relay.url
        self.accepted: set[str] = set()
        """The tokens that are accepted."""
        self.accepts: Callable[[str], bool] = lambda token: token in self.accepted
        """Decides which tokens are accepted; by default those of the set."""
        self.error: tuple[int, int] = (401, 29)
        """The status and the number of the error for others."""
        self.ends_waits: asyncio.Event | None = None
        """Holds requests back until it is set; then their tokens are looked at again."""
        self.refused: list[str] = []
        """The method and the path of each request that was refused."""
        self.passed: list[tuple[str, str]] = []
        """The token, and the method and the path, of each request that was passed on."""
        relay.hook = self._answer

    async def _answer(self, request: web.Request) -> web.StreamResponse | None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        shown = f"{request.method} {request.path}"
        if scheme == "Bearer" and self.accepts(token):
            self.passed.append((token, shown))
            if self.ends_waits is None or "wait" not in request.query:
                return None
            await self.ends_waits.wait()
            if self.accepts(token):
                return None
        self.refused.append(shown)
        return refusal(*self.error)


def refusal(
    status: int,
    number: int,
    headers: Mapping[str, str] = MappingProxyType({}),
    details: Mapping[str, Any] = MappingProxyType({"problem": "unknown token"}),
) -> web.Response:
    """Return one of composerd's errors."""
    request_id = str(uuid.uuid4())
    shown = {"kind": "Error", "id": str(number), "href": "", "code": f"COMPOSERD-{number}", "operation_id": request_id}
    error = {**shown, "reason": "It is so", "message": "It is so", "details": dict(details)}
    return web.json_response(error, status=status, headers={"X-Operation-Id": request_id, **headers})


@contextlib.asynccontextmanager
async def gate(server: Server) -> AsyncIterator[Gate]:
    """Run a gate before a server for the length of a block."""
    async with relaying(server.url) as relay:
        yield Gate(relay)

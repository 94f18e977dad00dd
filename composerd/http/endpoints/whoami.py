"""The composer API: whom the server takes the client for."""

from datetime import UTC, datetime

from aiohttp import web

from composerd.http import schemas
from composerd.http.delivery import answer
from composerd.http.openapi import endpoint
from composerd.http.paths import BASES, bases
from composerd.http.request_context import identity
from composerd_protocol.times import rfc3339


def add_routes(app: web.Application) -> None:
    """Add the route."""
    app.router.add_get(f"{app[BASES].composer}/whoami", whoami)


@endpoint(
    "whoami",
    "Say whom the server takes the client for",
    description="Get the identity that the credentials of the request stand for. Every role may ask. "
    "A server without identities takes everybody for an administrator.",
    responses={200: ("The identity", schemas.Identity)},
)
async def whoami(_request: web.Request) -> web.StreamResponse:
    """Return the identity that sent the request."""
    sender = identity.get()
    href = f"{bases.get().composer}/whoami"
    return answer(
        schemas.Identity(
            kind="Identity",
            href=href,
            id="whoami",
            name=sender.name,
            role=sender.role,
            tenant=sender.tenant,
            channel=sender.channel,
            source=sender.source or None,
            expires_at=None if sender.expires_at is None else rfc3339(datetime.fromtimestamp(sender.expires_at, UTC)),
        )
    )

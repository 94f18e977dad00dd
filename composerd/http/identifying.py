"""Finding out whose a request is, and whether it may use the operation."""

import time

from aiohttp import hdrs, web

from composerd.errors import NO_CREDENTIALS, ComposerdError, NotAllowed, NotAuthenticated, TenantMissing
from composerd.http.clients import Clients
from composerd.http.openapi import OPERATIONS
from composerd.http.request_context import client
from composerd.http.wrong_attempts import LONGEST_OF_A_CHECK, WrongAttempts
from composerd.identity.permissions import PERMISSIONS, SEES_REASONS, one_of
from composerd.identity.sources import LONGEST_TOKEN, Identities
from composerd.identity.values import Identity

LONGEST_FIELD = LONGEST_TOKEN + 1024
"""The most bytes of a line of a head, if requests need credentials."""

_BEARER = "Bearer "

_CHALLENGE = 'Bearer realm="composerd"'

_OTHER_SCHEME = "the Authorization header has no bearer token: write Authorization: Bearer TOKEN"


class Identifier:
    """Knows the identity of each request.

    A bearer token counts before what the connection says of its peer. A proxy's connection says nothing about those for
    whom it sends.
    """

    def __init__(self, identities: Identities, clients: Clients) -> None:
        self._identities = identities
        self._clients = clients
        self.wrong_attempts = WrongAttempts()
        self.required = identities.required
        self._roles = {handler: PERMISSIONS[name] for handler, name in OPERATIONS.items()}

    def recognized(self, request: web.Request) -> Identity | None:
        """Return whose request it is, if it has a bearer token that was verified before, and if it is permitted.

        Otherwise `permitted` says what it is. This is what nearly all requests need, and takes a third of the time.
        """
        sent = request.headers.getall(hdrs.AUTHORIZATION, ())
        if len(sent) != 1 or not sent[0].startswith(_BEARER):
            return None
        token = sent[0][len(_BEARER) :]
        for source in self._identities.bearers:
            if (known := source.known(token)) is not None:
                roles = self._roles.get(request.match_info.handler)
                return known if roles is not None and known.role in roles else None
        return None

    async def permitted(self, request: web.Request) -> Identity | None:
        """Return whose request it is; None for an operation that needs no credentials.

        Raises `NotAuthenticated`, `NotAllowed` and `TenantMissing`.
        """
        name = OPERATIONS.get(request.match_info.handler)
        roles = None if name is None else PERMISSIONS[name]
        if roles is None:
            return None
        identity = await self.of(request)
        if identity.role not in roles:
            raise NotAllowed(operation=name, role=str(identity.role), problem=f"this needs the role {one_of(roles)}")
        return identity

    async def check_again(self, request: web.Request, before: Identity) -> None:
        """Raise what `permitted` does unless the identity of a request may still make it, which has waited.

        Its credentials may have expired meanwhile, or may have been revoked, or it may see less than before.
        """
        if not self.required:
            return
        known = self.recognized(request) or await self.permitted(request)
        if known is not None and (known.key, known.scope) != (before.key, before.scope):
            raise NotAuthenticated(
                problem="the credentials are another identity's now, or have another role", sent=True
            )

    async def check_not_revoked(self, request: web.Request, before: Identity) -> None:
        """Raise what `check_again` does, unless the credentials have only expired.

        It is for uploads, which may take longer than the tokens of some identity providers live.
        """
        if before.expires_at is None or time.time() < before.expires_at:
            await self.check_again(request, before)

    async def close(self, _app: web.Application) -> None:
        """Log the wrong attempts that are not logged yet."""
        self.wrong_attempts.close()

    async def sees_reasons(self, request: web.Request) -> bool:
        """Return True if a request is from somebody who may know why the server is not ready."""
        if not self.required:
            return True
        try:
            return (await self.of(request)).role in SEES_REASONS
        except ComposerdError as exc:
            if isinstance(exc, NotAuthenticated) and exc.sent:
                await self.wrong_attempts.hold(self._clients.of(request), str(exc), LONGEST_OF_A_CHECK)
            return False

    @property
    def problem(self) -> str | None:
        """A sentence about a source of identities that an operator has to mend; None if there is nothing."""
        return self._identities.problem

    async def of(self, request: web.Request) -> Identity:
        """Return whose request it is. Raises `NotAuthenticated`, `NotAllowed` and `TenantMissing`."""
        sent = request.headers.getall(hdrs.AUTHORIZATION, ())
        if len(sent) > 1:
            raise NotAuthenticated(problem="there are several Authorization headers", sent=True)
        token = bearer_token(sent[0]) if sent else None
        if token == "":  # of a program that has none yet, or of a configuration without it
            raise NotAuthenticated(problem="the token in the Authorization header is empty")
        if token is not None:
            return await self._of_token(token)
        if request.transport is not None and not self._clients.is_proxied(request):
            for source in self._identities.peers:
                if (identity := source.identify(request.transport)) is not None:
                    return identity
        raise NotAuthenticated(problem=_OTHER_SCHEME if any(sent) else NO_CREDENTIALS)

    async def _of_token(self, token: str) -> Identity:
        if len(token) > LONGEST_TOKEN:
            raise too_long()
        for source in self._identities.bearers:
            if source.takes(token):
                try:
                    return source.known(token) or await source.identify(token)
                except (NotAllowed, TenantMissing) as exc:
                    self.wrong_attempts.note(client.get(), str(exc))
                    raise
        raise NotAuthenticated(problem="the server knows no tokens of this form", sent=True)


def bearer_token(authorization: str) -> str | None:
    """Return the bearer token in the value of an Authorization header; None if it has another scheme.

    A tab is not what belongs behind the scheme, but the sender means a token, which counts before a certificate.
    """
    scheme, _, token = authorization.replace("\t", " ").partition(" ")
    return token.strip(" ") if scheme.lower() == "bearer" else None


def too_long() -> NotAuthenticated:
    """Return the error for a token that is longer than any that the server takes."""
    return NotAuthenticated(problem=f"the token is longer than {LONGEST_TOKEN} bytes", sent=True)


def challenge(error: NotAuthenticated) -> str:
    """Return the value of WWW-Authenticate in the answer to a request whose credentials are missing or wrong."""
    return f'{_CHALLENGE}, error="invalid_token"' if error.sent else _CHALLENGE

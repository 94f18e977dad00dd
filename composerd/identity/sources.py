"""The kinds of sources that identities come from, and all those of a server."""

import asyncio
from asyncio import BaseTransport
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from composerd.identity.values import Identity
from composerd.tasks import stop

LONGEST_TOKEN = 16 * 1024
"""The most characters of a bearer token. JWTs of large organizations have some thousand."""


class Source(Protocol):
    """Part of every source."""

    @property
    def problem(self) -> str | None:
        """A sentence about what an operator has to mend; None if there is nothing."""

    async def run(self) -> None:
        """Keep the source up to date until canceled."""


class BearerSource(Source, Protocol):
    """A source that knows whose bearer tokens are."""

    def takes(self, token: str) -> bool:
        """Return True if a token has the form of this source's tokens."""

    def known(self, token: str) -> Identity | None:
        """Return whose token it is if that was verified before and is still true. It takes no I/O and no time."""

    async def identify(self, token: str) -> Identity:
        """Verify a token, and return whose it is. Raises `NotAuthenticated`, `NotAllowed` and `TenantMissing`."""


class PeerSource(Source, Protocol):
    """A source that knows who is at the other end of a connection."""

    def identify(self, transport: BaseTransport) -> Identity | None:
        """Return who is at the other end, or None if this source is for other kinds of connections.

        Raises `NotAuthenticated`.
        """


class Identities:
    """All sources of a server."""

    def __init__(self, bearers: Sequence[BearerSource] = (), peers: Sequence[PeerSource] = ()) -> None:
        self.bearers = bearers
        self.peers = peers
        self._sources: Sequence[Source] = (*bearers, *peers)

    @property
    def required(self) -> bool:
        """True if requests need credentials: there is a source of them."""
        return bool(self._sources)

    @property
    def problem(self) -> str | None:
        """The first problem of a source."""
        return next((source.problem for source in self._sources if source.problem is not None), None)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep every source up to date for the length of a block."""
        tasks = [asyncio.create_task(source.run(), name="source of identities") for source in self._sources]
        try:
            yield
        finally:
            await stop(*tasks)

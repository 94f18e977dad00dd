"""The places for open connections: a number for all together, of which each client has at most its share."""

import logging
import time
from collections import deque
from collections.abc import Callable
from itertools import count

from aiohttp import web

from composerd.errors import Unavailable
from composerd.http.clients import Clients
from composerd.shares import Shares

SURPLUS = 16
"""Connections beyond the limits that may be open at the same time, for one request each."""

LOG_EVERY = 60.0
"""Time in seconds between two lines of the log about connections beyond the limits."""

log = logging.getLogger(__name__)


class Place:
    """The place of one connection that is open, or whose TLS handshake is in progress."""

    __slots__ = ("_on_free", "client", "close", "surplus")

    def __init__(self, client: str | None, on_free: Callable[["Place"], None], *, surplus: bool = False) -> None:
        self.client = client
        """The client at the other end; None if it is a trusted proxy, behind which each request has its own."""
        self.surplus = surplus
        """True for a connection beyond the limits: one request on it is answered, and then it is closed."""
        self.close: Callable[[], object] = _nothing
        """Closes the connection at once. Set by whoever has opened it."""
        self._on_free: Callable[[Place], None] | None = on_free

    def free(self) -> None:
        """Note that the connection is closed. Doing that again changes nothing."""
        if self._on_free is not None:
            self._on_free(self)
            self._on_free = None
            self.close = _nothing


class Admission:
    """Gives places to new connections, and never takes one from a connection that has a place within the limits.

    A connection that finds the limits reached gets a place as a surplus connection. There are few of these, and a new
    one displaces the oldest of the client that has most. So a health check is answered even if everything is taken.
    """

    def __init__(self, limit: int, clients: Clients) -> None:
        self.limit = limit
        self.requests = Shares("requests", limit)
        """Requests in progress that came through trusted proxies: a client there holds no connections of its own."""
        self.clients = clients
        self._within = Shares("connections", limit)
        self._surplus: dict[str, deque[Place]] = {}
        self._proxied = count()
        self._log_after = 0.0

    @property
    def used(self) -> int:
        """The number of connections within the limits."""
        return self._within.used

    def admit(self, peer: str | None) -> Place:
        """Return the place of a new connection. `peer` is the address of the other end; None on a unix socket."""
        if self.clients.is_trusted(peer):
            client = None
            counted = f"proxied {next(self._proxied)}"  # each is new to the shares, so only the total limits them
        else:
            client = counted = self.clients.of_peer(peer)
        try:
            self._within.take(counted)
        except Unavailable:
            held = f"{client} has {self._within.of(client)} of them" if client else f"the next is from the proxy {peer}"
            self._log_excess(held)
            return self.admit_surplus(peer)
        return Place(client, lambda _: self._within.free(counted))

    def admit_surplus(self, peer: str | None) -> Place:
        """Return the place of a connection that is closed after one request."""
        client = self.clients.of_peer(peer)
        if sum(map(len, self._surplus.values())) >= SURPLUS:
            oldest = max(self._surplus.values(), key=len)[0]
            oldest.close()
            oldest.free()  # now, because more connections may come before the event loop closes this one
        place = Place(client, lambda place: self._leave(client, place), surplus=True)
        self._surplus.setdefault(client, deque()).append(place)
        return place

    def _log_excess(self, held: str) -> None:
        if (now := time.monotonic()) > self._log_after:
            self._log_after = now + LOG_EVERY
            log.warning(
                "too many connections: %d of %d are open, and %s; further ones get one answer",
                self._within.used,
                self.limit,
                held,
            )

    def refusal(self) -> Unavailable:
        """Return the error for a request over a surplus connection. It was logged when the connection was accepted."""
        error = Unavailable("too many connections", limit=self.limit)
        error.logged = True
        return error

    @staticmethod
    def stopping() -> Unavailable:
        """Return the error for a request that came after the server has begun to stop, which the log says already."""
        error = Unavailable("the server is stopping")
        error.logged = True
        return error

    def _leave(self, client: str, place: Place) -> None:
        places = self._surplus[client]
        places.remove(place)
        if not places:
            del self._surplus[client]


def place_of(request: web.BaseRequest) -> Place:
    """Return the place of the connection that a request came over."""
    return request.protocol.place  # type: ignore[attr-defined,no-any-return]  # it is an `HttpConnection`


def _nothing() -> None:
    """Close nothing: the connection is not open yet, or no longer."""

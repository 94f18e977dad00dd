"""Telling clients apart, so that each gets a share of what is scarce.

Nothing else looks at addresses for that: everything that counts by client takes the opaque string that is made here.
"""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from aiohttp import hdrs, web

UNIX = "unix"
"""The client that stands for all peers on unix sockets, which have no address."""

_NETWORK_BITS = 64
"""Bits of an IPv6 address that tell clients apart: one host can usually have every address with the same first 64."""


class Clients:
    """Knows which peers are trusted proxies, and names the client of each request."""

    def __init__(self, trusted: Sequence[str]) -> None:
        """Trust proxies in these networks; the word `unix` stands for peers on unix sockets."""
        self._trust_unix = UNIX in trusted
        self._trusted = tuple(ip_network(one) for one in trusted if one != UNIX)
        self.by_address = lru_cache(maxsize=10_000)(_client)

    def is_trusted(self, peer: str | None) -> bool:
        """Return True if a peer is a trusted proxy. `peer` is its address; None or empty on a unix socket."""
        if not peer:
            return self._trust_unix
        address = _parse(peer) if self._trusted else None
        return address is not None and any(address in network for network in self._trusted)

    def is_proxied(self, request: web.BaseRequest) -> bool:
        """Return True if a request came through something that may not tell when its client has gone."""
        headers = request.headers
        return (
            hdrs.VIA in headers
            or hdrs.FORWARDED in headers
            or hdrs.X_FORWARDED_FOR in headers
            or hdrs.X_FORWARDED_PROTO in headers
            or self.is_trusted(request.remote)
        )

    def of_peer(self, peer: str | None) -> str:
        """Return the client that a peer is, if it is no proxy."""
        return self.by_address(peer) if peer else UNIX

    def of(self, request: web.BaseRequest) -> str:
        """Return the client that sent a request.

        Behind a trusted proxy it is the last address in X-Forwarded-For that is not a trusted proxy itself. If there is
        none, or it is no address, the proxy is the client.
        """
        peer = request.remote
        if not (self._trusted or self._trust_unix) or not self.is_trusted(peer):
            return self.of_peer(peer)
        client = self.of_peer(peer)
        added = ",".join(request.headers.getall("X-Forwarded-For", ()))
        for text in reversed(added.split(",")):
            address = _parse(text.strip())
            if address is None:
                break
            client = self.by_address(str(address))
            if not any(address in network for network in self._trusted):
                break
        return client


def _client(peer: str) -> str:
    address = _parse(peer)
    if isinstance(address, IPv6Address):
        return str(ip_network((address, _NETWORK_BITS), strict=False))
    return peer if address is None else str(address)


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    """Return the address in a text, which may have brackets, a port or a zone; None if there is none."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address

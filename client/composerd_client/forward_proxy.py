"""The proxy through which the client reaches the server: one that it was told, or that the environment names.

Answers that a proxy gives instead of composerd are in `proxies.py`.
"""

import base64
import ipaddress
import os
import re
from contextlib import suppress
from typing import NamedTuple, Self

from yarl import URL

from composerd_client.address import Address

_SEPARATORS = re.compile(r"[\s,]+")


class ForwardProxy(NamedTuple):
    """An HTTP proxy. It passes requests for http on, and opens a tunnel (CONNECT) for https."""

    url: str
    """The URL, without user and password."""
    authorization: str | None
    """The value of the header `Proxy-Authorization`; None if the proxy wants no login."""

    @classmethod
    def parse(cls, text: str, source: str) -> Self:
        """Return the proxy of a URL. Raises `ValueError`, which names the source, and no user and password."""
        with suppress(ValueError):  # raised by yarl and IDNA
            url = URL(text if "://" in text else f"http://{text}")
            if url.scheme == "http" and url.host and url.port and url.path in ("", "/") and not url.query_string:
                url.host.encode("idna")  # as the resolver does
                login = None
                if url.user is not None:
                    pair = f"{url.user}:{url.password or ''}".encode()
                    login = f"Basic {base64.b64encode(pair).decode()}"
                return cls(str(url.with_user(None).origin()), login)
        scheme, separator, rest = text.rpartition("://")
        shown = f"{scheme}{separator}{rest.rpartition('@')[2]}"[:200]
        raise ValueError(
            f"{source}: {shown!r} is not the URL of an HTTP proxy: write http://HOST:PORT or http://USER:PASSWORD@HOST:PORT"
        )


def forward_proxy(given: str | None, address: Address) -> ForwardProxy | None:
    """Return the proxy for a server; None if the client connects to it directly.

    `given` is the URL that the client was told; an empty one stands for no proxy. Without one, the environment decides,
    but never for this machine. A unix socket is never reached through a proxy. Raises `ValueError` if the proxy is none
    that can be used.
    """
    if address.socket_path is not None or given == "":
        return None
    if given is not None:
        return ForwardProxy.parse(given, "proxy")
    if address.is_local or _is_excepted(address, _variable("NO_PROXY")[1]):
        return None
    for name in ("HTTPS_PROXY" if address.https else "HTTP_PROXY", "ALL_PROXY"):
        source, named = _variable(name)
        if named:
            return ForwardProxy.parse(named, source)
    return None


def _variable(name: str) -> tuple[str, str]:
    """Return the name and the value of a variable: in small letters, or else in capitals, as in curl.

    A CGI program gets a header `Proxy` of a client as `HTTP_PROXY`, so that one is not used there.
    """
    if (value := os.environ.get(name.lower())) is not None:
        return name.lower(), value.strip()
    if name == "HTTP_PROXY" and "REQUEST_METHOD" in os.environ:
        return name, ""
    return name, os.environ.get(name, "").strip()


def _is_excepted(address: Address, exceptions: str) -> bool:
    """Return True if `NO_PROXY` names a server: by its name, a domain, an address, a network (CIDR), or all by `*`."""
    return any(_matches(address, entry) for entry in _SEPARATORS.split(exceptions.lower()) if entry)


def _matches(address: Address, entry: str) -> bool:
    name, _, port = entry.rpartition(":")
    if not port.isdecimal() or not name or (":" in name and not name.endswith("]")):
        name, port = entry, ""  # an IPv6 address without brackets has no port
    if port and int(port) != address.port:
        return False
    if name == "*":
        return True
    with suppress(ValueError):
        network = ipaddress.ip_network(name.strip("[]"), strict=False)
        with suppress(ValueError):
            return ipaddress.ip_address(address.host) in network
        return False
    domain = name.removeprefix("*").removeprefix(".")
    return bool(domain) and f".{address.host}".endswith(f".{domain}")

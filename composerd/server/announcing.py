"""The addresses of the server, told to people: on stdout, in the log, and in the status for the service manager."""

import logging
import socket
from collections.abc import Iterator, Sequence
from ipaddress import IPv6Address, ip_address

from composerd.server.sockets import describe
from composerd.server.unix_sockets import UnixSocket
from composerd.settings import Settings

log = logging.getLogger(__name__)


def announce(sockets: Sequence[socket.socket], settings: Settings) -> None:
    """Print the address of every socket on stdout, which tells scripts that the server is ready.

    Log a warning for each at which other machines can send requests without TLS and authentication, and for settings
    that have no effect on these sockets.
    """
    tls = settings.tls_cert is not None
    for why in _unused(sockets, settings):
        log.warning("a setting has no effect: %s", why)
    for listening in sockets:
        address = describe(listening, "https" if tls else "http")
        print(f"listening on {address}", flush=True)  # noqa: T201
        if not tls and _is_public(listening):
            log.warning(
                "listening on %s without TLS and authentication: every machine that can connect may submit jobs, take "
                "them and read what is sent; set tls_cert and tls_client_ca, or listen on a loopback address",
                address,
            )


def serving(sockets: Sequence[socket.socket], settings: Settings) -> str:
    """Return a sentence for people about where the server can be reached."""
    scheme = "http" if settings.tls_cert is None else "https"
    return f"serving on {', '.join(describe(listening, scheme) for listening in sockets)}"


def _unused(sockets: Sequence[socket.socket], settings: Settings) -> Iterator[str]:
    """Yield which settings have no effect on these sockets, and why."""
    unix = [listening for listening in sockets if listening.family == socket.AF_UNIX]
    if settings.tls_cert is not None and len(unix) == len(sockets):
        yield "tls_cert is for TCP addresses, and the server listens on unix sockets only"
    if "unix" in settings.trusted_proxies and not unix:
        yield "trusted_proxies names unix, and the server listens on no unix socket"
    if settings.socket_group is not None and not any(isinstance(listening, UnixSocket) for listening in unix):
        yield "socket_group is for unix sockets that --listen names; systemd sets the group of those that it passes"


def _is_public(listening: socket.socket) -> bool:
    if listening.family == socket.AF_UNIX:
        return False
    address = ip_address(listening.getsockname()[0].partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return not (mapped or address).is_loopback

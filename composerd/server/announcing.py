"""The addresses of the server, told to people: on stdout, in the log, and in the status for the service manager."""

import logging
import socket
from collections.abc import Iterator, Sequence

from composerd.server.sockets import describe, is_public
from composerd.server.unix_sockets import UnixSocket
from composerd.settings import Settings

log = logging.getLogger(__name__)


def announce(sockets: Sequence[socket.socket], settings: Settings) -> None:
    """Print the address of every socket on stdout, which tells scripts that the server is ready.

    Log a warning about those at which other machines can send requests without saying who they are, or without TLS, and
    for settings that have no effect on these sockets.
    """
    tls = settings.tls_cert is not None
    public = []
    for why in _unused(sockets, settings):
        log.warning("a setting has no effect: %s", why)
    for listening in sockets:
        address = describe(listening, "https" if tls else "http")
        print(f"listening on {address}", flush=True)  # noqa: T201
        if is_public(listening.family, listening.getsockname()):
            public.append(address)
    if public and not settings.protected:
        log.warning(
            "listening on %s without identities, as --insecure says: every machine that can connect may submit jobs, "
            "take them, and read and delete everything",
            ", ".join(public),
        )
    elif public and not tls and not settings.trusted_proxies:
        log.warning(
            "listening on %s without TLS: tokens and jobs can be read on the way; set tls_cert and tls_key, or put a "
            "proxy with TLS in front of the server and name it in trusted_proxies",
            ", ".join(public),
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
    if settings.socket_identities is not None and not unix:
        yield "socket_identities is for unix sockets, and the server listens on none"
    if settings.socket_identities is not None and "unix" in settings.trusted_proxies:
        yield "socket_identities is for peers on unix sockets, and trusted_proxies takes all of them for proxies"
    if settings.socket_group is not None and not any(isinstance(listening, UnixSocket) for listening in unix):
        yield "socket_group is for unix sockets that --listen names; systemd sets the group of those that it passes"
    if settings.insecure and settings.protected:
        yield "insecure is for servers without identities, and this one asks who its clients are"
    elif settings.insecure and not any(is_public(listening.family, listening.getsockname()) for listening in sockets):
        yield "insecure is for addresses where other machines can connect, and the server listens on none"

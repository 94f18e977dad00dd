"""The sockets that the server listens on: TCP addresses, unix paths, and sockets passed by systemd."""

import logging
import os
import re
import socket
from collections.abc import Collection, Sequence
from ipaddress import IPv6Address, ip_address
from typing import Any

from composerd.server.unix_sockets import UnixSocket, UnixSocketAccess, open_unix_socket
from composerd.settings import DEFAULT_ADDRESS, TCP_ADDRESS

log = logging.getLogger(__name__)

BACKLOG = 4096
"""The most connections that may wait to be accepted, for each socket."""

_FIRST_PASSED = 3  # see sd_listen_fds(3): the passed descriptors begin at 3


class ListenError(Exception):
    """The server cannot listen on an address; the message is one sentence for the operator."""


class _Passed(socket.socket):
    """A socket that another process has opened and goes on using, so that its file must not be removed."""


def open_sockets(addresses: Sequence[str], access: UnixSocketAccess, *, local_only: bool = True) -> list[socket.socket]:
    """Return the sockets that systemd has passed, and bind every other address.

    Without both, the default address is bound. `access` says who may connect to unix sockets that are bound. With
    `local_only`, addresses at which other machines can connect are refused. Raises `ListenError`.
    """
    sockets: list[socket.socket] = list(_passed_sockets())
    passed = {_name(listening) for listening in sockets}
    try:
        if local_only:
            for listening in sockets:
                _refuse_public(
                    f"a socket that systemd passes ({describe(listening)})", listening.family, _name(listening)
                )
        for address in addresses or (() if sockets else (DEFAULT_ADDRESS,)):
            sockets.extend(_open(address, access, passed, local_only=local_only))
    except BaseException:
        close_sockets(sockets)
        raise
    return sockets


def duplicate(listening: socket.socket) -> socket.socket:
    """Return a socket for one of several processes that listen on the same address. Raises `OSError`.

    For TCP it is a new socket on the same address: the kernel spreads connections evenly over such sockets, while on a
    shared socket the first process to wake up takes all of them. A unix socket, and one of systemd's, can only be
    shared.
    """
    if listening.family == socket.AF_UNIX or isinstance(listening, _Passed):
        return _Passed(fileno=os.dup(listening.fileno()))
    # Not set before the socket was bound, so that no other server could have bound the address too.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    own = _tcp(listening.family, listening.proto)
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        own.bind(listening.getsockname())
    except OSError:
        own.close()
        raise
    return own


def describe(listening: socket.socket, scheme: str = "http") -> str:
    """Return the address of a socket as a URL; `scheme` is that of TCP sockets."""
    name = listening.getsockname()
    if listening.family == socket.AF_UNIX:
        return f"http+unix:{name}" if name else "http+unix:"
    host = f"[{name[0]}]" if listening.family == socket.AF_INET6 else name[0]
    return f"{scheme}://{host}:{name[1]}"


def is_public(family: int, name: Any) -> bool:
    """Return True if other machines may be able to connect to a socket of this family with this name."""
    if family == socket.AF_UNIX:
        return False
    if family not in (socket.AF_INET, socket.AF_INET6):
        return True
    address = ip_address(name[0].partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return not (mapped or address).is_loopback


def close_sockets(sockets: Sequence[socket.socket]) -> None:
    """Close sockets, and remove the files of unix sockets, except for passed ones: systemd goes on using those."""
    for listening in sockets:
        if isinstance(listening, UnixSocket):
            listening.remove_file()
        listening.close()


def _name(listening: socket.socket) -> object:
    """Return the path of a unix socket, or the address and the port of another one."""
    name = listening.getsockname()
    return name if listening.family == socket.AF_UNIX else name[:2]


def _refuse_public(address: str, family: int, name: object) -> None:
    """Raise `ListenError` if other machines can connect there."""
    if is_public(family, name):
        raise ListenError(
            f"refusing to listen on {address}: every machine that can connect could do everything, because no "
            "identities are configured; set up tokens (`composerd token create`, then --tokens FILE), or accept that "
            "with --insecure"
        )


def _open(
    address: str, access: UnixSocketAccess, passed: Collection[object], *, local_only: bool
) -> list[socket.socket]:
    """Bind an address, unless it is that of a socket that was passed."""
    try:
        if not address.startswith("unix:"):
            return _open_tcp(address, passed, local_only=local_only)
        path = address.removeprefix("unix:")
        return [] if path in passed else [open_unix_socket(path, access)]
    except OSError as exc:
        raise ListenError(f"cannot listen on {address}: {exc.strerror or exc}") from exc


def _open_tcp(address: str, passed: Collection[object], *, local_only: bool) -> list[socket.socket]:
    match = TCP_ADDRESS.fullmatch(address)
    assert match is not None, "the settings have checked the address"
    host = match["v6"] or match["host"]
    found = socket.getaddrinfo(host or None, int(match["port"]), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, proto, _, target = found[0]
    if local_only:
        resolved = str(target[0])
        shown = address if resolved in address else f"{address} ({resolved})"
        _refuse_public(shown, family, target)
    if target[:2] in passed:
        return []
    listening = _tcp(family, proto)
    try:
        listening.bind(target)
    except OSError:
        listening.close()
        raise
    # SO_REUSEADDR lets a server bind beside old connections; until it listens, it would let a second server bind too.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    return [listening]


def listen(listening: socket.socket) -> None:
    """Make a bound socket listen, and never block.

    Connections inherit SO_REUSEADDR, which lets a later server bind while they are still open.
    """
    if listening.family != socket.AF_UNIX:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.listen(BACKLOG)
    listening.setblocking(False)


def _tcp(family: int, proto: int) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM, proto)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _enable_keepalive(listening)
    return listening


def _enable_keepalive(listening: socket.socket) -> None:
    """Notice within 30 s when a peer has vanished. Connections inherit this from the listening socket."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def _passed_sockets() -> list[_Passed]:
    meant = os.environ.get("LISTEN_PID")
    if meant is None:
        return []
    if meant != str(os.getpid()):
        log.warning(
            "the sockets of LISTEN_FDS are not served: they are meant for process %s, and this is process %d; start "
            "the server with exec if a script starts it",
            meant,
            os.getpid(),
        )
        return []
    count = os.environ.get("LISTEN_FDS", "")
    if not re.fullmatch(r"[0-9]{1,4}", count):
        raise ListenError(f"cannot listen on the sockets passed by systemd: LISTEN_FDS is {count!r}, not a number")
    return [_passed_socket(descriptor) for descriptor in range(_FIRST_PASSED, _FIRST_PASSED + int(count))]


def _passed_socket(descriptor: int) -> _Passed:
    try:
        passed = _Passed(fileno=descriptor)
        listens = passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as exc:
        raise ListenError(f"cannot listen on descriptor {descriptor} of LISTEN_FDS: {exc.strerror or exc}") from exc
    if not listens:
        raise ListenError(f"cannot listen on descriptor {descriptor} of LISTEN_FDS: it is not a listening socket")
    if passed.family != socket.AF_UNIX:
        _enable_keepalive(passed)
    return passed

"""The sockets that the server listens on: TCP addresses, unix paths, and those that systemd hands over."""

import os
import re
import socket
import stat
from collections.abc import Sequence
from pathlib import Path

BACKLOG = 4096

_FIRST_PASSED = 3  # sd_listen_fds(3): descriptors from 3 on

_TCP = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<host>[^:\[\]/]*)):(?P<port>[0-9]{1,5})")


class ListenError(Exception):
    """An address cannot be listened on; the message is a sentence for whoever configured it."""


def open_sockets(addresses: Sequence[str]) -> list[socket.socket]:
    """Bind every address, or take the sockets that systemd passed instead. Raises `ListenError`."""
    passed = _passed_sockets()
    if passed:
        return passed
    sockets: list[socket.socket] = []
    try:
        for address in addresses:
            sockets.extend(_open(address))
    except BaseException:
        for opened in sockets:
            opened.close()
        raise
    return sockets


def describe(listening: socket.socket) -> str:
    """The address of a socket as a URL."""
    name = listening.getsockname()
    if listening.family == socket.AF_UNIX:
        return f"http+unix:{name}" if name else "http+unix:"
    host = f"[{name[0]}]" if listening.family == socket.AF_INET6 else name[0]
    return f"http://{host}:{name[1]}"


def close_sockets(sockets: Sequence[socket.socket]) -> None:
    """Close sockets; the files of unix sockets go with them."""
    for listening in sockets:
        if listening.fileno() >= 0 and listening.family == socket.AF_UNIX and (path := listening.getsockname()):
            Path(path).unlink(missing_ok=True)
        listening.close()


def _open(address: str) -> list[socket.socket]:
    try:
        if address.startswith("unix:"):
            return [_open_unix(address.removeprefix("unix:"))]
        return _open_tcp(address)
    except OSError as exc:
        raise ListenError(f"cannot listen on {address}: {exc.strerror or exc}") from exc


def _open_tcp(address: str) -> list[socket.socket]:
    match = _TCP.fullmatch(address)
    if match is None or int(match["port"]) > 65535:
        raise ListenError(f"cannot listen on {address!r}: write HOST:PORT, [IPV6]:PORT or unix:/path")
    host = match["v6"] or match["host"]
    found = socket.getaddrinfo(host or None, int(match["port"]), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, proto, _, target = found[0]
    listening = socket.socket(family, kind, proto)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _notice_silent_death(listening)
    try:
        listening.bind(target)
    except OSError:
        listening.close()
        raise
    return [listening]


def _notice_silent_death(listening: socket.socket) -> None:
    """A peer that vanished is noticed within 30 s; connections inherit this from the socket that accepts them."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def _open_unix(path: str) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if Path(path).exists() and stat.S_ISSOCK(Path(path).stat().st_mode) and not _answers(path):
            Path(path).unlink()  # a server that was killed has left it
        listening.bind(path)
    except OSError:
        listening.close()
        raise
    return listening


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
        return True


def _passed_sockets() -> list[socket.socket]:
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(os.environ.get("LISTEN_FDS", "0"))
    return [socket.socket(fileno=descriptor) for descriptor in range(_FIRST_PASSED, _FIRST_PASSED + count)]

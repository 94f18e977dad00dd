"""The sockets that the server listens on: TCP addresses, unix paths, and those that systemd hands over."""

import logging
import os
import re
import socket
import ssl
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from aiohttp import web

from composerd.settings import TCP_ADDRESS

log = logging.getLogger(__name__)

BACKLOG = 4096

_FIRST_PASSED = 3  # sd_listen_fds(3): descriptors from 3 on


class ListenError(Exception):
    """An address cannot be listened on; the message is a sentence for whoever configured it."""


class _Passed(socket.socket):
    """A socket that somebody else has opened, and keeps."""


class Listeners:
    """What accepts connections for an application: a site for each socket, TCP ones with TLS if there is a `context`.

    `context` reads the certificates anew at every call.
    """

    def __init__(
        self, runner: web.AppRunner, sockets: Sequence[socket.socket], context: Callable[[], ssl.SSLContext] | None
    ) -> None:
        self._runner = runner
        self._sockets = sockets
        self._context = context
        self._secured: list[web.SockSite] = []

    async def start(self) -> None:
        """Accept connections."""
        if self._context is not None:
            await self._start_secured(self._context())
        for listening in self._sockets:
            if self._plain(listening):
                _listen(listening)
                await web.SockSite(self._runner, listening, backlog=BACKLOG).start()

    async def stop(self) -> None:
        """Accept no more: whoever connects from now on is refused."""
        for site in list(self._runner.sites):
            await site.stop()
        close_sockets(self._sockets)

    async def reload(self) -> None:
        """Meet new connections with the certificates as they are now; without TLS, or if they are no good, nothing changes."""
        if self._context is None:
            log.info("there are no certificates to reload")
            return
        try:
            context = self._context()
        except Exception as exc:  # noqa: BLE001  # whatever is wrong with the files, the server goes on with what it has
            log.error("the certificates were not reloaded, the old ones stay: %s", exc)  # noqa: TRY400  # a sentence
            return
        before = self._secured
        await self._start_secured(context)
        for site in before:
            await site.stop()
        log.info("the certificates were reloaded")

    async def _start_secured(self, context: ssl.SSLContext) -> None:
        """Listen with a context of its own on the same sockets: a site cannot change its context, and closes its socket."""
        for listening in self._sockets:
            if not self._plain(listening):
                _listen(listening)
        self._secured = [
            web.SockSite(self._runner, listening.dup(), ssl_context=context, backlog=BACKLOG)
            for listening in self._sockets
            if not self._plain(listening)
        ]
        for site in self._secured:
            await site.start()

    def _plain(self, listening: socket.socket) -> bool:
        return self._context is None or listening.family == socket.AF_UNIX


def open_sockets(addresses: Sequence[str]) -> list[socket.socket]:
    """Bind every address, or take the sockets that systemd passed instead. Raises `ListenError`."""
    sockets: list[socket.socket] = list(_passed_sockets())
    try:
        for address in () if sockets else addresses:
            sockets.extend(_open(address))
    except BaseException:
        for opened in sockets:
            opened.close()
        raise
    for listening in sockets:
        listening.setblocking(False)  # a copy would otherwise let it block, for all that share it
    return sockets


def another(listening: socket.socket) -> socket.socket:
    """A socket for one of several processes that listen to the same. Raises `OSError`.

    For TCP one of its own on the same address: among such sockets the kernel spreads connections evenly, while of one
    that processes share the first to wake takes all there are. A unix socket, and one of systemd's, can only be shared.
    """
    if listening.family == socket.AF_UNIX or isinstance(listening, _Passed):
        shared = _Passed(fileno=os.dup(listening.fileno()))
        shared.setblocking(False)
        return shared
    listening.setsockopt(
        socket.SOL_SOCKET, socket.SO_REUSEPORT, 1
    )  # not before it was bound: it was to be the only one
    own = _tcp(listening.family, listening.proto)
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        own.bind(listening.getsockname())
    except OSError:
        own.close()
        raise
    return own


def announce(sockets: Sequence[socket.socket], *, tls: bool) -> None:
    """Print every address, for whoever waits until there is a server."""
    for listening in sockets:
        print(f"listening on {describe(listening, 'https' if tls else 'http')}", flush=True)  # noqa: T201


def describe(listening: socket.socket, scheme: str = "http") -> str:
    """The address of a socket as a URL; `scheme` is what TCP speaks."""
    name = listening.getsockname()
    if listening.family == socket.AF_UNIX:
        return f"http+unix:{name}" if name else "http+unix:"
    host = f"[{name[0]}]" if listening.family == socket.AF_INET6 else name[0]
    return f"{scheme}://{host}:{name[1]}"


def close_sockets(sockets: Sequence[socket.socket]) -> None:
    """Close sockets; the files of unix sockets go with them, but not of those that were passed: systemd goes on listening there."""
    for listening in sockets:
        ours = not isinstance(listening, _Passed)
        if (
            ours
            and listening.fileno() >= 0
            and listening.family == socket.AF_UNIX
            and (path := listening.getsockname())
        ):
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
    match = TCP_ADDRESS.fullmatch(address)
    assert match is not None, "the settings are checked"
    host = match["v6"] or match["host"]
    found = socket.getaddrinfo(host or None, int(match["port"]), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, proto, _, target = found[0]
    listening = _tcp(family, proto)
    try:
        listening.bind(target)
    except OSError:
        listening.close()
        raise
    # What let it be bound beside connections of an earlier server would let another one bind it until this one listens.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    return [listening]


def _listen(listening: socket.socket) -> None:
    """Listen; connections inherit that a later server may bind beside them."""
    if listening.family != socket.AF_UNIX:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.listen(BACKLOG)


def _tcp(family: int, proto: int) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM, proto)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _notice_silent_death(listening)
    return listening


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


def _passed_sockets() -> list[_Passed]:
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    said = os.environ.get("LISTEN_FDS", "")
    if not re.fullmatch(r"[0-9]{1,4}", said):
        raise ListenError(f"cannot listen on what systemd passes: LISTEN_FDS is {said!r}, not a number")
    return [_passed_socket(descriptor) for descriptor in range(_FIRST_PASSED, _FIRST_PASSED + int(said))]


def _passed_socket(descriptor: int) -> _Passed:
    try:
        passed = _Passed(fileno=descriptor)
        listens = passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as exc:
        raise ListenError(f"cannot listen on descriptor {descriptor} of LISTEN_FDS: {exc.strerror or exc}") from exc
    if not listens:
        raise ListenError(
            f"cannot listen on descriptor {descriptor} of LISTEN_FDS: it is a socket that does not listen"
        )
    if passed.family != socket.AF_UNIX:
        _notice_silent_death(passed)
    return passed

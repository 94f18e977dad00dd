"""Accepting connections: each gets a place before anything is spent on it, the TLS handshake included."""

import asyncio
import contextlib
import errno
import logging
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from composerd.http.admission import Admission, Place
from composerd.server.sockets import close_sockets, listen

log = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT = 10.0
"""The most time in seconds that a TLS handshake may take."""

BATCH = 16
"""Connections that are accepted before other work is done."""

TRY_AGAIN_AFTER = 0.2
"""Pause in seconds before the next attempt to accept after descriptors or memory have run out."""

LEND_FOR = 1.0
"""Time in seconds that a connection may take which gets an answer although descriptors have run out."""

_SCARCE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Listeners:
    """Accepts connections for an application, on every socket; on TCP sockets with TLS if there is a `context`.

    `context` reads the certificates again at every call.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        context: Callable[[], ssl.SSLContext] | None,
        admission: Admission,
        protocol: Callable[[Place], asyncio.Protocol],
        timeout: float,
    ) -> None:
        """Serve each connection with what `protocol` returns for its place. A handshake may take `timeout` seconds."""
        self._sockets = sockets
        self._context = context
        timeout = min(timeout, HANDSHAKE_TIMEOUT)
        self._acceptors = [Acceptor(listening, admission, protocol, timeout) for listening in sockets]

    def start(self) -> None:
        """Accept connections."""
        if self._context is not None:
            self._use(self._context())
        for acceptor in self._acceptors:
            acceptor.start()

    async def stop(self) -> None:
        """Accept no more connections: new ones are refused."""
        for acceptor in self._acceptors:
            await acceptor.stop()
        close_sockets(self._sockets)

    def reload(self) -> None:
        """Read the certificates again, and use them for new connections.

        Without TLS nothing happens. If the files are wrong, log why and keep the old certificates in use.
        """
        if self._context is None:
            log.info("received SIGHUP, but TLS is off: there are no certificates to reload")
            return
        try:
            context = self._context()
        except Exception as exc:  # noqa: BLE001  # whatever is wrong with the files, the server must go on
            log.error("failed to reload the certificates, the old ones stay in use: %s", exc)  # noqa: TRY400
            return
        self._use(context)
        log.info("reloaded the certificates")

    def _use(self, context: ssl.SSLContext) -> None:
        for acceptor in self._acceptors:
            if not acceptor.unix:
                acceptor.context = context


class Acceptor:
    """Accepts the connections of one listening socket."""

    def __init__(
        self,
        listening: socket.socket,
        admission: Admission,
        protocol: Callable[[Place], asyncio.Protocol],
        handshake_timeout: float,
    ) -> None:
        """Serve each connection with what `protocol` returns for its place."""
        self.context: ssl.SSLContext | None = None
        """The TLS context of new connections; None for connections without TLS."""
        self._loop = asyncio.get_running_loop()
        self._listening = listening
        self.unix = listening.family == socket.AF_UNIX
        self._admission = admission
        self._protocol = protocol
        self._handshake_timeout = handshake_timeout
        self._opening: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._scarce = False
        """True from an attempt to accept that failed for want of descriptors or memory, until the next success."""
        self._reserve = _spare_descriptor()
        """A descriptor that is given up for one connection at a time when there are no others: it gets an answer."""
        self._lent: Place | None = None
        """The place of the connection for which the reserve was given up last."""
        self._lent_at = 0.0

    def start(self) -> None:
        """Accept connections."""
        listen(self._listening)
        self._go_on()

    def _go_on(self) -> None:
        self._pause = None
        if self._reserve is None:
            self._reserve = _spare_descriptor()
        if self._reserve is None:  # so there is no descriptor for a connection either
            if self._lent is not None and self._loop.time() > self._lent_at + LEND_FOR:
                self._lent.close()
            self._pause = self._loop.call_later(TRY_AGAIN_AFTER, self._go_on)
            return
        self._loop.add_reader(self._listening.fileno(), self._accept)

    async def stop(self) -> None:
        """Accept no more connections, and give up the TLS handshakes that are in progress."""
        if self._pause is not None:
            self._pause.cancel()
        if self._reserve is not None:
            os.close(self._reserve)
        self._loop.remove_reader(self._listening.fileno())
        if self.context is not None:
            for task in self._opening:
                task.cancel()
        if self._opening:
            await asyncio.wait(self._opening)

    def _accept(self) -> None:
        for _ in range(BATCH):
            try:
                connection, address = self._listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                if exc.errno in _SCARCE:
                    self._wait_for_room(exc)
                    return
                continue  # the connection broke before it was accepted
            if self._scarce:
                self._scarce = False
                log.info("accepting connections again")
            place = self._admission.admit(self._peer(address))
            self._serve(connection, place)
            if place.surplus:
                return  # first the event loop closes the connection that was displaced

    def _peer(self, address: Any) -> str | None:
        return None if self.unix else address[0]  # a peer on a unix socket chooses its path

    def _serve(self, connection: socket.socket, place: Place) -> None:
        connection.setblocking(False)
        task = self._loop.create_task(self._open(connection, place))
        place.close = task.cancel
        self._opening.add(task)
        task.add_done_callback(partial(self._opened, connection, place))

    async def _open(self, connection: socket.socket, place: Place) -> None:
        """Shake hands if there is TLS, and connect the protocol."""
        timeout = None if self.context is None else self._handshake_timeout
        await self._loop.connect_accepted_socket(
            partial(self._protocol, place), connection, ssl=self.context, ssl_handshake_timeout=timeout
        )

    def _opened(self, connection: socket.socket, place: Place, task: "asyncio.Task[None]") -> None:
        """Give up the place of a connection that was not opened. A failed handshake is not worth a line in the log."""
        self._opening.discard(task)
        if task.cancelled() or (error := task.exception()) is not None:
            place.free()
            connection.close()
            if not task.cancelled() and not isinstance(error, OSError):  # as `SSLError` and `TimeoutError` are
                log.error("failed to serve a connection", exc_info=error)

    def _wait_for_room(self, error: OSError) -> None:
        """Stop accepting for a moment: the connections that wait in the kernel make the socket ready all the time."""
        if not self._scarce:
            self._scarce = True
            log.error("cannot accept connections, trying again: %s", error.strerror)
        self._loop.remove_reader(self._listening.fileno())
        self._pause = self._loop.call_later(TRY_AGAIN_AFTER, self._go_on)
        if self._reserve is None:
            return
        os.close(self._reserve)
        self._reserve = None
        with contextlib.suppress(OSError):
            connection, address = self._listening.accept()
            self._lent = self._admission.admit_surplus(self._peer(address))
            self._lent_at = self._loop.time()
            self._serve(connection, self._lent)


def _spare_descriptor() -> int | None:
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None

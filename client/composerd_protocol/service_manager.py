"""Messages to the service manager that has started this process, as sd_notify(3) of systemd describes them."""

import asyncio
import logging
import os
import socket
import time
from collections.abc import MutableMapping
from typing import Protocol

log = logging.getLogger(__name__)

SEND_WITHIN = 1.0
"""Most time in seconds that a service manager which reads nothing may delay a message."""

_WATCHDOG_PARTS = 4
"""The number of signs of life in the time after which the service manager would kill the service."""


class Watching(Protocol):
    """Someone who wants to know again and again that a process is alive."""

    @property
    def sign_of_life_every(self) -> float | None:
        """Interval in seconds at which `alive` has to be called; None if it need not be."""

    def alive(self) -> None:
        """Give a sign of life."""


async def give_signs_of_life(to: Watching) -> None:
    """Tell again and again that this event loop runs, until canceled; return if nobody wants to know."""
    while (every := to.sign_of_life_every) is not None:
        to.alive()
        await asyncio.sleep(every)


class ServiceManager:
    """Tells the service manager how the service is doing. Without a service manager that asks for it, nothing is sent.

    Each message is one datagram, and there is no answer.
    """

    def __init__(self, address: str = "", watchdog: float | None = None) -> None:
        """Send messages to a unix socket: a path, or `@` and an abstract name; nowhere if the address is empty."""
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self.watchdog = watchdog if address else None
        """Time in seconds after which the service manager kills a service that gave no sign of life; None for never."""
        self._socket: socket.socket | None = None
        self._failed = False

    @classmethod
    def of(cls, environ: MutableMapping[str, str] = os.environ) -> "ServiceManager":
        """Return the service manager that the environment names, and remove its variables.

        So commands that this process starts do not send messages in its place.
        """
        address = environ.pop("NOTIFY_SOCKET", "")
        limit, process = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        is_meant = process in ("", str(os.getpid()))
        watchdog = int(limit) / 1e6 if is_meant and limit.isascii() and limit.isdecimal() and int(limit) else None
        return cls(address, watchdog)

    @property
    def sign_of_life_every(self) -> float | None:
        """Interval in seconds at which `alive` has to be called; None if it need not be."""
        return None if self.watchdog is None else self.watchdog / _WATCHDOG_PARTS

    def starting(self, status: str, within: float) -> None:
        """Tell that the service is starting, and is ready or tells this again within so many seconds."""
        self._send(f"STATUS={status}", f"EXTEND_TIMEOUT_USEC={int(within * 1e6)}")

    def ready(self, status: str) -> None:
        """Tell that the service has started, or has ended a reload; `status` is a sentence for people."""
        self._send("READY=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        """Tell people how the service is doing now."""
        self._send(f"STATUS={status}")

    def reloading(self) -> None:
        """Tell that a reload has begun. `ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str, within: float | None = None) -> None:
        """Tell that the service is about to end, and takes at most `within` seconds for that if it is known.

        A time limit of the service manager that is longer than that stays as it is.
        """
        extension = () if within is None else (f"EXTEND_TIMEOUT_USEC={int(within * 1e6)}",)
        self._send("STOPPING=1", f"STATUS={status}", *extension)

    def alive(self) -> None:
        """Give a sign of life."""
        self._send("WATCHDOG=1")

    def close(self) -> None:
        """Close the socket. Messages can be sent again afterwards."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *assignments: str) -> None:
        if not self._address:
            return
        message = "\n".join(one.replace("\n", " ") for one in assignments).encode(errors="replace")
        try:
            if self._socket is None:  # kept open: a sign of life must not fail for want of a descriptor
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
                self._socket.settimeout(SEND_WITHIN)
            self._socket.connect(self._address)  # each time, because a restarted manager has a new socket
            self._socket.send(message)
        except OSError as exc:
            if not self._failed:
                self._failed = True
                log.warning("cannot send a message to the service manager: %s", exc.strerror or exc)
        else:
            self._failed = False

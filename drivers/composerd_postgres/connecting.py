"""How a connection begins: aiopg loses sight of libpq when it goes on with another socket. What it is for, is in connections."""

import weakref
from typing import Any, cast

import aiopg
import psycopg2
from psycopg2 import extensions


class Connecting(aiopg.Connection):
    """Awaited, a connection to one address, or to what libpq takes where the DSN names none.

    libpq closes one socket and opens the next when TLS, or one of the addresses that it found by itself, turns out to be
    of no use. The loop would wait for the old one until the time is up, or fail on the new one if it has the old one's number:
    so nothing is registered with it while libpq is at work.
    """

    _connected = False

    @staticmethod
    def _ready(weak_self: "weakref.ref[Any]") -> None:
        self = cast("Connecting | None", weak_self())
        if self is None:
            return
        if self._connected:
            aiopg.Connection._ready(weak_self)  # noqa: SLF001  # there is no other way in
        else:
            self._go_on()

    def _go_on(self) -> None:
        loop, waiter = self._loop, self._waiter
        if self._fileno is not None:
            loop.remove_reader(self._fileno)
            loop.remove_writer(self._fileno)
        self._fileno = None  # if it fails there is none; its number may be somebody else's by then
        self._writing = False
        try:
            state = self._conn.poll()
        except psycopg2.Error as exc:
            if waiter is not None and not waiter.done():
                waiter.set_exception(exc)
            return
        self._fileno = self._conn.fileno()
        loop.add_reader(self._fileno, self._ready, self._weakref)
        if state == extensions.POLL_WRITE:
            loop.add_writer(self._fileno, self._ready, self._weakref)
            self._writing = True
        elif state == extensions.POLL_OK:
            self._connected = True
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

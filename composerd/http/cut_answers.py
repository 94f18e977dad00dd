"""Jobs whose answer was cut off: a client that sends its request again on a new connection has not got them.

libcurl, Deno, wget and Java's `HttpURLConnection` send a POST again by themselves when a connection breaks before the
answer has arrived.
"""

import fcntl
import struct
import termios
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar
from uuid import UUID

import msgspec

REMEMBERED = 1000
"""The most answers that were cut off, until their requests are repeated or the time for that is over; and the most
requests that several workers of a client have sent."""


class HandedOver(msgspec.Struct, frozen=True):
    """A job that was written to a connection, as long as the client has not sent another request on it."""

    token: UUID
    request: int
    """The hash of the request: of its client, its path and query, and its body."""
    confirm: bool
    """True if the worker has promised to call as soon as it has read the answer."""


class _Lost(msgspec.Struct, frozen=True):
    """A job whose answer was cut off."""

    token: UUID
    until: float
    doubtful: bool
    """True if the client may have got the answer."""


class CutAnswers:
    """The requests whose answers were cut off while they had a job."""

    def __init__(self, clock: Callable[[], float], seconds: float) -> None:
        """Remember a request for this number of seconds after its answer was cut off."""
        self._clock = clock
        self._seconds = seconds
        self._lost: OrderedDict[int, _Lost] = OrderedDict()
        """The jobs by request; the oldest first."""
        self._waiting: dict[int, int] = {}
        """For each request, the number of those that wait now."""
        self._shared: OrderedDict[int, float] = OrderedDict()
        """Requests of which several waited together, and until when that counts; the oldest first."""

    def lost(self, handed_over: HandedOver, transport: Any, *, reset: bool) -> None:
        """Remember a request whose connection was lost, if its client may not have got the whole answer.

        It has not if its machine has not acknowledged all of it when it closes the connection in the usual way.

        A reset says less. It may overtake the acknowledgement of an answer that was read, and an answer that was
        acknowledged may not have been read. Then the promise of the program to call decides, because it is kept in a
        moment. But several workers of one client may send equal requests, for example through a proxy that resets its
        connections when it is done with them. What is a repetition is then unknown.
        """
        if not ((reset and handed_over.confirm) or unacknowledged(transport)):
            return
        request = handed_over.request
        _put(self._lost, request, _Lost(handed_over.token, self._clock() + self._seconds, reset))

    def begin(self, request: int) -> UUID | None:
        """Count a request that is about to wait, until `end`.

        Returns the token of the job that was in the answer to an equal request, if that was cut off just now.
        """
        self._waiting[request] = waiting = self._waiting.get(request, 0) + 1
        if waiting > 1:
            _put(self._shared, request, self._clock() + self._seconds)
        if not self._lost or (lost := self._lost.pop(request, None)) is None:
            return None
        now = self._clock()
        if now >= lost.until or (lost.doubtful and self._shared.get(request, now) > now):
            return None
        return lost.token

    def end(self, request: int) -> None:
        """End the wait of a request."""
        self._waiting[request] -= 1
        if not self._waiting[request]:
            del self._waiting[request]


V = TypeVar("V")


def _put(values: OrderedDict[int, V], request: int, value: V) -> None:
    """Put a value for a request last, and forget the first one if there are too many."""
    values.pop(request, None)
    values[request] = value
    if len(values) > REMEMBERED:
        values.popitem(last=False)


def unacknowledged(transport: Any) -> bool:
    """Return True if the client's machine has not acknowledged all bytes that were written to a connection."""
    if transport.get_write_buffer_size():
        return True
    connection = transport.get_extra_info("socket")
    if connection is None or (descriptor := connection.fileno()) < 0:
        return False
    try:
        (waiting,) = struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)))
    except OSError:
        return False
    return bool(waiting)

"""Jobs whose answer was cut off: a client that sends its request again on a new connection has not got them.

libcurl, Deno, wget and Java's `HttpURLConnection` send a POST again by themselves when a connection breaks before the
answer has arrived.
"""

import fcntl
import struct
import termios
from collections import OrderedDict
from collections.abc import Callable
from typing import Any
from uuid import UUID

import msgspec

REMEMBERED = 1000
"""The most answers that were cut off, until their requests are repeated or the time for that is over."""


class HandedOver(msgspec.Struct, frozen=True):
    """A job that was written to a connection, as long as the client has not sent another request on it."""

    token: UUID
    request: int
    """The hash of the request: of its client, its path and query, and its body."""
    confirm: bool
    """True if the worker has promised to call as soon as it has read the answer."""


class CutAnswers:
    """The requests whose answers were cut off while they had a job."""

    def __init__(self, clock: Callable[[], float], seconds: float) -> None:
        """Remember a request for this number of seconds after its answer was cut off."""
        self._clock = clock
        self._seconds = seconds
        self._tokens: OrderedDict[int, tuple[UUID, float]] = OrderedDict()
        """For each request the token of its job, and until when it counts; the oldest first."""

    def lost(self, handed_over: HandedOver, transport: Any, *, reset: bool) -> None:
        """Remember a request whose connection was lost, if its client may not have got the whole answer.

        It has not if its machine has not acknowledged all of it. If the connection was reset after that, the program
        may have got it or not: then its promise to call decides, because it is kept in a moment. A client that closes
        its connection in the usual way has read what it was sent.
        """
        if not ((reset and handed_over.confirm) or unacknowledged(transport)):
            return
        tokens = self._tokens
        tokens.pop(handed_over.request, None)
        tokens[handed_over.request] = handed_over.token, self._clock() + self._seconds
        if len(tokens) > REMEMBERED:
            tokens.popitem(last=False)

    def take(self, request: int) -> UUID | None:
        """Return the token of the job that was in the answer to an equal request, if that was cut off just now."""
        if not self._tokens:
            return None
        token, until = self._tokens.pop(request, (None, 0.0))
        return token if self._clock() < until else None


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

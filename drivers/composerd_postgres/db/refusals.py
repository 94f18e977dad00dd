"""Recognizes, in the message with which a connection was refused, whether waiting may help. No I/O.

psycopg2 has no SQLSTATE for a connection that could not be opened, and the text may be in any language. But libpq puts
the SQLSTATE into the text if it is asked for verbose messages.
"""

import ctypes
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from psycopg2 import _psycopg

_DEFAULT, _VERBOSE = 1, 2
"""Values of libpq's `PGVerbosity`."""

_LASTING_STATES = ("28", "3D000", "42501")
"""The role may not log in, or its password is wrong; there is no such database; the role may not connect to it."""

_PROTOCOL_VIOLATION = "08P01"

_LASTING_TEXTS = (
    # libpq's own, which Python does not let it translate.
    "no password supplied",
    "server does not support SSL, but SSL was required",
    "certificate verify failed",
    "does not match host name",
    "certificate file",
    "private key file",
    # PgBouncer's, which are never translated, and all have the SQLSTATE 08P01.
    "unsupported startup parameter",
    "statement pooling mode",
    "password authentication failed",
    "no such user",
    "no such database",
    '" does not exist',
)

_HINTS = {
    "unsupported startup parameter": "a pooler refuses the settings of a session: if it is in transaction mode, add "
    "pooler=yes to the storage URL; if it is in session mode, let it ignore the parameter options "
    "(ignore_startup_parameters = options)",
    "statement pooling mode": "composerd needs transactions: set the pooler to session mode, or to transaction mode "
    "and add pooler=yes to the storage URL",
}
"""The advice that is added to messages of a pooler."""


def lasts(message: str) -> bool:
    """Return True if waiting cannot mend what a message says. It may be about two attempts: with TLS and without."""
    states = set(re.findall(r":  ([0-9A-Z]{5}): ", message)) - {_PROTOCOL_VIOLATION}
    if states:
        return all(state.startswith(_LASTING_STATES) for state in states)
    return any(text in message for text in _LASTING_TEXTS)


def explained(message: str) -> str:
    """Return a message on one line, without the place in PostgreSQL's source, and with what to do about it if known."""
    lines = [line for line in message.splitlines() if not re.match(r"\w+:  \w+, \w+\.c:\d+$", line)]
    text = " ".join(" ".join(lines).split())
    return "; ".join([text, *(hint for part, hint in _HINTS.items() if part in message)])


@contextmanager
def told(connection: Any) -> Iterator[None]:
    """Let a failure of a psycopg2 connection that is being opened have its SQLSTATE in the message."""
    _set_verbosity(connection.pgconn_ptr, _VERBOSE)
    yield
    _set_verbosity(connection.pgconn_ptr, _DEFAULT)


def _libpq_function() -> Callable[[int, int], Any]:
    """Return libpq's `PQsetErrorVerbosity`; a function that does nothing if this psycopg2 does not let it be found."""
    try:
        function = ctypes.CDLL(_psycopg.__file__).PQsetErrorVerbosity
    except (OSError, AttributeError):
        return lambda _connection, _verbosity: None
    function.argtypes = (ctypes.c_void_p, ctypes.c_int)
    return function


_set_verbosity = _libpq_function()

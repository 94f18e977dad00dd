"""Statements with COPY: payloads on their way into the database, where no log and no view shows them.

PostgreSQL can log every statement, and shows those that run to other roles, with all the values in them and their
parameters. What follows a COPY is in neither. psycopg2 refuses COPY on a connection that does not block, so these
statements are given to libpq, the library below it.
"""

import asyncio
import ctypes
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

import aiopg
import psycopg2
import psycopg2._psycopg
import psycopg2.errors

Payloads = Sequence[tuple[UUID, bytes]]
"""Rows of a table of payloads: the job and the body."""

CHUNK = 256 * 1024
"""Bytes that are handed to libpq at once; others have the event loop in between."""

_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END = b"\xff\xff"
_ROW = b"\0\2\0\0\0\x10%b%b"

_COPY_IN, _FATAL_ERROR = 4, 7
_SQLSTATE = ord("C")


def _libpq() -> Any:
    """Return the libpq that psycopg2 uses: a name is looked up in the libraries on which its module depends too."""
    library = ctypes.CDLL(psycopg2._psycopg.__file__)  # noqa: SLF001  # the module that is linked with libpq
    for name, result, *arguments in (
        ("PQsendQuery", ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p),
        ("PQputCopyData", ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int),
        ("PQputCopyEnd", ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p),
        ("PQflush", ctypes.c_int, ctypes.c_void_p),
        ("PQconsumeInput", ctypes.c_int, ctypes.c_void_p),
        ("PQisBusy", ctypes.c_int, ctypes.c_void_p),
        ("PQgetResult", ctypes.c_void_p, ctypes.c_void_p),
        ("PQresultStatus", ctypes.c_int, ctypes.c_void_p),
        ("PQresultErrorField", ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int),
        ("PQresultErrorMessage", ctypes.c_char_p, ctypes.c_void_p),
        ("PQstatus", ctypes.c_int, ctypes.c_void_p),
        ("PQerrorMessage", ctypes.c_char_p, ctypes.c_void_p),
        ("PQclear", None, ctypes.c_void_p),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


_pq = _libpq()


async def execute(connection: aiopg.Connection, statements: bytes, tables: Sequence[Payloads]) -> None:
    """Execute statements of which some are `COPY … (job_id, body) FROM STDIN (FORMAT binary)`, and drop their rows.

    Args:
        connection: A connection that executes nothing now. The caller closes it after anything but an error of the
            statements.
        statements: The text.
        tables: The payloads for each COPY, in the order of the text.

    Raises:
        psycopg2.Error: A statement failed, or the connection was lost (`InterfaceError`).
    """
    loop = asyncio.get_running_loop()
    raw = connection.raw
    copying = _Copying(raw)
    loop.add_reader(raw.fileno(), copying.ready)  # instead of aiopg, which would take anything for an answer
    try:
        await copying.execute(statements, iter(tables))
    finally:
        if (descriptor := raw.fileno()) >= 0:  # libpq has closed the socket if the connection was lost
            loop.add_reader(descriptor, connection._ready, connection._weakref)  # noqa: SLF001  # as before


class _Copying:
    """Statements that libpq executes on a connection of psycopg2."""

    def __init__(self, raw: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = raw.fileno()
        self._connection = raw.pgconn_ptr
        self._waiter: asyncio.Future[None] | None = None

    def ready(self) -> None:
        """Go on: the socket can be read, or written."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def execute(self, statements: bytes, tables: Iterator[Payloads]) -> None:
        if not _pq.PQsendQuery(self._connection, statements):
            raise self._failed()
        await self._flush()
        error = ""
        code: bytes | None = None
        while (result := await self._result()) is not None:
            status = _pq.PQresultStatus(result)
            if status == _FATAL_ERROR:
                code = _pq.PQresultErrorField(result, _SQLSTATE)
                error = _pq.PQresultErrorMessage(result).decode("utf-8", "replace").removeprefix("ERROR:").strip()
            _pq.PQclear(result)
            if status == _COPY_IN:
                await self._send(next(tables))
        if error:
            raise _lost(error) if code is None or _pq.PQstatus(self._connection) else _refused(code.decode(), error)

    async def _send(self, payloads: Payloads) -> None:
        for chunk in _chunks(payloads):
            if _pq.PQputCopyData(self._connection, chunk, len(chunk)) != 1:
                raise self._failed()
            await self._flush()
            if len(chunk) == CHUNK:
                await asyncio.sleep(0)
        if _pq.PQputCopyEnd(self._connection, None) != 1:
            raise self._failed()
        await self._flush()

    async def _flush(self) -> None:
        """Send what libpq has collected, and read meanwhile: the database may have something to say first."""
        while left := _pq.PQflush(self._connection):
            if left < 0:
                raise self._failed()
            self._loop.add_writer(self._socket, self.ready)
            try:
                await self._wait()
            finally:
                self._loop.remove_writer(self._socket)

    async def _result(self) -> int | None:
        while _pq.PQisBusy(self._connection):
            await self._wait()
        found: int | None = _pq.PQgetResult(self._connection)
        return found

    def _read(self) -> None:
        if not _pq.PQconsumeInput(self._connection):
            raise self._failed()

    async def _wait(self) -> None:
        """Wait until something has arrived, or can be sent; and read it."""
        self._waiter = self._loop.create_future()
        await self._waiter
        self._waiter = None
        self._read()

    def _failed(self) -> psycopg2.Error:
        """Return the error for a call of libpq that failed, which means that the connection was lost."""
        return _lost(_pq.PQerrorMessage(self._connection).decode("utf-8", "replace"))


def _lost(message: str) -> psycopg2.Error:
    return psycopg2.InterfaceError(message)


def _refused(sqlstate: str, message: str) -> psycopg2.Error:
    """Return the error that psycopg2 would raise for a statement that failed."""
    try:
        return psycopg2.errors.lookup(sqlstate)(message)
    except KeyError:
        return psycopg2.DatabaseError(message)


def _chunks(payloads: Payloads) -> Iterator[bytes]:
    """Yield what COPY reads in its binary format: small rows together, and large ones in pieces."""
    collected = bytearray(_HEADER)
    for job_id, body in payloads:
        collected += _ROW % (job_id.bytes, len(body).to_bytes(4))
        for begin in range(0, len(body), CHUNK):
            collected += body[begin : begin + CHUNK]
            while len(collected) >= CHUNK:
                yield bytes(collected[:CHUNK])
                del collected[:CHUNK]
    yield bytes(collected) + _END

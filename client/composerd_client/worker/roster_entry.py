"""The entry of a worker in the server's list: it says that the worker has a problem, or that it has ended."""

import asyncio
import contextlib
import uuid
from collections.abc import Sequence

import msgspec

from composerd_client.answers import Expected
from composerd_client.connection import Connection
from composerd_client.errors import ClientError

REPORT_WITHIN = 5.0
"""Seconds that a worker tries to report a problem, or that it has none any more."""

SIGN_OFF_WITHIN = 3.0
"""Seconds by which an absent server may delay the end of a worker."""

_LONGEST_PROBLEM = 500
"""The most characters of a problem that a server accepts."""

_encode = msgspec.json.Encoder().encode


class RosterEntry:
    """The entry of one worker. `base` is the path of the server's worker API.

    Nothing depends on the entry, so an error of the server is ignored.
    """

    def __init__(
        self, connection: Connection, base: str, *, worker_id: uuid.UUID, types: Sequence[str], arch: str
    ) -> None:
        self._connection = connection
        self._path = f"{base}/workers/{worker_id}"
        self._description = {"types": types, "arch": arch}

    async def report(self, problem: str | None) -> None:
        """Say why the worker requests no jobs, or None if it does again."""
        shown = None if problem is None else problem.encode(errors="replace").decode()[:_LONGEST_PROBLEM]
        body = _encode({**self._description, "problem": shown})
        await self._send("POST", f"{self._path}/status", Expected("", (200,)), body, REPORT_WITHIN)

    async def sign_off(self) -> None:
        """Say that the worker has ended."""
        await self._send("DELETE", self._path, Expected("", (204,)), None, SIGN_OFF_WITHIN)

    async def _send(self, method: str, path: str, expected: Expected, body: bytes | None, within: float) -> None:
        with contextlib.suppress(ClientError, TimeoutError):
            async with asyncio.timeout(within):
                await self._connection.request(
                    method, path, expected, body=body, small=True, repeat=True, patience=within
                )

"""The uploads of one attempt: each is checked against the digest in its answer, and listed with the result."""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import ExitStack, suppress
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec

from composerd.client.connection import Connection, as_data, read_answer
from composerd.client.errors import DamagedUpload, OutcomeUnknown, ProxyAnswered, RequestFailed, ServerUnreachable
from composerd.client.repeating import BodyBackoff, may_pass
from composerd.client.values import Attempt
from composerd.content_digest import content_digest, sha256_in

log = logging.getLogger(__name__)

_ANSWER_WITHIN = 3600.0
"""Seconds that the answer to a complete upload may take: a proxy may keep the file, and send it on only then.

Heartbeats notice meanwhile that the attempt is over.
"""

_LARGEST_ANSWER = 64 * 1024
"""Bytes of the largest answer to an upload."""


class Uploaded(msgspec.Struct, frozen=True):
    """A file that the server has stored."""

    name: str
    size: int
    sha256: str
    """The digest in hexadecimal."""


class _Stored(msgspec.Struct):
    sha256: str = ""


_STORED = msgspec.json.Decoder(_Stored)


class Uploads:
    """Uploads files of one attempt, and knows which of them the server has."""

    def __init__(self, connection: Connection, attempt: Attempt) -> None:
        self._connection = connection
        self._attempt = attempt
        self._stored: dict[str, Uploaded] = {}
        self._unknown: set[str] = set()
        """The names of files of which the server may have another version than `_stored` says."""

    @property
    def stored(self) -> list[Uploaded] | None:
        """The files that the server has, by name; None if that is not known for all of them."""
        return None if self._unknown else [self._stored[name] for name in sorted(self._stored)]

    async def upload(self, name: str, source: Path | bytes | BufferedReader | AsyncIterable[bytes]) -> None:
        """Upload a file; see `JobContext.upload`."""
        path = self._attempt.artifact_location + quote(name, safe="")
        self._unknown.add(name)
        try:
            if isinstance(source, Path | bytes | BufferedReader):
                size, sha256 = await asyncio.to_thread(_size_and_sha256, source)
                await self._put_until_available(path, source, sha256)
            else:
                sums = _Sums(source)
                await self._put(path, sums.parts(), sums=sums)
                size, sha256 = sums.size, sums.digest.hexdigest()
        except RequestFailed as exc:
            if not isinstance(exc, ProxyAnswered | OutcomeUnknown):
                self._unknown.discard(name)  # the server has what it had
            raise
        self._stored[name] = Uploaded(name, size, sha256)
        self._unknown.discard(name)

    async def _put_until_available(self, path: str, source: Path | bytes | BufferedReader, sha256: str) -> None:
        backoff = BodyBackoff(partial(self._connection.answers, self._attempt.location))
        while True:
            try:
                with ExitStack() as stack:
                    data: Any = as_data(source) if isinstance(source, bytes) else source
                    if isinstance(source, Path):
                        data = stack.enter_context(await asyncio.to_thread(source.open, "rb"))
                    elif isinstance(source, BufferedReader):
                        data = stack.enter_context(_again(source))
                    await self._put(path, data, sha256=sha256)
            except (ServerUnreachable, RequestFailed) as exc:
                if isinstance(exc, RequestFailed) and not may_pass(exc):
                    raise
                await backoff.failed(exc, _warn)
            else:
                return

    async def _put(self, path: str, data: Any, sha256: str | None = None, sums: "_Sums | None" = None) -> None:
        """Send a file once. Raises `DamagedUpload` if the server says that it has stored other bytes."""
        headers = {"Content-Type": "application/octet-stream", "Accept": "application/json"}
        if sha256 is not None:
            headers["Content-Digest"] = content_digest(sha256)
        async with self._connection.open(
            "PUT", path, data=data, headers=headers, answer_within=_ANSWER_WITHIN
        ) as response:
            stored = await _stored_digest(response)
        sent = sums.digest.hexdigest() if sums is not None else sha256
        if stored is not None and stored != sent:
            raise DamagedUpload(f"the server has stored other bytes than were sent: sha256 {stored[:64]}")


class _Sums:
    """The size and the digest of parts that are being sent."""

    def __init__(self, source: AsyncIterable[bytes]) -> None:
        self._source = source
        self.size = 0
        self.digest = hashlib.sha256()

    async def parts(self) -> AsyncIterator[bytes]:
        """Yield the parts of the source, and count them."""
        async for part in self._source:
            self.size += len(part)
            self.digest.update(part)
            yield part


async def _stored_digest(response: aiohttp.ClientResponse) -> str | None:
    """Return the digest in the answer to an upload, in hexadecimal; None for a server of before, which sends none."""
    with suppress(ValueError):
        if (sha256 := sha256_in(response.headers.get("Content-Digest", ""))) is not None:
            return sha256
    body = await read_answer(response, _LARGEST_ANSWER)
    try:
        return (_STORED.decode(body).sha256 or None) if body else None
    except (msgspec.DecodeError, RecursionError, ValueError):
        return None


def _again(file: BufferedReader) -> BufferedReader:
    """Return a reader of the whole of an open file, which stays open when the reader is closed."""
    reader = open(file.fileno(), "rb", closefd=False)  # noqa: SIM115  # of a descriptor; the caller closes it
    reader.seek(0)
    return reader


def _size_and_sha256(source: Path | bytes | BufferedReader) -> tuple[int, str]:
    if isinstance(source, bytes):
        return len(source), hashlib.sha256(source).hexdigest()
    with source.open("rb") if isinstance(source, Path) else _again(source) as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), sha256


def _warn(error: Exception) -> None:
    log.warning("upload failed, trying again: %s", error)

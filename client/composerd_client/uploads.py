"""The uploads of one attempt: each is checked against the digest in its answer, and listed with the result."""

import asyncio
import hashlib
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from io import BufferedReader
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

import msgspec

from composerd_client.answers import UNDECODABLE, Expected
from composerd_client.connection import Connection
from composerd_client.errors import (
    DamagedUpload,
    OutcomeUnknown,
    ProxyAnswered,
    RequestFailed,
    ServerUnreachable,
    TokenRefused,
)
from composerd_client.repeating import BodyBackoff, may_pass
from composerd_client.values import Attempt
from composerd_protocol.content_digest import content_digest, sha256_in
from composerd_protocol.file_names import problem_with

_ANSWER_WITHIN = 60.0
"""Seconds that the server may take to answer a complete upload."""

_SLOWEST = 16 * 1024
"""Bytes of an upload that arrive in a second at least, because the server refuses slower ones.

This counts after the upload, because a proxy may keep a file before it sends it on. Heartbeats notice meanwhile that
the attempt is over.
"""

_LONGEST = 3600.0
"""Seconds that the answer to a large upload may take, and to one whose size is not known before it is sent."""

_LARGEST_ANSWER = 64 * 1024
"""Bytes of the largest answer to an upload."""

_PART = 1024 * 1024
"""Bytes of a file that are read at once for its digest."""


class Uploaded(msgspec.Struct, frozen=True):
    """A file that the server has stored."""

    name: str
    size: int
    sha256: str
    """The digest in hexadecimal."""


class _Stored(msgspec.Struct):
    kind: str
    name: str
    sha256: str


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
        _check(name, source)
        path = self._attempt.artifact_location + quote(name, safe="")
        sums = _Sums()
        if isinstance(source, Path | bytes | BufferedReader):
            await asyncio.to_thread(sums.of, source)
        self._unknown.add(name)
        try:
            if isinstance(source, Path | bytes | BufferedReader):
                await self._put_until_available(name, path, source, sums)
            else:
                await self._put(name, path, sums.counted(source), sums, answer_within=_LONGEST)
        except ProxyAnswered as exc:
            reason = f"the file {name!r} of {sums.size} bytes was not stored: {exc.reason}"
            raise ProxyAnswered(exc.status, reason, exc.proxy) from exc
        except ServerUnreachable:
            if sums.error is not None:
                raise sums.error from None
            raise
        except OutcomeUnknown:
            raise
        except RequestFailed:
            self._unknown.discard(name)  # the server has what it had
            raise
        self._stored[name] = Uploaded(name, sums.size, sums.digest.hexdigest())
        self._unknown.discard(name)

    async def _put_until_available(
        self, name: str, path: str, source: Path | bytes | BufferedReader, sums: "_Sums"
    ) -> None:
        headers = {"Content-Digest": content_digest(sums.digest.hexdigest())}
        answer_within = min(_ANSWER_WITHIN + sums.size / _SLOWEST, _LONGEST)
        status = Expected("JobStatus", id=self._attempt.token)
        backoff = BodyBackoff(partial(self._connection.answers, self._attempt.location, status))
        with self._connection.outages.of(f"upload {name!r} of job {self._attempt.id}") as outage:
            while True:
                try:
                    with ExitStack() as stack:
                        data: Any = source
                        if isinstance(source, Path):
                            data = stack.enter_context(await asyncio.to_thread(source.open, "rb"))
                        elif isinstance(source, BufferedReader):
                            data = stack.enter_context(_again(source))
                        await self._put(name, path, data, sums, headers, answer_within=answer_within)
                except (ServerUnreachable, RequestFailed, TokenRefused) as exc:
                    passes = not isinstance(exc, RequestFailed) or may_pass(exc, source)
                    if not passes and not self._connection.lets_in_again(exc):
                        raise
                    await backoff.failed(exc, outage.failed)
                else:
                    return

    async def _put(
        self,
        name: str,
        path: str,
        data: Any,
        sums: "_Sums",
        headers: Mapping[str, str] = MappingProxyType({}),
        *,
        answer_within: float,
    ) -> None:
        """Send a file once. Raises `DamagedUpload` if the server says that it has stored other bytes."""
        headers = {"Content-Type": "application/octet-stream", "Accept": "application/json", **headers}
        async with self._connection.transport.open(
            "PUT", path, body=data, headers=headers, answer_within=answer_within
        ) as response:
            answer = await response.read(_LARGEST_ANSWER)
            if response.status != 200 or answer is None or not _is_about(name, answer):
                raise response.refused("it does not say that the file is stored", answer or b"")
            stored = _stored_digest(response.headers, answer)
        if stored is not None and stored != sums.digest.hexdigest():
            raise DamagedUpload(f"the server has stored other bytes than were sent: sha256 {stored[:64]}")


class _Sums:
    """The size and the digest of a file."""

    def __init__(self) -> None:
        self.size = 0
        self.digest = hashlib.sha256()
        self.error: Exception | None = None
        """The error of an iterable, for which aiohttp has one of its own."""

    def of(self, source: Path | bytes | BufferedReader) -> None:
        """Read a file. This blocks."""
        if isinstance(source, bytes):
            self._add(source)
            return
        with source.open("rb") if isinstance(source, Path) else _again(source) as file:
            while part := file.read(_PART):
                self._add(part)

    async def counted(self, source: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        """Yield the parts of a file that are about to be sent."""
        try:
            async for part in source:
                self._add(part)
                yield part
        except Exception as exc:
            self.error = exc
            raise

    def _add(self, part: bytes) -> None:
        self.size += len(part)
        self.digest.update(part)


def _check(name: str, source: object) -> None:
    """Raise `TypeError` or `ValueError` if this cannot be uploaded under this name."""
    if not isinstance(source, Path | bytes | BufferedReader | AsyncIterable):
        kinds = "bytes, a Path, a file opened with 'rb' or an asynchronous iterable of bytes"
        raise TypeError(f"an upload is {kinds}, and not {type(source).__name__}")
    if not isinstance(name, str):
        raise TypeError(f"the name of an artifact is a str, and not {type(name).__name__}")
    problem = problem_with(name)
    if problem is not None:
        raise ValueError(f"the name of an artifact {problem}, and this one is {name[:100]!r}")


def _is_about(name: str, body: bytes) -> bool:
    """Return True if the body of an answer to an upload is about this file, or empty."""
    try:
        stored = _STORED.decode(body) if body else None
    except UNDECODABLE:
        return False
    return stored is None or (stored.kind, stored.name) == ("Artifact", name)


def _stored_digest(headers: Mapping[str, str], body: bytes) -> str | None:
    """Return the digest in the answer to an upload, in hexadecimal.

    None if a proxy has removed it: then the server compares the file with the list that comes with the result.
    """
    with suppress(ValueError):
        if (sha256 := sha256_in(headers.get("Content-Digest", ""))) is not None:
            return sha256
    return _STORED.decode(body).sha256 if body else None


def _again(file: BufferedReader) -> BufferedReader:
    """Return a reader of the whole of an open file, which stays open when the reader is closed."""
    reader = open(file.fileno(), "rb", closefd=False)  # noqa: SIM115  # of a descriptor; the caller closes it
    reader.seek(0)
    return reader

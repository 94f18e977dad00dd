"""JobContext: a handler's access to its job, through which it reports progress and uploads files."""

import asyncio
import hashlib
import logging
from base64 import b64encode
from collections.abc import AsyncIterable, Awaitable, Callable
from contextlib import ExitStack
from io import BufferedReader
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from composerd.client.connection import Backoff, Connection, as_data
from composerd.client.errors import RequestFailed, ServerUnreachable
from composerd.client.values import Attempt

log = logging.getLogger(__name__)

_encode = msgspec.json.Encoder().encode


class JobContext:
    """A handler's access to its job: the args, and methods to report progress and to upload files."""

    def __init__(self, connection: Connection, attempt: Attempt) -> None:
        self._connection = connection
        self._attempt = attempt
        self.id = attempt.id
        self.type = attempt.type

    @property
    def args_json(self) -> bytes:
        """The args as JSON, byte for byte as they were submitted; empty if the job has none."""
        return bytes(self._attempt.args)

    @property
    def args(self) -> Any:
        """The args, decoded; None if the job has none.

        Numbers and repeated keys lose their spelling; `args_json` has the bytes.
        """
        return msgspec.json.decode(self.args_json) if self.args_json else None

    @property
    def dynamic_args_json(self) -> bytes:
        """The results of the dependencies as a JSON array, in the order of the dependencies."""
        return _encode(self._attempt.dynamic_args)

    @property
    def dynamic_args(self) -> list[Any]:
        """The results of the dependencies, decoded, in the order of the dependencies."""
        return [msgspec.json.decode(result) for result in self._attempt.dynamic_args]

    async def progress(self, partial: Any) -> None:
        """Report progress: any JSON.

        The report is dropped if the server is unavailable or full, so that the job is not delayed. Raises
        `RequestFailed` if the server refuses the report, for example because the job was canceled.
        """
        body = _encode({"partial": partial})
        try:
            await self._connection.request("PATCH", self._attempt.location, body=body, patience=0.0)
        except ServerUnreachable:
            pass
        except RequestFailed as exc:
            if exc.status < 500:
                raise

    async def upload(self, name: str, source: Path | bytes | BufferedReader | AsyncIterable[bytes]) -> None:
        """Upload a file, which becomes an artifact of the job when this attempt finishes it.

        A path, bytes or an open file are sent again until the server is available; an iterable is sent once, and the
        server ends the upload if the iterable yields too little for a while. Raises `RequestFailed`, and for an
        iterable also `ServerUnreachable`.
        """
        path = self._attempt.artifact_location + quote(name, safe="")
        if isinstance(source, Path | bytes | BufferedReader):
            digest = await asyncio.to_thread(_sha256, source)
            headers = {"Content-Digest": f"sha-256=:{b64encode(digest).decode()}:"}
            await _until_available(lambda: self._put(path, source, headers))
        else:
            await self._put(path, source, {})

    async def _put(
        self, path: str, source: Path | bytes | BufferedReader | AsyncIterable[bytes], headers: dict[str, str]
    ) -> None:
        headers = {"Content-Type": "application/octet-stream", **headers}
        with ExitStack() as stack:
            data: Any = as_data(source) if isinstance(source, bytes) else source
            if isinstance(source, Path):
                data = stack.enter_context(await asyncio.to_thread(source.open, "rb"))
            elif isinstance(source, BufferedReader):
                data = stack.enter_context(_again(source))
            async with self._connection.open("PUT", path, data=data, headers=headers, answer_within=300.0):
                pass


async def _until_available(call: Callable[[], Awaitable[None]]) -> None:
    """Repeat a call until the server is available."""
    backoff = Backoff()
    while True:
        try:
            await call()
        except (ServerUnreachable, RequestFailed) as exc:
            if isinstance(exc, RequestFailed) and exc.status < 500:
                raise
            log.warning("upload failed, trying again: %s", exc)
            await backoff.failed(exc)
        else:
            return


def _again(file: BufferedReader) -> BufferedReader:
    """Return a reader of the whole of an open file, which stays open when the reader is closed."""
    reader = open(file.fileno(), "rb", closefd=False)  # noqa: SIM115  # of a descriptor; the caller closes it
    reader.seek(0)
    return reader


def _sha256(source: Path | bytes | BufferedReader) -> bytes:
    if isinstance(source, bytes):
        return hashlib.sha256(source).digest()
    with source.open("rb") if isinstance(source, Path) else _again(source) as file:
        return hashlib.file_digest(file, "sha256").digest()

"""JobContext: a handler's access to its job, through which it reports progress and uploads files."""

import logging
from collections.abc import AsyncIterable
from io import BufferedReader
from pathlib import Path
from typing import Any

import msgspec

from composerd_client.answers import Expected
from composerd_client.blocking import ClientLoop, blocking
from composerd_client.connection import Connection
from composerd_client.errors import ProxyAnswered, RequestFailed, ServerUnreachable
from composerd_client.uploads import Uploaded, Uploads
from composerd_client.values import Attempt

_PROGRESS_WITHIN = 10.0
"""Seconds that the answer to a report of progress may take, before the report is dropped."""

log = logging.getLogger(__name__)

_encode = msgspec.json.Encoder().encode


class JobContext:
    """A handler's access to its job: the args, and methods to report progress and to upload files.

    A handler that is a plain function, and so runs in a thread, calls those of `sync`.
    """

    def __init__(self, connection: Connection, attempt: Attempt, loop: ClientLoop) -> None:
        self._connection = connection
        self._attempt = attempt
        self._uploads = Uploads(connection, attempt)
        self._loop = loop
        self.id = attempt.id
        """The id of the job."""
        self.type = attempt.type
        """The type of the job."""

    @property
    def sync(self) -> "SyncJobContext":
        """The methods `progress` and `upload` for handlers that are plain functions."""
        return SyncJobContext(self, self._loop)

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

        The report is dropped if the server is unavailable or full, or if a proxy answers instead of it, so that the job
        is not delayed. Raises `RequestFailed` if the server refuses the report, for example because the job was
        canceled.
        """
        body = _encode({"partial": partial})
        expected = Expected("UpdateJobResponse", id=self._attempt.token)
        try:
            await self._connection.request(
                "PATCH", self._attempt.location, expected, body=body, patience=0.0, answer_within=_PROGRESS_WITHIN
            )
        except (ServerUnreachable, RequestFailed) as exc:
            if isinstance(exc, RequestFailed) and not isinstance(exc, ProxyAnswered) and exc.status < 500:
                raise
            if self._connection.outages.may_say(f"report the progress of job {self.id}"):
                log.warning("job %s: progress of %d bytes dropped: %s", self.id, len(body), exc)

    async def upload(self, name: str, source: Path | bytes | BufferedReader | AsyncIterable[bytes]) -> None:
        """Upload a file, which becomes an artifact of the job when this attempt finishes it.

        A path, bytes or an open file are sent again until the server is available; an iterable is sent once, and the
        server ends the upload if the iterable yields too little for a while; its errors are raised. Raises `ValueError`
        for a name that no artifact may have, `RequestFailed`, `DamagedUpload` if the server has stored other bytes, and
        `ServerUnreachable` for an iterable, or if the connection always breaks.
        """
        await self._uploads.upload(name, source)

    @property
    def uploaded(self) -> list[Uploaded] | None:
        """The files that the server has stored for this attempt; None if an upload has failed in an unknown way."""
        return self._uploads.stored


class SyncJobContext:
    """The methods of a `JobContext` for a handler that is a plain function: `job.sync.upload("log.txt", log)`.

    They have the same arguments and errors, and wait for the answer. Besides, they raise `RuntimeError` once the job
    was canceled or its lease has expired, and in a coroutine, where they would block the worker.
    """

    def __init__(self, job: JobContext, loop: ClientLoop) -> None:
        self._asynchronous = job
        self._client_loop = loop

    progress = blocking(JobContext.progress)
    upload = blocking(JobContext.upload)

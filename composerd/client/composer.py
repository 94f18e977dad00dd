"""ComposerClient: submitting jobs, following them to their end, and fetching what they left."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import msgspec

from composerd.client.connection import DEFAULT_SERVER, Connection, decoded
from composerd.client.errors import DamagedDownload
from composerd.client.values import Artifact, ArtifactList, Job, JobList, Why, WorkerList, WorkerSeen

BASE = "/api/composer/v1"

WAIT = 30.0
"""How long one request of `wait` is held, in seconds."""

_PART = 256 * 1024

_JOB = msgspec.json.Decoder(Job)
_JOBS = msgspec.json.Decoder(JobList)
_ARTIFACTS = msgspec.json.Decoder(ArtifactList)
_WHY = msgspec.json.Decoder(Why)
_WORKERS = msgspec.json.Decoder(WorkerList)
_encode = msgspec.json.Encoder().encode


class ComposerClient:
    """A client of the composer API; an async context manager.

    >>> async with ComposerClient("http://127.0.0.1:8700") as composer:
    ...     job = await composer.submit("build", args={"what": "an image"})
    ...     job = await composer.wait(job.id)

    `server` is a URL or `unix:/path`; `patience` is for how long, in seconds, requests that may be repeated are
    repeated while the server is away. For https, `ca_file` is who signed the server's certificate, `cert_file` and
    `key_file` are the client's own, all PEM. Every method raises `RequestFailed` with the server's reason, and
    `ServerUnreachable`.
    """

    def __init__(
        self,
        server: str = DEFAULT_SERVER,
        patience: float = 0.0,
        *,
        ca_file: Path | str | None = None,
        cert_file: Path | str | None = None,
        key_file: Path | str | None = None,
    ) -> None:
        self._connection = Connection(server, patience, ca_file=ca_file, cert_file=cert_file, key_file=key_file)

    async def __aenter__(self) -> Self:
        await self._connection.__aenter__()
        return self

    async def __aexit__(
        self, type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._connection.__aexit__(type, exc, tb)

    async def submit(self, type: str, args: Any = msgspec.UNSET, **fields: Any) -> Job:
        """Submit a job; `fields` are those of PROTOCOL's submitted job. `msgspec.Raw` args are sent as they are.

        With an `idempotency_key` it is repeated safely, and an existing job is answered.
        """
        body = {"type": type, **_without_none(fields)}
        if args is not msgspec.UNSET:
            body["args"] = args
        answer = await self._connection.request(
            "POST", f"{BASE}/jobs", body=_encode(body), repeat="idempotency_key" in body
        )
        return decoded(answer.body, _JOB)

    async def submit_graph(self, jobs: Sequence[Mapping[str, Any]]) -> list[Job]:
        """Submit jobs all or none; one may depend on an earlier one by its `ref`."""
        answer = await self._connection.request("POST", f"{BASE}/jobs/batch", body=_encode({"jobs": jobs}))
        return decoded(answer.body, _JOBS).items

    async def get(self, job_id: str, wait: float = 0.0) -> Job:
        """Look up a job; with `wait` (seconds) when it has ended, or after that time."""
        return decoded(await self.get_json(job_id, wait), _JOB)

    async def get_json(self, job_id: str, wait: float = 0.0) -> bytes:
        """The same as the server's JSON."""
        query = {"wait": f"{wait * 1000:.0f}ms"} if wait else None
        answer = await self._connection.request("GET", f"{BASE}/jobs/{_segment(job_id)}", query=query, wait=wait)
        return answer.body

    async def follow(self, job_id: str, every: float = WAIT) -> AsyncIterator[Job]:
        """The job, again and again, at least every so many seconds, until it has ended."""
        while True:
            job = await self.get(job_id, wait=every)
            yield job
            if job.ended:
                return

    async def wait(self, job_id: str, timeout: float | None = None) -> Job:  # the protocol's own wait
        """Wait for a job's end. Raises `TimeoutError` after `timeout` seconds."""
        async with asyncio.timeout(timeout):
            async for job in self.follow(job_id):
                if job.ended:
                    return job
        raise AssertionError("following ends with the job")

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job and those that depend on it."""
        answer = await self._connection.request("POST", f"{BASE}/jobs/{_segment(job_id)}/cancel", repeat=True)
        return decoded(answer.body, _JOB)

    async def delete(self, job_id: str) -> None:
        """Forget an ended job, with its artifacts, before its retention is over."""
        await self._connection.request("DELETE", f"{BASE}/jobs/{_segment(job_id)}")

    async def why(self, job_id: str) -> Why:
        """Why a job is not running."""
        return decoded(await self.why_json(job_id), _WHY)

    async def why_json(self, job_id: str) -> bytes:
        """The same as the server's JSON."""
        return (await self._connection.request("GET", f"{BASE}/jobs/{_segment(job_id)}/why")).body

    async def workers(self) -> "list[WorkerSeen]":
        """The workers that the server heard of lately."""
        answer = await self._connection.request("GET", f"{BASE}/workers")
        return decoded(answer.body, _WORKERS).items

    async def args(self, job_id: str) -> bytes:
        """A job's args as JSON, byte for byte."""
        return (await self._connection.request("GET", f"{BASE}/jobs/{_segment(job_id)}/args")).body

    async def result(self, job_id: str) -> bytes:
        """A job's result as JSON, byte for byte."""
        return (await self._connection.request("GET", f"{BASE}/jobs/{_segment(job_id)}/result")).body

    async def artifacts(self, job_id: str) -> list[Artifact]:
        """What files a job left; none before its end."""
        return decoded(await self.artifacts_json(job_id), _ARTIFACTS).items

    async def artifacts_json(self, job_id: str) -> bytes:
        """The same as the server's JSON."""
        return (await self._connection.request("GET", f"{BASE}/jobs/{_segment(job_id)}/artifacts")).body

    async def read(self, artifact: Artifact) -> AsyncIterator[bytes]:
        """An artifact's bytes, in parts. Raises `DamagedDownload` at the end if they are not those that were uploaded."""
        digest = hashlib.sha256()
        size = 0
        async with self._connection.open("GET", artifact.href, answer_within=60.0) as response:
            async for part in response.content.iter_chunked(_PART):
                digest.update(part)
                size += len(part)
                yield part
        if (size, digest.hexdigest()) != (artifact.size, artifact.sha256):
            raise DamagedDownload(f"{artifact.name} did not arrive as it was uploaded: {size} of {artifact.size} bytes")

    async def download(
        self, artifact: Artifact, directory: Path, progress: Callable[[int], None] | None = None
    ) -> Path:
        """Fetch an artifact into a directory, under its name; it is there whole or not at all.

        `progress` is told how many bytes have come.
        """
        path = directory / artifact.name
        partial = directory / f".{hashlib.sha256(artifact.name.encode()).hexdigest()[:16]}.part"
        size = 0
        file = await asyncio.to_thread(partial.open, "wb")
        try:
            try:
                async for part in self.read(artifact):
                    await asyncio.to_thread(file.write, part)
                    size += len(part)
                    if progress is not None:
                        progress(size)
            finally:
                await asyncio.to_thread(file.close)
            await asyncio.to_thread(partial.replace, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        return path

    async def list(self, limit: int | None = None, **filters: str | None) -> AsyncIterator[Job]:
        """Jobs, newest first, by `state`, `type`, `channel` or `arch`; at most `limit` of them."""
        query = {name: value for name, value in filters.items() if value is not None}
        left = limit
        while left is None or left > 0:
            query["limit"] = str(min(left or 1000, 1000))
            answer = await self._connection.request("GET", f"{BASE}/jobs", query=query)
            page = decoded(answer.body, _JOBS)
            for job in page.items:
                yield job
            left = None if left is None else left - len(page.items)
            if page.next is None:
                return
            query["cursor"] = page.next


def _segment(job_id: str) -> str:
    return quote(job_id, safe="")


def _without_none(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}

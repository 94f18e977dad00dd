"""ComposerClient: submits jobs, follows them until they end, and downloads their artifacts."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack
from urllib.parse import quote

import msgspec

from composerd_client.answers import ANY_JSON, Expected
from composerd_client.connection import LARGEST_PAYLOAD, Connection, decoded
from composerd_client.credentials.tokens import Credentials
from composerd_client.downloads import new_file
from composerd_client.errors import RequestFailed, ServerUnreachable
from composerd_client.idempotency import answer_to, answer_to_all, keyed, post
from composerd_client.listings import listed
from composerd_client.reading import artifact_parts
from composerd_client.repeating import Backoff, Rounds, may_pass
from composerd_client.submitted_job import SINGLE_JOB, GraphJob, JobFields, submitted
from composerd_client.values import (
    Artifact,
    ArtifactList,
    Identity,
    Job,
    JobState,
    KnownWorker,
    Page,
    Why,
)
from composerd_protocol.options import DEFAULT_SERVER
from composerd_protocol.units import in_seconds

BASE = "/api/composer/v1"

PATIENCE = 60.0
"""Seconds for which a request that is safe to repeat is repeated, unless the client is told otherwise."""

WAIT = 20.0
"""Seconds that one request of `ComposerClient.wait` asks the server to wait: less than most proxies allow."""

LOOK = 1.0
"""Seconds after which `ComposerClient.progress` asks again: a wait for the end of a job does not end with progress."""

_JOB = msgspec.json.Decoder(Job)
_JOBS = msgspec.json.Decoder(Page[Job])
_IDS = msgspec.json.Decoder(Page[str])
_ARTIFACTS = msgspec.json.Decoder(ArtifactList)
_WHY = msgspec.json.Decoder(Why)
_WORKERS = msgspec.json.Decoder(Page[KnownWorker])
_IDENTITY = msgspec.json.Decoder(Identity)
_encode = msgspec.json.Encoder().encode

_NOT_FOUND = 32
"""Number of the error for a job that does not exist."""


class ComposerClient:
    """A client of the composer API. Use it as an async context manager, in one event loop.

    >>> async with ComposerClient("http://127.0.0.1:8700") as composer:
    ...     job = await composer.submit("build", args={"what": "an image"})
    ...     job = await composer.wait(job.id)

    `server` is a URL, with a path if composerd is served below one, or `unix:/path`. While the server is unavailable,
    requests that are safe to repeat are repeated for `patience` seconds. For https, `ca_file` has the certificate of
    the CA that signed the server's certificate, and `cert_file` and `key_file` have the client's own certificate and
    key; all three are PEM files, which are read again when they change. `proxy` is the URL of an HTTP proxy, or empty
    for none; by default the environment names it (`http_proxy`, `https_proxy` and `no_proxy`). `credentials` say who
    the client is: a `Token`, a `TokenFile` or `OAuth`.

    Every method raises `RequestFailed` if the server refuses the request, and `ServerUnreachable`. Methods that change
    something raise `OutcomeUnknown` if, after `patience` seconds, it is still not known what the server's storage did.
    """

    def __init__(
        self,
        server: str = DEFAULT_SERVER,
        patience: float | timedelta = PATIENCE,
        *,
        ca_file: Path | str | None = None,
        cert_file: Path | str | None = None,
        key_file: Path | str | None = None,
        proxy: str | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        self._connection = Connection(
            server,
            in_seconds("patience", patience),
            ca_file=ca_file,
            cert_file=cert_file,
            key_file=key_file,
            proxy=proxy,
            credentials=credentials,
        )

    async def __aenter__(self) -> Self:
        await self._connection.__aenter__()
        return self

    async def __aexit__(
        self, type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._connection.__aexit__(type, exc, tb)

    async def submit(self, type: str, args: Any = msgspec.UNSET, **fields: Unpack[JobFields]) -> Job:
        """Submit a job, and return it.

        `args` may be any JSON; a `msgspec.Raw` is sent byte for byte. `fields` are the fields of `JobFields`. If a job
        with this `idempotency_key` exists, that job is returned. Without a key the client makes one, so that it can
        repeat the request if it does not know what became of it. Raises `TypeError` for a field that does not exist,
        and `ValueError` for a time without a time zone.
        """
        body = keyed(submitted({"type": type, **fields}, SINGLE_JOB))
        if args is not msgspec.UNSET:
            body["args"] = args
        return decoded(await post(self._connection, f"{BASE}/jobs", answer_to(body), _encode(body)), _JOB)

    async def submit_graph(self, jobs: Sequence[GraphJob]) -> list[Job]:
        """Submit all jobs or none, and return them in the order given.

        A job may name the `ref` of an earlier one in its `dependencies`. Jobs without an `idempotency_key` get one, as
        in `submit`. Raises `TypeError` and `ValueError` as `submit` does.
        """
        bodies = [keyed(submitted(job)) for job in jobs]
        body = _encode({"jobs": bodies})
        answer = await post(self._connection, f"{BASE}/jobs/batch", answer_to_all(bodies), body)
        return decoded(answer, _JOBS).items

    async def get(self, job_id: str, wait: float | timedelta = 0.0) -> Job:
        """Return a job: at once, or, with `wait`, as soon as it has ended, but at most after that many seconds."""
        return decoded(await self.get_json(job_id, wait), _JOB)

    async def get_json(self, job_id: str, wait: float | timedelta = 0.0) -> bytes:
        """Return a job as the server's JSON; see `get`."""
        return await self._get(job_id, in_seconds("wait", wait))

    async def _get(self, job_id: str, wait: float, patience: float | None = None) -> bytes:
        path = f"{BASE}/jobs/{_segment(job_id)}"
        answer = await self._connection.request(
            "GET", path, Expected("Job", path=path), wait=wait, patience=patience, largest=LARGEST_PAYLOAD
        )
        return answer.body

    async def follow(self, job_id: str, every: float | timedelta = WAIT) -> AsyncIterator[Job]:
        """Yield a job at least every `every` seconds, and a last time once it has ended, however it ended.

        If a wait fails, the job is looked up without a wait. If a proxy ends long waits, shorter ones are asked for.
        """
        every = in_seconds("every", every)
        rounds = Rounds()
        backoff = Backoff()
        while True:
            await rounds.begin()
            try:
                job = decoded(await self._get(job_id, every, patience=0.0), _JOB)
            except (RequestFailed, ServerUnreachable) as exc:
                if isinstance(exc, RequestFailed) and not may_pass(exc, None):
                    raise
                await backoff.failed(exc)
                job = await self.get(job_id)
            else:
                backoff = Backoff()
            yield job
            if job.ended:
                return

    async def progress(self, job_id: str, every: float | timedelta = LOOK) -> AsyncIterator[Any]:
        """Yield the progress that a job's worker has reported, any JSON, and each change of it; end when the job ends.

        The server keeps only the latest progress, and is asked for it every `every` seconds, so that what is replaced
        sooner is not seen. Each retry of the job begins without progress. `get` then returns the ended job.
        """
        latest: Any = None
        async for job in self.follow(job_id, every):
            if job.partial is not None and job.partial != latest:
                yield job.partial
            latest = job.partial

    async def wait(self, job_id: str, timeout: float | timedelta | None = None) -> Job:
        """Return a job once it has ended, however it ended: see its `state`.

        Raises `TimeoutError` after `timeout` seconds; the job itself goes on.
        """
        within = None if timeout is None else in_seconds("timeout", timeout)
        try:
            async with asyncio.timeout(within):
                async for job in self.follow(job_id):
                    if job.ended:
                        return job
        except TimeoutError:
            raise TimeoutError(f"job {job_id} has not ended within {within:g} s") from None
        raise AssertionError("follow() ends only after the job")

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job and the jobs that depend on it, and return the job.

        Canceling a canceled job again does nothing. Raises `RequestFailed` (error 33) if the job has ended otherwise.
        """
        path = f"{BASE}/jobs/{_segment(job_id)}"
        answer = await self._connection.request(
            "POST", f"{path}/cancel", Expected("Job", path=path), repeat=True, largest=LARGEST_PAYLOAD
        )
        return decoded(answer.body, _JOB)

    async def delete(self, job_id: str) -> None:
        """Delete an ended job and its artifacts before its retention is over.

        Raises `RequestFailed` (error 34) if the job, or one that depends on it, has not ended. A job that is gone when
        the request is repeated counts as deleted.
        """
        path = f"{BASE}/jobs/{_segment(job_id)}"
        try:
            await self._connection.request("DELETE", path, Expected("", (204,)), repeat=True)
        except RequestFailed as exc:
            if exc.number != _NOT_FOUND or not exc.repeated:
                raise

    async def why(self, job_id: str) -> Why:
        """Return why a job is not running: a sentence, and the figures behind it."""
        return decoded(await self.why_json(job_id), _WHY)

    async def why_json(self, job_id: str) -> bytes:
        """Return why a job is not running as the server's JSON."""
        return await self._json("JobWhy", f"{BASE}/jobs/{_segment(job_id)}/why")

    async def whoami(self) -> Identity:
        """Return who the server takes this client for."""
        return decoded(await self.whoami_json(), _IDENTITY)

    async def whoami_json(self) -> bytes:
        """Return who the server takes this client for as the server's JSON."""
        return await self._json("Identity", f"{BASE}/whoami")

    async def workers(self) -> "list[KnownWorker]":
        """Return the workers that have contacted the server lately, the latest first."""
        return [worker async for worker in listed(self._connection, f"{BASE}/workers", "WorkerList", _WORKERS)]

    async def args(self, job_id: str) -> bytes:
        """Return a job's args as JSON, byte for byte as they were submitted; `null` if it has none."""
        return await self._json(ANY_JSON, f"{BASE}/jobs/{_segment(job_id)}/args")

    async def result(self, job_id: str) -> bytes:
        """Return a job's result as JSON, byte for byte as the worker reported it.

        It is `null` before the job has ended, and for a canceled job.
        """
        return await self._json(ANY_JSON, f"{BASE}/jobs/{_segment(job_id)}/result")

    async def _json(self, kind: str, path: str) -> bytes:
        """Return what the server has at a path, as its JSON of a kind."""
        expected = Expected(kind, path=path)
        return (await self._connection.request("GET", path, expected, largest=LARGEST_PAYLOAD)).body

    async def artifacts(self, job_id: str) -> list[Artifact]:
        """Return the artifacts of a job, by name; there are none before it has ended.

        Each has its size in bytes and its sha256, and can be passed to `read` and `download`.
        """
        return decoded(await self.artifacts_json(job_id), _ARTIFACTS).items

    async def artifacts_json(self, job_id: str) -> bytes:
        """Return the artifacts of a job as the server's JSON."""
        return await self._json("ArtifactList", f"{BASE}/jobs/{_segment(job_id)}/artifacts")

    async def read(self, artifact: Artifact) -> AsyncIterator[bytes]:
        """Yield an artifact's bytes in parts, never more than its size.

        If the download breaks off, it goes on from there. Raises `DamagedDownload` if size or digest do not match.
        """
        async with aclosing(artifact_parts(self._connection, artifact)) as parts:
            async for part in parts:
                yield part

    async def download(
        self,
        artifact: Artifact,
        directory: Path | str,
        progress: Callable[[int], object] | None = None,
        *,
        overwrite: bool = False,
    ) -> Path:
        """Download an artifact into a directory, which is created if necessary, and return the path of the file.

        The file appears under the artifact's name once it is complete. `progress` is called with the number of bytes
        received so far. Raises `FileExistsError` if something of that name exists, unless `overwrite` is set: then a
        file or a symbolic link is replaced. Raises `UnsafeName` if the name could lead out of the directory, and
        `DamagedDownload` if size or digest do not match. After an error there is no new file.
        """
        directory = Path(directory)
        size = 0
        async with new_file(directory, artifact.name, overwrite=overwrite) as file:
            async for part in self.read(artifact):
                await asyncio.to_thread(file.write, part)
                size += len(part)
                if progress is not None:
                    progress(size)
        return directory / artifact.name

    async def list(
        self,
        limit: int | None = None,
        *,
        state: JobState | str | Collection[JobState | str] | None = None,
        type: str | None = None,
        channel: str | None = None,
        arch: str | None = None,
    ) -> AsyncIterator[Job]:
        """Yield jobs, newest first, at most `limit` of them.

        With `state`, `type`, `channel` or `arch`, only jobs that have this one are yielded; `state` may be several
        states, of which a job has to be in one. In a listing, jobs have no `dependencies`, `dependents`, `partial` and
        `result`.
        """
        filters = {"type": type, "channel": channel, "arch": arch}
        query: dict[str, str | Sequence[str]] = {name: one for name, one in filters.items() if one is not None}
        if state is not None:
            query["state"] = [state] if isinstance(state, str) else [*state]
            if not query["state"]:
                return
        async for job in listed(self._connection, f"{BASE}/jobs", "JobList", _JOBS, query=query, limit=limit):
            yield job

    def dependencies(self, job_id: str) -> AsyncIterator[str]:
        """Yield the ids of the jobs that a job depends on, in the order in which it names them."""
        return self._ids(job_id, "dependencies")

    def dependents(self, job_id: str) -> AsyncIterator[str]:
        """Yield the ids of the jobs that depend on a job, in the order of their submission. A job shows only some."""
        return self._ids(job_id, "dependents")

    def _ids(self, job_id: str, which: str) -> AsyncIterator[str]:
        return listed(self._connection, f"{BASE}/jobs/{_segment(job_id)}/{which}", "JobIdList", _IDS)


def _segment(job_id: str) -> str:
    if not isinstance(job_id, str):
        raise TypeError(f"the id of a job is a str, and not {type(job_id).__name__}")
    if job_id in ("", ".", ".."):  # which would be another path
        raise ValueError(f"{job_id!r} is not the id of a job")
    return quote(job_id, safe="")

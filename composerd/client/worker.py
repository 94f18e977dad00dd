"""Worker: asks for jobs, runs a handler for each, and reports; survives the server's absence, hears of a cancel at once."""

import asyncio
import hashlib
import inspect
import logging
import platform
import uuid
from base64 import b64encode
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from composerd.client.connection import DEFAULT_SERVER, Backoff, Connection, as_data, decoded
from composerd.client.errors import ClientError, RequestFailed, ServerUnreachable
from composerd.client.values import Assignment

log = logging.getLogger(__name__)

BASE = "/api/worker/v1"

ASK = 20.0
"""How long a question for a job is held, in seconds: below the idle timeout of usual proxies."""

LISTEN = 30.0
"""How long a question whether to go on is held; the server cuts it to a third of the lease."""

RELEASE_WITHIN = 5.0
"""How long a worker tries to give a job back, in seconds; else its lease runs out."""

FOREVER = float("inf")

_BAD_RESULT = frozenset({10, 19, 27})
"""Errors that say that the server will never take this result: no JSON, too deep, too large."""

_ASSIGNMENT = msgspec.json.Decoder(Assignment)
_encode = msgspec.json.Encoder().encode

T = TypeVar("T")

Handler = Callable[["JobContext"], Awaitable[Any] | Any]


class _Status(msgspec.Struct):
    canceled: bool


_STATUS = msgspec.json.Decoder(_Status)


class JobContext:
    """What a handler knows of its job, and how it reports."""

    def __init__(self, connection: Connection, assignment: Assignment) -> None:
        self._connection = connection
        self._assignment = assignment
        self.id = assignment.id
        self.type = assignment.type

    @property
    def args_json(self) -> bytes:
        """The args as they were submitted; empty if there are none."""
        return bytes(self._assignment.args)

    @property
    def args(self) -> Any:
        """The args; None if there are none."""
        return msgspec.json.decode(self.args_json) if self.args_json else None

    @property
    def dynamic_args_json(self) -> bytes:
        """The results of the dependencies, in order, as a JSON array."""
        return _encode(self._assignment.dynamic_args)

    @property
    def dynamic_args(self) -> list[Any]:
        """The results of the dependencies, in order."""
        return [msgspec.json.decode(result) for result in self._assignment.dynamic_args]

    async def progress(self, partial: Any) -> None:
        """Report progress, any JSON. It is a courtesy: a server that is away, or full, does not hold up the job."""
        body = _encode({"partial": partial})
        try:
            await self._connection.request("PATCH", self._assignment.location, body=body, patience=0.0)
        except ServerUnreachable:
            pass
        except RequestFailed as exc:
            if exc.status < 500:
                raise

    async def upload(self, name: str, source: Path | bytes | AsyncIterable[bytes]) -> None:
        """Upload a file; it becomes the job's when this attempt finishes it.

        A path or bytes are sent again if the server goes away in between.
        """
        path = self._assignment.artifact_location + quote(name, safe="")
        if isinstance(source, Path | bytes):
            digest = await asyncio.to_thread(_sha256, source)
            headers = {"Content-Digest": f"sha-256=:{b64encode(digest).decode()}:"}
            await _until_reached(lambda: self._put(path, source, headers))
        else:
            await self._put(path, source, {})

    async def _put(self, path: str, source: Path | bytes | AsyncIterable[bytes], headers: dict[str, str]) -> None:
        headers = {"Content-Type": "application/octet-stream", **headers}
        with ExitStack() as stack:
            data: Any = as_data(source) if isinstance(source, bytes) else source
            if isinstance(source, Path):
                data = stack.enter_context(await asyncio.to_thread(source.open, "rb"))
            async with self._connection.open("PUT", path, data=data, headers=headers, answer_within=300.0):
                pass


class Worker:
    """Runs jobs.

    >>> worker = Worker("http://127.0.0.1:8700", concurrency=2)
    >>> @worker.handler("build")
    ... async def build(job: JobContext) -> object:
    ...     await job.upload("log.txt", b"done")
    ...     return {"built": job.args}
    >>> asyncio.run(worker.run())

    A handler returns the result (any JSON). If it raises, the result is a `job_error` that says so. If the job is
    canceled, or another worker has it, a coroutine is canceled; a plain function runs in a thread, and what it returns
    is dropped. A worker whose `run` is canceled gives its jobs back.

    `server`, `ca_file`, `cert_file` and `key_file` are those of `ComposerClient`; `arch` is this machine's unless said;
    so many jobs as `concurrency` run at a time; `base` is where the server has its worker API.
    """

    def __init__(
        self,
        server: str = DEFAULT_SERVER,
        *,
        arch: str | None = None,
        concurrency: int = 1,
        base: str = BASE,
        ca_file: Path | str | None = None,
        cert_file: Path | str | None = None,
        key_file: Path | str | None = None,
    ) -> None:
        self.id = uuid.uuid4()
        """What the server lists it as."""
        self.arch = arch or platform.machine()
        self.concurrency = concurrency
        self._base = base
        self._connection = Connection(server, ca_file=ca_file, cert_file=cert_file, key_file=key_file)
        self._handlers: dict[str, Handler] = {}
        self._stopping = asyncio.Event()
        self._aborting = asyncio.Event()
        self._left: int | None = None

    def handler(self, type: str) -> Callable[[Handler], Handler]:
        """Name the handler of a type of job."""

        def name(handler: Handler) -> Handler:
            self._handlers[type] = handler
            return handler

        return name

    def stop(self) -> None:
        """Ask for no more jobs; those that run come to their end, then `run` returns. Said twice: those that run are given back."""
        if self._stopping.is_set():
            self._aborting.set()
        self._stopping.set()

    async def run(self, jobs: int | None = None) -> None:
        """Run jobs, for ever or so many of them. Raises `RequestFailed` if the server refuses what is asked for."""
        self._left = jobs
        try:
            async with self._connection, asyncio.TaskGroup() as slots:
                for _ in range(self.concurrency):
                    slots.create_task(self._slot())
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    async def _slot(self) -> None:
        while not self._stopping.is_set() and self._left != 0:
            if self._left is not None:
                self._left -= 1
            assignment = await _unless(self._stopping, self._ask())
            if assignment is not None:
                await self._attempt(assignment)

    async def _ask(self) -> Assignment:
        """Ask for a job until there is one. A question that is canceled is a connection that closes: the server gives its job back."""
        body = _encode({"types": list(self._handlers), "arch": self.arch, "worker_id": str(self.id), "confirm": True})
        backoff = Backoff()
        while True:
            try:
                answer = await self._connection.request(
                    "POST", f"{self._base}/jobs", body=body, query={"wait": f"{ASK:.0f}s"}, wait=ASK
                )
                backoff = Backoff()
                if answer.status == 201:
                    return decoded(answer.body, _ASSIGNMENT)
            except (ServerUnreachable, RequestFailed) as exc:
                if isinstance(exc, RequestFailed) and exc.status < 500:
                    raise
                log.warning("no job: %s; asking again", exc)
                await backoff.failed(exc)

    async def _attempt(self, assignment: Assignment) -> None:
        # The first look confirms the hand-over; told to stop meanwhile, there is no waiting for a server that is away.
        wanted = await _unless(self._stopping, self._is_wanted(assignment, 0.0))
        if wanted is False:
            log.info("job %s: somebody else has it", assignment.id)
            return
        if wanted is None or self._stopping.is_set():
            await self._release(assignment)
            return
        context = JobContext(self._connection, assignment)
        work = asyncio.create_task(self._work(context), name=f"job {assignment.id}")
        listening = asyncio.create_task(self._listen(assignment))
        aborting = asyncio.create_task(self._aborting.wait())
        others = [listening, aborting]
        try:
            await asyncio.wait([work, *others], return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                report = asyncio.create_task(self._report(assignment, _outcome(work)))
                others.append(report)
                await asyncio.wait([report, aborting], return_when=asyncio.FIRST_COMPLETED)
                await asyncio.wait([report], timeout=RELEASE_WITHIN)  # a server that is there takes it now
                if report.done():
                    report.result()
                    return
            if aborting.done():
                await _cancel(*others, work)
                await self._release(assignment)
            else:
                log.info("job %s: canceled, or somebody else has it", assignment.id)
        except asyncio.CancelledError:  # the worker itself is: somebody else may do it
            await _cancel(work)
            await self._release(assignment)
            raise
        finally:
            await _cancel(work, *others)

    async def _work(self, context: JobContext) -> bytes:
        handler = self._handlers[context.type]
        try:
            if inspect.iscoroutinefunction(handler):
                return _encode(await handler(context))
            result = await asyncio.to_thread(handler, context)
            return _encode(await result if inspect.isawaitable(result) else result)
        except Exception as exc:  # whatever a handler raises is the job's failure
            log.warning("job %s failed", context.id, exc_info=exc)
            return _failure(f"{type(exc).__name__}: {exc}")

    async def _listen(self, assignment: Assignment) -> None:
        """Keep the lease, and return when the job is not this worker's any more."""
        while await self._is_wanted(assignment, LISTEN):
            pass

    async def _is_wanted(self, assignment: Assignment, wait: float) -> bool:
        query = {"wait": f"{wait:.0f}s"} if wait else None
        try:
            answer = await self._connection.request(
                "GET", assignment.location, query=query, wait=wait, patience=FOREVER
            )
        except RequestFailed as exc:
            log.info("job %s: %s", assignment.id, exc)
            return False
        return not decoded(answer.body, _STATUS).canceled

    async def _report(self, assignment: Assignment, result: bytes) -> None:
        """Report the result, however long the server is away: the same result may be reported again."""
        try:
            await self._connection.request(
                "PATCH", assignment.location, body=b'{"result":' + result + b"}", repeat=True, patience=FOREVER
            )
        except RequestFailed as exc:
            log.warning("job %s: the result was not accepted: %s", assignment.id, exc)
            if exc.number in _BAD_RESULT:
                await self._report(assignment, _failure(f"The result was refused, {len(result)} bytes: {exc}"))

    async def _release(self, assignment: Assignment) -> None:
        with suppress(ClientError, TimeoutError):
            async with asyncio.timeout(RELEASE_WITHIN):
                await self._connection.request("POST", f"{assignment.location}/release", body=b"{}", repeat=True)


def _failure(reason: str) -> bytes:
    """The result of a job that failed here."""
    reason = reason.encode(errors="replace").decode()  # a name of a file may have been no text
    return _encode({"job_error": {"id": 10, "reason": reason, "details": None}})


def _outcome(work: "asyncio.Task[bytes]") -> bytes:
    """What a handler's task has ended with: it may have canceled itself."""
    return _failure("The handler was canceled, but not the job.") if work.cancelled() else work.result()


async def _unless(stop: asyncio.Event, call: Coroutine[Any, Any, T]) -> T | None:
    """What a call returns, or None if it is told to stop before that."""
    task = asyncio.create_task(call)
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        await _cancel(task, stopped)


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def _until_reached(call: Callable[[], Awaitable[None]]) -> None:
    """Call until the server can be reached and is available."""
    backoff = Backoff()
    while True:
        try:
            await call()
        except (ServerUnreachable, RequestFailed) as exc:
            if isinstance(exc, RequestFailed) and exc.status < 500:
                raise
            log.warning("%s; trying again", exc)
            await backoff.failed(exc)
        else:
            return


def _sha256(source: Path | bytes) -> bytes:
    if isinstance(source, bytes):
        return hashlib.sha256(source).digest()
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()

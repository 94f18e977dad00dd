"""Worker: requests jobs, runs a handler for each, and reports the results.

It keeps working while the server is unavailable, and learns of a cancel at once.
"""

import asyncio
import inspect
import logging
import platform
import random
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from composerd_client.connection import DEFAULT_SERVER, LARGEST_PAYLOAD, Answer, Connection, decoded
from composerd_client.errors import ClientError, ProxyAnswered, RequestFailed, ServerUnreachable, UnexpectedAnswer
from composerd_client.job_context import JobContext
from composerd_client.repeating import FOREVER, Backoff, BodyBackoff, Rounds, may_pass
from composerd_client.uploads import Uploaded
from composerd_client.values import Attempt

log = logging.getLogger(__name__)

BASE = "/api/worker/v1"

REQUEST_WAIT = 20.0
"""Seconds that a request for a job waits: less than the idle timeout of common proxies."""

EARLY = 1.0
"""Seconds by which an answer without a job has to come before the end of the wait to be taken for an early one."""

PAUSE = (0.5, 2.0)
"""Seconds of the shortest and the longest pause after such an answer: the server stops, or needs the place."""

STATUS_WAIT = 20.0
"""Seconds that a request for an attempt's status waits; the server limits it to a third of the lease."""

RELEASE_WITHIN = 5.0
"""Seconds that a worker tries to release a job; after that, the server waits until its lease expires."""

_BAD_RESULT = frozenset({10, 19, 27, 41})
"""Numbers of errors that mean that a result can never be accepted.

It is not JSON, nested too deeply, too large, or the artifacts are not those that it lists.
"""

_MOST_SLOTS = 1000
"""The largest number of slots that a server accepts."""

_ID_WAS_USED = 44
"""Number of the error for a `request_id` that was used before."""

_ATTEMPT = msgspec.json.Decoder(Attempt)
_encode = msgspec.json.Encoder().encode

T = TypeVar("T")

Handler = Callable[[JobContext], Awaitable[Any] | Any]


class _StatusAnswer(msgspec.Struct):
    canceled: bool


_STATUS = msgspec.json.Decoder(_StatusAnswer)


class _AttemptStatus(msgspec.Struct, frozen=True):
    """The status of an attempt."""

    lost: str | None
    """The reason why the attempt is no longer this worker's; None while it still is."""


class Worker:
    """Runs jobs.

    >>> worker = Worker("http://127.0.0.1:8700", concurrency=2)
    >>> @worker.handler("build")
    ... async def build(job: JobContext) -> object:
    ...     await job.upload("log.txt", b"done")
    ...     return {"built": job.args}
    >>> asyncio.run(worker.run())

    A handler returns the result, any JSON. If it raises an exception, the job fails with a `job_error` that describes
    the exception. If the job is canceled, or was requeued because its lease has expired, a coroutine is canceled; a
    plain function runs in a thread until it returns, and its result is dropped. If `run` is canceled, the worker
    releases its jobs.

    `server`, `ca_file`, `cert_file` and `key_file` are as for `ComposerClient`. `arch` is the architecture of this
    machine by default. `concurrency` is the number of jobs that run at the same time. `base` is the path of the
    server's worker API.
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
        """The worker's id in the list of workers."""
        self.arch = arch or platform.machine()
        self.concurrency = concurrency
        self._base = base
        self._connection = Connection(server, ca_file=ca_file, cert_file=cert_file, key_file=key_file)
        self._handlers: dict[str, Handler] = {}
        self._stopping = asyncio.Event()
        self._aborting = asyncio.Event()
        self._jobs_left: int | None = None

    def handler(self, type: str) -> Callable[[Handler], Handler]:
        """Return a decorator that registers the handler for a type of job.

        The handler gets a `JobContext`. It may be a coroutine function or a plain function. Register all handlers
        before `run`.
        """

        def register(handler: Handler) -> Handler:
            self._handlers[type] = handler
            return handler

        return register

    def stop(self) -> None:
        """Request no more jobs, and let `run` return once the running jobs are finished.

        If it is called again, the running jobs are released at once.
        """
        if self._stopping.is_set():
            self._aborting.set()
        self._stopping.set()

    async def run(self, jobs: int | None = None) -> None:
        """Run jobs until `stop` is called, or until this number of jobs has ended.

        Raises `RequestFailed` if the server refuses the request for jobs.
        """
        self._jobs_left = jobs
        try:
            async with self._connection, asyncio.TaskGroup() as slots:
                for _ in range(self.concurrency):
                    slots.create_task(self._slot())
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    async def _slot(self) -> None:
        while not self._stopping.is_set() and self._jobs_left != 0:
            if self._jobs_left is not None:
                self._jobs_left -= 1
            attempt = await _unless(self._stopping, self._request_job())
            if attempt is not None:
                await self._run_attempt(attempt)

    async def _request_job(self) -> Attempt:
        """Request a job until there is one.

        If this is canceled, the connection is closed, and the server releases a job that it has just assigned. A
        request that is repeated after a failure has the same id, so that a job whose answer was lost is answered again.
        """
        loop = asyncio.get_running_loop()
        request_id = uuid.uuid4()
        backoff = Backoff(refused_for=FOREVER)
        rounds = Rounds()
        while True:
            await rounds.begin()
            began = loop.time()
            try:
                answer = await self._ask(request_id)
            except (ServerUnreachable, RequestFailed) as exc:
                if isinstance(exc, RequestFailed) and exc.number == _ID_WAS_USED:
                    request_id = uuid.uuid4()
                    continue
                if isinstance(exc, RequestFailed) and not may_pass(exc):
                    raise
                await backoff.failed(exc, partial(log.warning, "cannot request a job, trying again: %s"))
                continue
            if answer.status == 201:
                return self._requested(decoded(answer.body, _ATTEMPT))
            request_id = uuid.uuid4()
            backoff = Backoff(refused_for=FOREVER)
            if loop.time() - began < REQUEST_WAIT - EARLY:
                await asyncio.sleep(random.uniform(*PAUSE))

    async def _ask(self, request_id: uuid.UUID) -> Answer:
        """Request a job once."""
        body = {
            "types": list(self._handlers),
            "arch": self.arch,
            "worker_id": str(self.id),
            "request_id": str(request_id),
            "confirm": True,
        }
        if self.concurrency <= _MOST_SLOTS:
            body["slots"] = self.concurrency
        return await self._connection.request(
            "POST",
            f"{self._base}/jobs",
            body=_encode(body),
            query={"wait": f"{REQUEST_WAIT:.0f}s"},
            wait=REQUEST_WAIT,
            largest=LARGEST_PAYLOAD,
        )

    def _requested(self, attempt: Attempt) -> Attempt:
        """Return the attempt. Raises `UnexpectedAnswer` if it is of a type that was not requested."""
        if attempt.type not in self._handlers:
            raise UnexpectedAnswer(f"the server sent a job of the type {attempt.type[:100]!r}, which was not requested")
        return attempt

    async def _run_attempt(self, attempt: Attempt) -> None:
        # The first status request confirms the handover. If the worker is stopped meanwhile, and the server is
        # unavailable, it is not waited for.
        status = await _unless(self._stopping, self._status(attempt, 0.0))
        if status is not None and status.lost is not None:
            log.info("job %s: not started: %s", attempt.id, status.lost)
            return
        if status is None or self._stopping.is_set():
            await self._release(attempt)
            return
        context = JobContext(self._connection, attempt)
        work = asyncio.create_task(self._work(context), name=f"job {attempt.id}")
        losing = asyncio.create_task(self._until_lost(attempt))
        aborting = asyncio.create_task(self._aborting.wait())
        others: list[asyncio.Task[Any]] = [losing, aborting]
        try:
            await asyncio.wait([work, *others], return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                report = asyncio.create_task(self._report(attempt, _outcome(work), context.uploaded))
                others.append(report)
                await asyncio.wait([report, aborting], return_when=asyncio.FIRST_COMPLETED)
                await asyncio.wait([report], timeout=RELEASE_WITHIN)  # a server that is available accepts it in time
                if report.done():
                    report.result()
                    return
            if aborting.done():
                await _cancel(*others, work)
                await self._release(attempt)
            else:
                log.info("job %s: stopped: %s", attempt.id, losing.exception() or losing.result())
        except asyncio.CancelledError:  # `run` was canceled: let another worker run the job
            await _cancel(work)
            await self._release(attempt)
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
        except Exception as exc:  # any exception of a handler is a failure of the job
            log.warning("job %s failed", context.id, exc_info=exc)
            return _failure(f"{type(exc).__name__}: {exc}")

    async def _until_lost(self, attempt: Attempt) -> str:
        """Keep renewing the lease; once the attempt is no longer this worker's, return the reason."""
        rounds = Rounds()
        while True:
            await rounds.begin()
            status = await self._status(attempt, STATUS_WAIT)
            if status.lost is not None:
                return status.lost

    async def _status(self, attempt: Attempt, wait: float) -> _AttemptStatus:
        query = {"wait": f"{wait:.0f}s"} if wait else None
        warn = partial(log.warning, "job %s: cannot renew the lease, trying again: %s", attempt.id)
        try:
            answer = await self._connection.request(
                "GET", attempt.location, query=query, wait=wait, patience=FOREVER, on_failure=warn
            )
        except RequestFailed as exc:
            return _AttemptStatus(lost=str(exc))
        return _AttemptStatus(lost="Job was canceled" if decoded(answer.body, _STATUS).canceled else None)

    async def _report(self, attempt: Attempt, result: bytes, artifacts: list[Uploaded] | None) -> None:
        """Report the result; if it can never be accepted, report a failure with the reason instead."""
        listed = b"" if artifacts is None else b',"artifacts":' + _encode(artifacts)
        refusal = await self._accepted(attempt, b'{"result":' + result + listed + b"}")
        if isinstance(refusal, ProxyAnswered | ServerUnreachable):
            reason = f"The result of {len(result)} bytes was refused: {refusal}"
        elif isinstance(refusal, RequestFailed) and refusal.number in _BAD_RESULT:
            reason = f"The server refused the result of {len(result)} bytes: {refusal}"
        else:
            return
        await self._accepted(attempt, b'{"result":' + _failure(reason) + b"}")

    async def _accepted(self, attempt: Attempt, body: bytes) -> ClientError | None:
        """Send a report, and repeat it until the server is available. Return the error if it is refused."""
        warn = partial(log.warning, "job %s: cannot report the result, trying again: %s", attempt.id)
        backoff = BodyBackoff(partial(self._connection.answers, attempt.location))
        try:
            await self._connection.request(
                "PATCH", attempt.location, body=body, repeat=True, backoff=backoff, on_failure=warn
            )
        except ClientError as exc:
            log.warning("job %s: result not accepted: %s", attempt.id, exc)
            return exc
        log.info("job %s: result reported", attempt.id)
        return None

    async def _release(self, attempt: Attempt) -> None:
        with suppress(ClientError, TimeoutError):
            async with asyncio.timeout(RELEASE_WITHIN):
                await self._connection.request("POST", f"{attempt.location}/release", body=b"{}", repeat=True)


def _failure(reason: str) -> bytes:
    """Return the result of a job that failed in this worker."""
    reason = reason.encode(errors="replace").decode()  # file names need not be valid text
    return _encode({"job_error": {"id": 10, "reason": reason, "details": None}})


def _outcome(work: "asyncio.Task[bytes]") -> bytes:
    """Return the result of a handler's task, which is a failure if the task has canceled itself."""
    return _failure("The handler was canceled, but not the job.") if work.cancelled() else work.result()


async def _unless(stop: asyncio.Event, call: Coroutine[Any, Any, T]) -> T | None:
    """Return the result of a call, or None if `stop` is set before the call returns."""
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

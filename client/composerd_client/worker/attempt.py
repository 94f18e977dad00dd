"""Running one attempt: its lease is renewed while the handler runs, and then its result is reported."""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any

import msgspec

from composerd_client.answers import Expected
from composerd_client.blocking import ClientLoop
from composerd_client.connection import Connection, decoded
from composerd_client.errors import ClientError, LocalFault, ProxyAnswered, RequestFailed, ServerUnreachable
from composerd_client.job_context import JobContext
from composerd_client.lease import Lease
from composerd_client.repeating import FOREVER, Backoff, BodyBackoff, Rounds
from composerd_client.uploads import Uploaded
from composerd_client.values import Attempt
from composerd_client.worker.tasks import cancel, unless
from composerd_protocol.job_errors import has_job_error

log = logging.getLogger(__name__)

RELEASE_WITHIN = 5.0
"""Seconds that a worker tries to release a job; after that, the server waits until its lease expires."""

_BAD_RESULT = frozenset({10, 19, 27, 41})
"""Numbers of errors that mean that a result can never be accepted.

It is not JSON, nested too deeply, too large, or the artifacts are not those that it lists.
"""

_encode = msgspec.json.Encoder().encode

Handler = Callable[[JobContext], Awaitable[Any] | Any]


class _StatusAnswer(msgspec.Struct):
    canceled: bool


_STATUS = msgspec.json.Decoder(_StatusAnswer)


def _check_status(answer: bytes) -> None:
    _STATUS.decode(answer)


class _AttemptStatus(msgspec.Struct, frozen=True):
    """The status of an attempt."""

    lost: str | None
    """The reason why the attempt is no longer this worker's; None while it still is."""


class Stop:
    """The wish to stop a worker."""

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        """Set once no more jobs should be requested."""
        self.at_once = asyncio.Event()
        """Set once running jobs should be released."""


class RunningAttempt:
    """One attempt of this worker, and the handler that runs it."""

    def __init__(self, connection: Connection, attempt: Attempt, handler: Handler, stop: Stop) -> None:
        self._connection = connection
        self._attempt = attempt
        self._lease = Lease(attempt.lease)
        self._handler = handler
        self._stop = stop
        self.failed = False
        """True if the job failed, was lost or canceled, or was released for another reason than a stop."""
        self._status_expected = Expected("JobStatus", id=attempt.token, check=_check_status)
        self._update_expected = Expected("UpdateJobResponse", id=attempt.token)

    async def run(self) -> None:
        """Run the handler, and report its result, unless the attempt is lost or released meanwhile."""
        # The first status request confirms the handover. If the worker is stopped meanwhile, and the server is
        # unavailable, it is not waited for.
        status = await unless(self._stop.requested, self._status(0.0, self._lease.call_again_after))
        if status is not None and status.lost is not None:
            log.info("job %s: not started: %s", self._attempt.id, status.lost)
            self.failed = True
            return
        if status is None or self._stop.requested.is_set():
            await self._release()
            return
        loop = ClientLoop(asyncio.get_running_loop(), "this attempt at the job is over")
        context = JobContext(self._connection, self._attempt, loop)
        work = asyncio.create_task(self._work(context), name=f"job {self._attempt.id}")
        losing = asyncio.create_task(self._until_lost())
        aborting = asyncio.create_task(self._stop.at_once.wait())
        others: list[asyncio.Task[Any]] = [losing, aborting]
        try:
            await asyncio.wait([work, *others], return_when=asyncio.FIRST_COMPLETED)
            if work.done() and not work.cancelled() and isinstance(fault := work.exception(), LocalFault):
                log.warning("job %s: released: %s", self._attempt.id, fault)
                self.failed = True
                await self._release()
                return
            if work.done():
                report = asyncio.create_task(self._report(_outcome(work), context.uploaded))
                others.append(report)
                await asyncio.wait([report, aborting], return_when=asyncio.FIRST_COMPLETED)
                await asyncio.wait([report], timeout=RELEASE_WITHIN)  # a server that is available accepts it in time
                if report.done():
                    report.result()
                    return
            if aborting.done():
                await cancel(*others, work)
                await self._release()
            else:
                log.info("job %s: stopped: %s", self._attempt.id, losing.exception() or losing.result())
                self.failed = True
        except asyncio.CancelledError:  # `run` was canceled: let another worker run the job
            await cancel(work)
            await self._release()
            raise
        finally:
            await cancel(work, *others)
            loop.close()  # a plain function may not have noticed

    async def _work(self, context: JobContext) -> bytes:
        handler = self._handler
        try:
            if inspect.iscoroutinefunction(handler):
                return _encode(await handler(context))
            result = await _in_a_thread(handler, context)
            return _encode(await result if inspect.isawaitable(result) else result)
        except LocalFault:
            raise
        except Exception as exc:  # any other exception of a handler is a failure of the job
            log.warning("job %s failed", context.id, exc_info=exc)
            return _failure(f"{type(exc).__name__}: {exc}")

    async def _until_lost(self) -> str:
        """Keep renewing the lease; once the attempt is no longer this worker's, return the reason."""
        rounds = Rounds()
        while True:
            await rounds.begin()
            status = await self._status(self._lease.wait, self._lease.heartbeat_again_after)
            if status.lost is not None:
                return status.lost

    async def _status(self, wait: float, again_after: Sequence[float]) -> _AttemptStatus:
        try:
            answer = await self._connection.request(
                "GET",
                self._attempt.location,
                self._status_expected,
                wait=wait,
                answer_within=self._lease.seconds,
                again_after=again_after,
                patience=FOREVER,
                doing=f"renew the lease of job {self._attempt.id}",
            )
        except RequestFailed as exc:
            return _AttemptStatus(lost=str(exc))
        return _AttemptStatus(lost="Job was canceled" if decoded(answer.body, _STATUS).canceled else None)

    async def _report(self, result: bytes, artifacts: list[Uploaded] | None) -> None:
        """Report the result; if it can never be accepted, report a failure with the reason instead."""
        listed = b"" if artifacts is None else b',"artifacts":' + _encode(artifacts)
        backoff = BodyBackoff(partial(self._connection.answers, self._attempt.location, self._status_expected))
        refusal = await self._accepted(b'{"result":' + result + listed + b"}", backoff)
        self.failed = refusal is not None or await asyncio.to_thread(has_job_error, result)
        if isinstance(refusal, ProxyAnswered | ServerUnreachable):
            reason = f"The result of {len(result)} bytes was refused: {refusal}"
        elif isinstance(refusal, RequestFailed) and refusal.number in _BAD_RESULT:
            reason = f"The server refused the result of {len(result)} bytes: {refusal}"
        else:
            return
        # Nothing smaller is left to send. So it is repeated, and the lease renewed, until composerd answers it.
        await self._accepted(b'{"result":' + _failure(reason) + b"}", Backoff(), small=True)

    async def _accepted(self, body: bytes, backoff: Backoff, *, small: bool = False) -> ClientError | None:
        """Send a report, and repeat it until the server is available. Return the error if it is refused."""
        try:
            await self._connection.request(
                "PATCH",
                self._attempt.location,
                self._update_expected,
                body=body,
                repeat=True,
                small=small,
                answer_within=self._lease.result_within(len(body)),
                backoff=backoff,
                doing=f"report the result of job {self._attempt.id}",
            )
        except ClientError as exc:
            log.warning("job %s: result not accepted: %s", self._attempt.id, exc)
            return exc
        log.info("job %s: result reported", self._attempt.id)
        return None

    async def _release(self) -> None:
        with suppress(ClientError, TimeoutError):
            async with asyncio.timeout(RELEASE_WITHIN):
                await self._connection.request(
                    "POST",
                    f"{self._attempt.location}/release",
                    self._update_expected,
                    body=b"{}",
                    repeat=True,
                    small=True,
                    patience=RELEASE_WITHIN,
                    doing=f"release job {self._attempt.id}",
                    again_after=self._lease.call_again_after,
                )


async def _in_a_thread(handler: Handler, context: JobContext) -> Any:
    """Call a plain function in a thread of its own, so that no other handler and no upload waits for a free one."""
    threads = ThreadPoolExecutor(1, thread_name_prefix=f"job {context.id}")
    try:
        call = partial(copy_context().run, handler, context)
        return await asyncio.get_running_loop().run_in_executor(threads, call)
    finally:
        threads.shutdown(wait=False)


def _failure(reason: str) -> bytes:
    """Return the result of a job that failed in this worker."""
    reason = reason.encode(errors="replace").decode()  # file names need not be valid text
    return _encode({"job_error": {"id": 10, "reason": reason, "details": None}})


def _outcome(work: "asyncio.Task[bytes]") -> bytes:
    """Return the result of a handler's task, which is a failure if the task has canceled itself."""
    return _failure("The handler was canceled, but not the job.") if work.cancelled() else work.result()

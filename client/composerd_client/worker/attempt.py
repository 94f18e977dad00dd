"""Running one attempt: its lease is renewed while the handler runs, and then its result is reported."""

import asyncio
import enum
import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any

import msgspec

from composerd_client.answers import Expected
from composerd_client.blocking import ClientLoop
from composerd_client.connection import Connection, decoded
from composerd_client.errors import ClientError, LocalFault, ProxyAnswered, RequestFailed, ServerUnreachable
from composerd_client.job_context import JobContext
from composerd_client.repeating import Backoff, BodyBackoff, Rounds
from composerd_client.uploads import Uploaded
from composerd_client.values import Attempt
from composerd_client.worker.lease import Lease
from composerd_client.worker.tasks import cancel, unless
from composerd_protocol.job_errors import has_job_error

log = logging.getLogger(__name__)

RELEASE_WITHIN = 5.0
"""Seconds that a worker tries to release a job; after that, the server waits until its lease expires."""

_BAD_RESULT = frozenset({10, 19, 27, 41})
"""Numbers of errors that mean that a result can never be accepted.

It is not JSON, nested too deeply, too large, or the artifacts are not those that it lists.
"""

_UNKNOWN_TOKEN = 5
"""Number of the error for an attempt that the server does not know."""

_LONGEST_REASON = 500
"""The most characters of the reason of a failure that are logged."""

_encode = msgspec.json.Encoder().encode

Handler = Callable[[JobContext], Awaitable[Any] | Any]
"""A function or coroutine function that runs a job, and returns the result, any JSON."""


class _Failure(msgspec.Struct):
    job_error: Any = None


_FAILURE = msgspec.json.Decoder(_Failure)


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


class Outcome(enum.Enum):
    """The end of an attempt."""

    FINISHED = "finished"
    FAILED = "failed"
    NOT_STARTED = "not started"
    RELEASED = "released"
    LOST = "lost"
    """The job was canceled, or given to another worker, while it ran."""


class RunningAttempt:
    """One attempt of this worker, and the handler that runs it."""

    def __init__(self, connection: Connection, attempt: Attempt, handler: Handler, stop: Stop) -> None:
        self._connection = connection
        self._attempt = attempt
        self._lease = Lease(attempt.lease)
        self._handler = handler
        self._stop = stop
        self._began = 0.0
        """The time at which the handler was started."""
        self._error: BaseException | None = None
        """The exception of the handler, for the log."""
        self._status_expected = Expected("JobStatus", id=attempt.token, check=_check_status)
        self._update_expected = Expected("UpdateJobResponse", id=attempt.token)

    async def run(self) -> Outcome:
        """Run the handler, and report its result, unless the attempt is lost or released meanwhile.

        Raises `LocalFault` if the handler does, after the attempt was released.
        """
        # The first status request confirms the handover. If the worker is stopped meanwhile, and the server is
        # unavailable, it is not waited for.
        status = await unless(self._stop.requested, self._status(0.0, self._lease.call_again_after))
        if status is not None and status.lost is not None:
            log.info("job %s: not started: %s", self._attempt.id, status.lost)
            return Outcome.NOT_STARTED
        if status is None or self._stop.requested.is_set():
            await self._release("before its start: the worker stops")
            return Outcome.NOT_STARTED
        log.info("job %s: started, type %s", self._attempt.id, self._attempt.type)
        self._began = asyncio.get_running_loop().time()
        loop = ClientLoop(asyncio.get_running_loop(), "this attempt at the job is over")
        context = JobContext(self._connection, self._attempt, loop)
        work = asyncio.create_task(self._work(context), name=f"job {self._attempt.id}")
        losing = asyncio.create_task(self._until_lost())
        aborting = asyncio.create_task(self._stop.at_once.wait())
        others: list[asyncio.Task[Any]] = [losing, aborting]
        working: list[asyncio.Task[Any]] = [work]
        try:
            await asyncio.wait([work, *others], return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                report = asyncio.create_task(self._report(_result(work), context.uploaded))
                working.append(report)
                await asyncio.wait([report, aborting], return_when=asyncio.FIRST_COMPLETED)
                await asyncio.wait([report], timeout=RELEASE_WITHIN)  # a server that is available accepts it in time
                if report.done():
                    return report.result()
            if aborting.done():
                await cancel(*working)  # a command may take long to end: the lease is renewed meanwhile
                await self._release(f"after {self._elapsed}: the worker stops")
                return Outcome.RELEASED
            lost = losing.exception() or losing.result()
            log.info("job %s: stopped after %s: %s", self._attempt.id, self._elapsed, lost)
            return Outcome.LOST
        except LocalFault as exc:
            # What ails this machine may keep it from the server for a while. The lease is renewed meanwhile.
            why = f"after {self._elapsed}: {exc}"
            if not await unless(self._stop.requested, self._release(why, within=self._lease.seconds)):
                await self._release(why)
            raise
        except asyncio.CancelledError:  # `run` was canceled: let another worker run the job
            await cancel(work)
            await self._release(f"after {self._elapsed}: the worker was canceled")
            raise
        finally:
            await cancel(*working, *others)
            loop.close()  # a plain function may not have noticed

    @property
    def _elapsed(self) -> str:
        return f"{asyncio.get_running_loop().time() - self._began:.1f} s"

    async def _work(self, context: JobContext) -> bytes:
        handler = self._handler
        try:
            if inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__):
                return _encode(await handler(context))
            result = await _in_a_thread(handler, context)
            return _encode(await result if inspect.isawaitable(result) else result)
        except LocalFault:
            raise
        except (Exception, SystemExit) as exc:  # noqa: BLE001
            # Any other exception of a handler is a failure of the job. So is `sys.exit()`, which libraries call too: if
            # it ended this worker, the job would go to the next one and end that as well.
            self._error = exc
            return _failure(_described(exc))

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
                backoff=Backoff(longest=self._lease.longest_pause),
                doing=f"renew the lease of job {self._attempt.id}",
            )
        except RequestFailed as exc:
            return _AttemptStatus(lost=_lost(exc))
        return _AttemptStatus(lost="Job was canceled" if decoded(answer.body, _STATUS).canceled else None)

    async def _report(self, result: bytes, artifacts: list[Uploaded] | None) -> Outcome:
        """Report the result; if it can never be accepted, report a failure with the reason instead."""
        listed = b"" if artifacts is None else b',"artifacts":' + _encode(artifacts)
        backoff = BodyBackoff(partial(self._connection.answers, self._attempt.location, self._status_expected))
        refusal = await self._accepted(b'{"result":' + result + listed + b"}", backoff)
        if isinstance(refusal, ProxyAnswered | ServerUnreachable):
            reason = f"The result of {len(result)} bytes was refused: {refusal}"
        elif isinstance(refusal, RequestFailed) and refusal.number in _BAD_RESULT:
            reason = f"The server refused the result of {len(result)} bytes: {refusal}"
        else:
            return self._reported(refusal, await asyncio.to_thread(_failure_in, result))
        # Nothing smaller is left to send. So it is repeated, and the lease renewed, until composerd answers it.
        last = await self._accepted(b'{"result":' + _failure(reason) + b"}", Backoff(), small=True)
        return self._reported(last, reason)

    def _reported(self, refusal: ClientError | None, failure: str | None) -> Outcome:
        """Log how the job has ended, and return it."""
        if isinstance(refusal, RequestFailed) and refusal.number == _UNKNOWN_TOKEN and refusal.repeated:
            # The first answer was lost. The job was deleted since, or has lost its lease before, which is less likely.
            log.info("job %s: the answer to its result was lost, and the server has deleted it", self._attempt.id)
        elif refusal is not None:
            why = _lost(refusal)
            log.warning("job %s: result not accepted, after %s: %s", self._attempt.id, self._elapsed, why)
            return Outcome.LOST
        if failure is None:
            log.info("job %s: finished in %s", self._attempt.id, self._elapsed)
            return Outcome.FINISHED
        log.warning("job %s: failed after %s: %s", self._attempt.id, self._elapsed, failure, exc_info=self._error)
        return Outcome.FAILED

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
            return exc
        return None

    async def _release(self, why: str, within: float = RELEASE_WITHIN) -> bool:
        """Release the attempt, and log why. Return True once the server has answered, or the time is over."""
        try:
            async with asyncio.timeout(within):
                await self._connection.request(
                    "POST",
                    f"{self._attempt.location}/release",
                    self._update_expected,
                    body=b"{}",
                    repeat=True,
                    small=True,
                    patience=within,
                    again_after=self._lease.call_again_after,
                    doing=f"release job {self._attempt.id}",
                )
        except ClientError as exc:
            log.warning("job %s: stopped %s; it could not be released: %s", self._attempt.id, why, _lost(exc))
        except TimeoutError:
            log.warning("job %s: stopped %s; the server did not answer its release", self._attempt.id, why)
        else:
            log.info("job %s: released %s", self._attempt.id, why)
        return True


async def _in_a_thread(handler: Handler, context: JobContext) -> Any:
    """Call a plain function in a thread of its own, so that no other handler and no upload waits for a free one.

    Raises `LocalFault` if no thread can be started.
    """
    threads = ThreadPoolExecutor(1, thread_name_prefix=f"job {context.id}")
    try:
        call = partial(copy_context().run, _call, handler, context)
        try:
            running = asyncio.get_running_loop().run_in_executor(threads, call)
        except RuntimeError as exc:
            raise LocalFault(f"no thread can be started for the handler: {exc}") from exc
        return await running
    finally:
        threads.shutdown(wait=False)


def _call(handler: Handler, context: JobContext) -> Any:
    try:
        return handler(context)
    except StopIteration as exc:  # a future cannot have it, and would never be done
        raise RuntimeError("the handler raised StopIteration") from exc


def _described(error: BaseException) -> str:
    """Return the name of an exception and its text."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  # a handler's exception may be of any class
        text = "it has no text, because its __str__ fails"
    name = type(error).__name__
    return f"{name}: {text}" if text else name


def _failure(reason: str) -> bytes:
    """Return the result of a job that failed in this worker."""
    reason = reason.encode(errors="replace").decode()  # file names need not be valid text
    return _encode({"job_error": {"id": 10, "reason": reason, "details": None}})


def _failure_in(result: bytes) -> str | None:
    """Return the reason of a result that is a failure, or None."""
    if not has_job_error(result):
        return None
    error = _FAILURE.decode(result).job_error
    reason = error.get("reason") if isinstance(error, dict) else None
    return str(error if reason is None else reason)[:_LONGEST_REASON]


def _lost(error: ClientError) -> str:
    """Return the reason why an attempt is no longer this worker's, from the server's refusal."""
    if isinstance(error, RequestFailed) and error.number == _UNKNOWN_TOKEN:
        return "the server does not know the attempt any more: the job was deleted, or given to another worker"
    return str(error)


def _result(work: "asyncio.Task[bytes]") -> bytes:
    """Return the result of a handler's task, which is a failure if the task has canceled itself.

    Raises `LocalFault` if the handler has.
    """
    return _failure("The handler was canceled, but not the job.") if work.cancelled() else work.result()

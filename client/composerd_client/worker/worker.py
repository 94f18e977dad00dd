"""Worker: requests jobs, runs a handler for each, and reports the results.

It keeps working while the server is unavailable, and learns of a cancel at once.
"""

import asyncio
import logging
import platform
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from composerd_client.connection import Connection
from composerd_client.credentials.tokens import Credentials
from composerd_client.errors import LocalFault
from composerd_client.worker.attempt import Handler, Outcome, RunningAttempt, Stop
from composerd_client.worker.checks import free_space_check
from composerd_client.worker.health import Health, HealthCheck
from composerd_client.worker.requests import JobRequests
from composerd_client.worker.roster_entry import RosterEntry
from composerd_client.worker.tasks import unless
from composerd_protocol.options import DEFAULT_SERVER
from composerd_protocol.units import format_duration, in_seconds

log = logging.getLogger(__name__)

BASE = "/api/worker/v1"

H = TypeVar("H", bound=Handler)


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

    `server`, `ca_file`, `cert_file`, `key_file`, `proxy` and `credentials` are as for `ComposerClient`. `arch` is this
    machine's architecture by default. `concurrency` is the number of jobs that run at the same time. `base` is the path
    of the server's worker API.

    If this machine cannot run jobs, the worker requests none, with growing pauses between two looks, and tells the log
    and the server why. A handler says so with `LocalFault`. `health_check` is a coroutine function that is called
    before each request for a job, and returns a sentence that says why none can be run, or None. `min_free_space` is
    the number of bytes that have to be free where scratch directories are made (`TMPDIR`); 0 switches that off, and
    None stands for 5% of the file system, and at most 1 GiB.
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
        proxy: str | None = None,
        credentials: Credentials | None = None,
        health_check: HealthCheck | None = None,
        min_free_space: int | None = 0,
    ) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, and is {concurrency}")
        self.id = uuid.uuid4()
        """The worker's id in the list of workers."""
        self.arch = arch or platform.machine()
        self.concurrency = concurrency
        self._base = base
        self._connection = Connection(
            server, ca_file=ca_file, cert_file=cert_file, key_file=key_file, proxy=proxy, credentials=credentials
        )
        self.server = self._connection.server
        """The address of the server, without user and password."""
        self._handlers: dict[str, Handler] = {}
        self._stop = Stop()
        self._aborting: asyncio.TimerHandle | None = None
        self._jobs_left: int | None = None
        self._checks: list[HealthCheck] = [] if min_free_space == 0 else [free_space_check(min_free_space)]
        if health_check is not None:
            self._checks.append(health_check)
        self._health: Health | None = None
        self.failed_jobs = 0
        """Number of jobs that failed, were canceled, or were lost to this worker."""

    @property
    def problem(self) -> str | None:
        """A sentence that says why this worker requests no jobs; None while it does."""
        return None if self._health is None else self._health.problem

    def handler(self, type: str) -> Callable[[H], H]:
        """Return a decorator that registers the handler for a type of job.

        The handler gets a `JobContext`. It may be a coroutine function, or a plain function, which runs in a thread of
        its own and reports with `job.sync`. Register all handlers before `run`.
        """
        if not isinstance(type, str):
            raise TypeError("the type of a job is missing: write @worker.handler('TYPE')")

        def register(handler: H) -> H:
            if not callable(handler):
                raise TypeError(f"the handler for {type!r} is not a function, but {handler!r}")
            self._handlers[type] = handler
            return handler

        return register

    def stop(self, after: float | timedelta | None = None) -> None:
        """Request no more jobs, and let `run` return once the running jobs are finished.

        If jobs still run `after` so many seconds, they are released. If this is called again, they are released at
        once. Call it on the event loop of `run`: a signal handler with `loop.add_signal_handler`, and another thread
        with `loop.call_soon_threadsafe`.
        """
        if self._stop.requested.is_set():
            log.info("stopping: running jobs are released")
            self._stop.at_once.set()
            return
        seconds = None if after is None else in_seconds("after", after)
        self._stop.requested.set()
        if seconds is None:
            log.info("stopping once the running jobs are finished")
            return
        log.info("stopping: running jobs are released after %s", format_duration(seconds))
        self._aborting = asyncio.get_running_loop().call_later(seconds, self._stop.at_once.set)

    async def run(self, jobs: int | None = None) -> None:
        """Run jobs until `stop` is called, or until this number of jobs has ended.

        A job that was released, because this machine could not run it, does not count, nor does one that was lost
        before it was started. Raises `RequestFailed` if the server refuses the request for jobs, and `RuntimeError` if
        there is no handler.
        """
        self._jobs_left = jobs
        types = list(self._handlers)
        if not types:
            raise RuntimeError("the worker has no handler: register one with @worker.handler('TYPE') before it runs")
        log.info("worker %s started: types %s, arch %s, server %s", self.id, ", ".join(types), self.arch, self.server)
        try:
            async with self._connection:
                entry = RosterEntry(self._connection, self._base, worker_id=self.id, types=types, arch=self.arch)
                self._health = Health(self._checks, entry.report)
                try:
                    await self._run_slots(types, self._health)
                finally:
                    await entry.sign_off()
        finally:
            if self._aborting is not None:
                self._aborting.cancel()
            log.info("worker %s ended", self.id)

    async def _run_slots(self, types: list[str], health: Health) -> None:
        requests = JobRequests(
            self._connection, self._base, worker_id=self.id, types=types, arch=self.arch, slots=self.concurrency
        )
        try:
            async with asyncio.TaskGroup() as slots:
                for _ in range(self.concurrency):
                    slots.create_task(self._slot(requests, health))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    async def _slot(self, requests: JobRequests, health: Health) -> None:
        while not self._stop.requested.is_set() and self._jobs_left != 0:
            if self._jobs_left is not None:
                self._jobs_left -= 1
            if not await self._run_one(requests, health) and self._jobs_left is not None:
                self._jobs_left += 1

    async def _run_one(self, requests: JobRequests, health: Health) -> bool:
        """Run a job, and return False if it does not count."""
        await unless(self._stop.requested, health.until_healthy())
        if self._stop.requested.is_set():
            return False
        attempt = await unless(self._stop.requested, requests.request())
        if attempt is None:
            return False
        began = asyncio.get_running_loop().time()
        running = RunningAttempt(self._connection, attempt, self._handlers[attempt.type], self._stop)
        try:
            outcome = await running.run()
        except LocalFault as exc:
            await health.fault(str(exc))
            return False
        if outcome in (Outcome.NOT_STARTED, Outcome.RELEASED):
            return False
        if outcome is not Outcome.FINISHED:
            self.failed_jobs += 1
        health.worked(began)
        return True

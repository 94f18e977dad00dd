"""Worker: requests jobs, runs a handler for each, and reports the results.

It keeps working while the server is unavailable, and learns of a cancel at once.
"""

import asyncio
import platform
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from composerd_client.connection import DEFAULT_SERVER, Connection
from composerd_client.worker.attempt import Handler, RunningAttempt, Stop
from composerd_client.worker.requests import JobRequests
from composerd_client.worker.tasks import unless

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

    `server`, `ca_file`, `cert_file`, `key_file` and `proxy` are as for `ComposerClient`. `arch` is this machine's
    architecture by default. `concurrency` is the number of jobs that run at the same time. `base` is the path of the
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
        proxy: str | None = None,
    ) -> None:
        self.id = uuid.uuid4()
        """The worker's id in the list of workers."""
        self.arch = arch or platform.machine()
        self.concurrency = concurrency
        self._base = base
        self._connection = Connection(server, ca_file=ca_file, cert_file=cert_file, key_file=key_file, proxy=proxy)
        self._handlers: dict[str, Handler] = {}
        self._stop = Stop()
        self._jobs_left: int | None = None
        self.failed_jobs = 0
        """Number of jobs that failed, were canceled, or were lost to this worker."""

    def handler(self, type: str) -> Callable[[H], H]:
        """Return a decorator that registers the handler for a type of job.

        The handler gets a `JobContext`. It may be a coroutine function or a plain function. Register all handlers
        before `run`.
        """

        def register(handler: H) -> H:
            self._handlers[type] = handler
            return handler

        return register

    def stop(self) -> None:
        """Request no more jobs, and let `run` return once the running jobs are finished.

        If it is called again, the running jobs are released at once.
        """
        if self._stop.requested.is_set():
            self._stop.at_once.set()
        self._stop.requested.set()

    async def run(self, jobs: int | None = None) -> None:
        """Run jobs until `stop` is called, or until this number of jobs has ended.

        Raises `RequestFailed` if the server refuses the request for jobs.
        """
        self._jobs_left = jobs
        try:
            async with self._connection, asyncio.TaskGroup() as slots:
                requests = JobRequests(
                    self._connection,
                    self._base,
                    worker_id=self.id,
                    types=list(self._handlers),
                    arch=self.arch,
                    slots=self.concurrency,
                )
                for _ in range(self.concurrency):
                    slots.create_task(self._slot(requests))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    async def _slot(self, requests: JobRequests) -> None:
        while not self._stop.requested.is_set() and self._jobs_left != 0:
            if self._jobs_left is not None:
                self._jobs_left -= 1
            attempt = await unless(self._stop.requested, requests.request())
            if attempt is not None:
                running = RunningAttempt(self._connection, attempt, self._handlers[attempt.type], self._stop)
                await running.run()
                self.failed_jobs += running.failed

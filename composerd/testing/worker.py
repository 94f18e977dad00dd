"""A worker for tests that follows a script: for each type of job a result, or a function that returns one."""

import asyncio
import inspect
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from composerd_client import JobContext, Worker

Play = Any
"""The result of a job, any JSON; or a handler as for `composerd_client.Worker`."""


class ScriptedWorker:
    """A worker that runs in a thread of its own during a `with` block; at the end, running jobs are finished first.

    `plays` maps each type of job to a result, or to a function or coroutine function that takes the `JobContext` and
    returns a result; if it raises an exception, the job fails. `options` are options of `composerd_client.Worker`. If
    the worker itself fails, for example because the server refuses a type, the error is raised at the end of the block.
    """

    def __init__(self, server: str, plays: Mapping[str, Play], **options: Any) -> None:
        self.jobs: list[JobContext] = []
        """The jobs that the worker has got, in order."""
        self._worker = Worker(server, **options)
        for job_type, play in plays.items():
            self._worker.handler(job_type)(self._handler(play))
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._play, name="scripted worker", daemon=True)
        self._stop: Callable[[], object] = lambda: None

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, _type: type[BaseException] | None, exc: BaseException | None, _tb: TracebackType | None) -> None:
        with suppress(RuntimeError):  # the worker has already ended
            self._stop()
        self._thread.join()
        if self._failure is not None and exc is None:
            raise self._failure

    def _play(self) -> None:
        try:
            asyncio.run(self._run())
        except Exception as exc:  # noqa: BLE001  # raised in the test's own thread
            self._failure = exc

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        self._stop = lambda: loop.call_soon_threadsafe(self._worker.stop)
        self._started.set()
        await self._worker.run()

    def _handler(self, play: Play) -> Callable[[JobContext], Any]:
        def handle(job: JobContext) -> Any:
            self.jobs.append(job)
            return play(job) if callable(play) else play

        async def handle_on_the_loop(job: JobContext) -> Any:
            self.jobs.append(job)
            return await play(job)

        return handle_on_the_loop if inspect.iscoroutinefunction(play) else handle

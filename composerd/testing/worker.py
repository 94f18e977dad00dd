"""A worker for tests that plays a script: for each type of job a result, or a function that makes one."""

import asyncio
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from composerd.client import JobContext, Worker

Play = Any
"""The result of a job, any JSON; or a handler, as those of `composerd.client.Worker`."""


class ScriptedWorker:
    """A worker in a thread of its own, from `with` to the end of the block; the jobs that run then come to their end.

    `plays` says for each type what becomes of its jobs: a result, or a function (or coroutine function) of the
    `JobContext` that returns one; one that raises makes the job fail. `options` are those of `composerd.client.Worker`.
    What the worker itself fails with, such as a type that the server refuses, is raised at the end of the block.
    """

    def __init__(self, server: str, plays: Mapping[str, Play], **options: Any) -> None:
        self.jobs: list[JobContext] = []
        """The jobs that it got, in order."""
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
        with suppress(RuntimeError):  # it has ended already
            self._stop()
        self._thread.join()
        if self._failure is not None and exc is None:
            raise self._failure

    def _play(self) -> None:
        try:
            asyncio.run(self._run())
        except Exception as exc:  # noqa: BLE001  # for the test's own thread
            self._failure = exc

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        self._stop = lambda: loop.call_soon_threadsafe(self._worker.stop)
        self._started.set()
        await self._worker.run()

    def _handler(self, play: Play) -> Callable[[JobContext], Any]:
        async def handle(job: JobContext) -> Any:
            self.jobs.append(job)
            if asyncio.iscoroutinefunction(play):
                return await play(job)
            return await asyncio.to_thread(play, job) if callable(play) else play

        return handle

"""A worker for tests that plays a script: for each type of job a result, or a function that makes one."""

import asyncio
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from composerd.client import JobContext, Worker

Play = Any
"""The result of a job, any JSON; or a handler, as those of `composerd.client.Worker`."""


class ScriptedWorker:
    """A worker in a thread of its own, from `with` to the end of the block; the jobs that run then come to their end.

    `plays` says for each type what becomes of its jobs: a result, or a function (or coroutine function) of the
    `JobContext` that returns one; one that raises makes the job fail. `arch` and `concurrency` are those of
    `composerd.client.Worker`.
    """

    def __init__(self, server: str, plays: Mapping[str, Play], **options: Any) -> None:
        self.jobs: list[JobContext] = []
        """The jobs that it got, in order."""
        self._server = server
        self._plays = plays
        self._options = options
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="scripted worker", daemon=True)
        self._stop: Callable[[], object] = lambda: None

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _exc: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self._stop()
        self._thread.join()

    async def _run(self) -> None:
        worker = Worker(self._server, **self._options)
        for job_type, play in self._plays.items():
            worker.handler(job_type)(self._handler(play))
        loop = asyncio.get_running_loop()
        self._stop = lambda: loop.call_soon_threadsafe(worker.stop)
        self._started.set()
        await worker.run()

    def _handler(self, play: Play) -> Callable[[JobContext], Any]:
        async def handle(job: JobContext) -> Any:
            self.jobs.append(job)
            if asyncio.iscoroutinefunction(play):
                return await play(job)
            return await asyncio.to_thread(play, job) if callable(play) else play

        return handle

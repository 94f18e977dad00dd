"""The roster: which workers were heard of lately. Gathered as requests come, told to the driver some at a time."""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from uuid import UUID

from composerd.driver import Driver
from composerd.errors import ComposerdError, WorkerNotFound
from composerd.ids import new_id
from composerd.models import Worker

log = logging.getLogger(__name__)

TELL = 1.0
"""How often the driver is told, in seconds."""

NIL = UUID(int=0)

_NOBODY = nullcontext()


class Roster:
    """Workers by id; one not heard of for `timeout` seconds is dropped from it. `run` keeps it going."""

    def __init__(self, driver: Driver, timeout: float) -> None:
        self._driver = driver
        self._timeout = timeout
        self._heard: dict[UUID, Worker] = {}
        self._asking: dict[UUID, tuple[Worker, int]] = {}
        """Workers whose question for a job is open, and how many questions: they are there as long as they wait."""

    async def register(self, arch: str, channel: str = "") -> UUID:
        """Take in a new worker; its id."""
        worker = Worker(new_id(), arch, channel=channel)
        await self._driver.seen([worker])
        return worker.id

    async def check(self, worker_id: UUID) -> None:
        """A worker gives a sign of life. Raises `WorkerNotFound` if it was not heard of lately."""
        if worker_id not in self._heard and not await self._driver.workers(self._timeout, [worker_id]):
            raise WorkerNotFound(id=str(worker_id))
        self.alive(worker_id)

    def alive(self, worker_id: UUID) -> None:
        """Hear of a worker that may be known already. The nil id is nobody's."""
        if worker_id != NIL:
            self._heard.setdefault(worker_id, Worker(worker_id, ""))

    def asking(self, worker: Worker | None) -> AbstractContextManager[None]:
        """Hear of a worker, for as long as its question is open."""
        return _NOBODY if worker is None or worker.id == NIL else self._open(worker)

    @contextmanager
    def _open(self, worker: Worker) -> Iterator[None]:
        self._heard[worker.id] = worker
        self._asking[worker.id] = (worker, self._asking.get(worker.id, (worker, 0))[1] + 1)
        try:
            yield
        finally:
            _, questions = self._asking[worker.id]
            if questions == 1:
                del self._asking[worker.id]
            else:
                self._asking[worker.id] = (worker, questions - 1)
            self.alive(worker.id)

    async def workers(self) -> Sequence[Worker]:
        """Those heard of lately, the latest first."""
        self._still_asking()
        await self._tell()
        return await self._driver.workers(self._timeout)

    async def run(self) -> None:
        """Tell the driver, for ever."""
        again = 0.0
        while True:
            await asyncio.sleep(TELL)
            again += TELL
            if again >= self._timeout / 4:
                again = 0.0
                self._still_asking()
            try:
                await self._tell()
            except ComposerdError as exc:
                log.info("the storage did not take who was heard of: %s", exc)

    def _still_asking(self) -> None:
        for worker, _ in self._asking.values():
            self._heard[worker.id] = worker

    async def _tell(self) -> None:
        heard, self._heard = self._heard, {}
        if heard:
            await self._driver.seen(list(heard.values()))

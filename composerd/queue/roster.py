"""The roster: the workers that were seen lately. It gathers signs of life, and reports them to the driver."""

import asyncio
import logging
from collections.abc import Sequence
from uuid import UUID

import msgspec

from composerd.driver import Driver
from composerd.errors import ComposerdError, WorkerNotFound
from composerd.ids import new_id
from composerd.models import Worker

log = logging.getLogger(__name__)

REPORT_EVERY = 1.0
"""Interval in seconds at which the workers seen are reported to the driver."""

NIL = UUID(int=0)
"""The id that stands for no worker."""


class _Requests(msgspec.Struct):
    """Number of requests with which a worker waits for a job."""

    worker: Worker
    count: int = 0


class Roster:
    """The workers by id. A worker that was not seen for `timeout` seconds is unknown.

    Signs of life are gathered here and reported to the driver by `run`, so a heartbeat of a worker costs no write of
    its own. On a shared storage the workers of other servers are known too.
    """

    def __init__(self, driver: Driver, timeout: float) -> None:
        self._driver = driver
        self._timeout = timeout
        self._seen: dict[UUID, Worker] = {}
        """Workers seen since the last report."""
        self._waiting: dict[UUID, _Requests] = {}
        """Workers whose requests wait for a job: they count as seen as long as they wait."""

    async def register(self, arch: str, channel: str = "") -> UUID:
        """Store a new worker, and return its id. It is known at once, to other servers too.

        Raises what `Driver.seen` raises.
        """
        worker = Worker(new_id(), arch, channel=channel)
        await self._driver.seen([worker])
        return worker.id

    async def check(self, worker_id: UUID) -> None:
        """Count a sign of life of a worker. Raises `WorkerNotFound` if the worker was not seen lately."""
        if worker_id not in self._seen and not await self._driver.workers(self._timeout, [worker_id]):
            raise WorkerNotFound(id=str(worker_id))
        self.alive(worker_id)

    def alive(self, worker_id: UUID) -> None:
        """Count a sign of life of a worker, known or not."""
        if worker_id != NIL:
            self._seen.setdefault(worker_id, Worker(worker_id, ""))

    def begin_wait(self, worker: Worker) -> None:
        """Count a worker as seen until `end_wait` has been called as often as this."""
        if worker.id == NIL:
            return
        self._seen[worker.id] = worker
        requests = self._waiting.setdefault(worker.id, _Requests(worker))
        requests.worker = worker
        requests.count += 1

    def end_wait(self, worker: Worker) -> None:
        """End one call of `begin_wait`."""
        if worker.id == NIL:
            return
        requests = self._waiting[worker.id]
        requests.count -= 1
        if requests.count == 0:
            del self._waiting[worker.id]
        self._seen.setdefault(worker.id, worker)

    async def workers(self) -> Sequence[Worker]:
        """Return the workers seen lately, the latest first."""
        self._see_waiting()
        await self._report()
        return await self._driver.workers(self._timeout)

    async def run(self) -> None:
        """Report to the driver until canceled."""
        since_all = 0.0
        while True:
            await asyncio.sleep(REPORT_EVERY)
            since_all += REPORT_EVERY
            if since_all >= self._timeout / 4:
                since_all = 0.0
                self._see_waiting()
            try:
                await self._report()
            except ComposerdError as exc:
                if not exc.logged:
                    log.info("storing when workers were last seen failed: %s", exc)

    def _see_waiting(self) -> None:
        for requests in self._waiting.values():
            self._seen[requests.worker.id] = requests.worker

    async def _report(self) -> None:
        seen, self._seen = self._seen, {}
        if seen:
            await self._driver.seen(list(seen.values()))

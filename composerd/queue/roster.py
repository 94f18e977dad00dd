"""The roster: the workers that were seen lately. It gathers signs of life, and reports them to the driver."""

import asyncio
import logging
import time
from collections.abc import Sequence
from uuid import UUID

import msgspec

from composerd.driver import Driver
from composerd.errors import ComposerdError, Unavailable, WorkerNotFound
from composerd.ids import new_id
from composerd.models import Worker, WorkerCursor, WorkerPage
from composerd.shares import Shares

log = logging.getLogger(__name__)

REPORT_EVERY = 1.0
"""Interval in seconds at which the workers seen are reported to the driver."""

REPORTED_AT_ONCE = 500
"""The most workers in a call of the driver."""

SEE_WAITING_EVERY = 60.0
"""Age in seconds from which on a listing has the waiting workers reported again: there may be very many."""

UNREPORTED = 16 * 1024 * 1024
"""The most bytes of workers that were seen since the last report."""

ON_ITS_WAY = 0.5
"""Seconds that a report may take on its way to the storage.

They are added to the age of each report, so that none seems to be later than it is. Otherwise something that a worker
had sent before it signed off could list it again.
"""

_Named = tuple[UUID, str]
"""A worker's id, and the client that named it."""

NIL = UUID(int=0)
"""The id that stands for no worker."""


class _News(msgspec.Struct):
    """A worker, and when it sent what this says of it."""

    worker: Worker
    sent: float

    def now(self) -> Worker:
        """Return the worker with the age of what is said of it."""
        if not (self.worker.arch or self.worker.types or self.worker.problem is not None):
            return self.worker  # a sign of life, which says nothing
        return msgspec.structs.replace(self.worker, age=time.monotonic() - self.sent + ON_ITS_WAY)


class _Requests(msgspec.Struct):
    """Number of requests with which a worker waits for a job, and what the latest one says."""

    latest: _News
    count: int = 0


class Roster:
    """The workers by id. A worker that was not seen for `timeout` seconds is unknown.

    Signs of life are gathered here and reported to the driver by `run`, so a heartbeat of a worker costs no write of
    its own. On a shared storage the workers of other servers are known too. A worker belongs to the client that named
    it first; the driver keeps that, so it is true of every server. It is told how old a report is, because a worker may
    have said something else, or have signed off, at another server meanwhile.
    """

    def __init__(self, driver: Driver, timeout: float) -> None:
        self._driver = driver
        self._timeout = timeout
        self._seen: dict[_Named, _News] = {}
        """Workers seen since the last report, by the client that named them: the driver knows whose they are."""
        self._bytes = _unreported()
        self._waiting: dict[_Named, _Requests] = {}
        """Workers whose requests wait for a job: they count as seen as long as they wait."""
        self._saw_waiting = float("-inf")

    async def register(self, arch: str, channel: str = "", client: str = "") -> UUID:
        """Store a new worker, and return its id. It is known at once, to other servers too.

        Raises what `Driver.seen` raises.
        """
        worker = Worker(new_id(), arch, channel=channel, client=client, age=ON_ITS_WAY)
        await self._driver.seen([worker])
        return worker.id

    async def check(self, worker_id: UUID, client: str = "", problem: str = "") -> None:
        """Count a sign of life of a known worker, and store its problem, or that it has none if that is empty.

        Whoever gives it gets the same answer, but only the worker's own client keeps it from being forgotten. Raises
        `WorkerNotFound` if the worker was not seen lately.
        """
        if (worker_id, client) not in self._seen and not await self._driver.workers(self._timeout, [worker_id]):
            raise WorkerNotFound(id=str(worker_id))
        self.describe(Worker(worker_id, "", client=client, problem=problem))

    def describe(self, worker: Worker) -> None:
        """Store what a worker, known or not, says of itself."""
        if worker.id == NIL:
            return
        named = worker.id, worker.client
        before = self._seen.get(named)
        if before is not None and not (worker.arch or worker.types):
            worker = msgspec.structs.replace(before.worker, problem=worker.problem)
        self._note(_News(worker, time.monotonic()))

    def alive(self, worker_id: UUID, client: str = "") -> None:
        """Count a sign of life of a worker, known or not; without a client if its attempt's token tells who it is."""
        if worker_id != NIL and (worker_id, client) not in self._seen:
            self._note(_News(Worker(worker_id, "", client=client), time.monotonic()))

    async def sign_off(self, worker_id: UUID, client: str) -> None:
        """Show a worker no longer, at no server of the storage, until it describes itself again.

        A worker of another client is left as it is. Raises what `Driver.sign_off` raises.
        """
        if worker_id == NIL:
            return
        unreported = self._seen.pop((worker_id, client), None)
        if unreported is not None:
            self._bytes.exchange(client, _size(unreported.worker), 0)
        await self._driver.sign_off([Worker(worker_id, "", client=client)])

    def begin_wait(self, worker: Worker) -> None:
        """Count a worker as seen until `end_wait` has been called as often as this."""
        if worker.id == NIL:
            return
        news = _News(worker, time.monotonic())
        self._note(news)
        named = worker.id, worker.client
        requests = self._waiting.get(named)
        if requests is None:
            self._waiting[named] = _Requests(news, 1)
        else:
            requests.latest = news
            requests.count += 1

    def end_wait(self, worker: Worker) -> None:
        """End one call of `begin_wait`."""
        if worker.id == NIL:
            return
        named = worker.id, worker.client
        requests = self._waiting[named]
        requests.count -= 1
        if requests.count == 0:
            del self._waiting[named]
        if named not in self._seen:
            self._note(requests.latest)

    async def page(self, after: WorkerCursor | None, limit: int) -> WorkerPage:
        """Return a page of the workers seen lately, the latest first.

        When a worker was seen that waits is up to `SEE_WAITING_EVERY` seconds old.
        """
        if after is None:
            now = asyncio.get_running_loop().time()
            if now - self._saw_waiting > SEE_WAITING_EVERY:
                self._saw_waiting = now
                await self._see_waiting()
            await self._report()
        return await self._driver.worker_page(self._timeout, after, limit)

    async def run(self) -> None:
        """Report to the driver until canceled."""
        since_all = 0.0
        while True:
            await asyncio.sleep(REPORT_EVERY)
            since_all += REPORT_EVERY
            try:
                if since_all >= self._timeout / 4:
                    since_all = 0.0
                    await self._see_waiting()
                await self._report()
            except ComposerdError as exc:
                if not exc.logged:
                    log.info("storing when workers were last seen failed: %s", exc)

    def _note(self, news: _News) -> None:
        """Remember a worker until the next report; it is left out if its client has named too many since the last."""
        worker = news.worker
        named = worker.id, worker.client
        before = self._seen.get(named)
        try:
            self._bytes.exchange(worker.client, 0 if before is None else _size(before.worker), _size(worker))
        except Unavailable:
            return
        self._seen[named] = news

    async def _see_waiting(self) -> None:
        """Report the workers whose requests wait."""
        await self._tell([requests.latest for requests in self._waiting.values()])

    async def _report(self) -> None:
        seen = [*self._seen.values()]
        self._seen = {}
        self._bytes = _unreported()
        await self._tell(seen)

    async def _tell(self, news: Sequence[_News]) -> None:
        """Report workers to the driver, some at a time, so that the event loop can go on."""
        for begin in range(0, len(news), REPORTED_AT_ONCE):
            await self._driver.seen([one.now() for one in news[begin : begin + REPORTED_AT_ONCE]])
            await asyncio.sleep(0)


def _unreported() -> Shares:
    """Return the account of the bytes of workers that have not been reported yet."""
    return Shares("workers", UNREPORTED, least=_size(Worker(NIL, "", ("x" * 128,) * 64)))


def _size(worker: Worker) -> int:
    """Return about how many bytes a worker takes in memory."""
    return 512 + sum(64 + len(type) for type in worker.types) + len(worker.problem or "")

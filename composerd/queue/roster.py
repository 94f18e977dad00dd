"""The roster: the workers that were seen lately. It gathers signs of life, and reports them to the driver."""

import asyncio
import logging
import sys
import time
from collections.abc import Sequence
from uuid import UUID

import msgspec

from composerd.driver import Driver
from composerd.errors import ComposerdError, Unavailable, WorkerNotFound
from composerd.ids import new_id
from composerd.models import Worker, WorkerCursor, WorkerPage
from composerd.queue.worker_ids import NIL, given_worker_id, stored_worker_id
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

READ_AT_ONCE = 500
"""The most workers that are read at once to find those of one channel."""

LARGEST_PAGE = 1024 * 1024
"""The most bytes of workers after which no more are read for a page of one channel."""

_Named = tuple[UUID, str]
"""The id under which the storage knows a worker, and the client that named it."""


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
    have said something else, or have signed off, at another server meanwhile. Workers of different channels with the
    same id are different workers.
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
        await self._driver.seen([self._stored(worker)])
        return worker.id

    async def check(
        self, worker_id: UUID, client: str = "", problem: str = "", channel: str = "", *, owned: bool = False
    ) -> None:
        """Count a sign of life of a known worker, and store its problem, or that it has none if that is empty.

        If `owned` is true, the worker of another client is as unknown as any. Otherwise whoever gives it gets the same
        answer, but only the worker's own client keeps it from being forgotten. Raises `WorkerNotFound` if the worker
        was not seen lately.
        """
        stored = stored_worker_id(worker_id, channel)
        if (stored, client) not in self._seen:
            known = await self._driver.workers(self._timeout, [stored])
            if not known or (owned and known[0].client not in ("", client)):
                raise WorkerNotFound(id=str(worker_id))
        self.describe(Worker(worker_id, "", channel=channel, client=client, problem=problem))

    def describe(self, worker: Worker) -> None:
        """Store what a worker, known or not, says of itself."""
        if worker.id == NIL:
            return
        worker = self._stored(worker)
        named = worker.id, worker.client
        before = self._seen.get(named)
        if before is not None and not (worker.arch or worker.types):
            worker = msgspec.structs.replace(before.worker, problem=worker.problem)
        self._note(_News(worker, time.monotonic()))

    def alive(self, stored: UUID) -> None:
        """Count a sign of life of the worker of an attempt, which names it by the id that the storage knows."""
        if stored != NIL and (stored, "") not in self._seen:
            self._note(_News(Worker(stored, ""), time.monotonic()))

    async def sign_off(self, worker_id: UUID, client: str, channel: str = "") -> None:
        """Show a worker no longer, at no server of the storage, until it describes itself again.

        A worker of another client is left as it is. Raises what `Driver.sign_off` raises.
        """
        if worker_id == NIL:
            return
        stored = stored_worker_id(worker_id, channel)
        unreported = self._seen.pop((stored, client), None)
        if unreported is not None:
            self._bytes.exchange(client, _size(unreported.worker), 0)
        await self._driver.sign_off([Worker(stored, "", client=client)])

    def begin_wait(self, worker: Worker) -> None:
        """Count a worker as seen until `end_wait` has been called as often as this."""
        if worker.id == NIL:
            return
        worker = self._stored(worker)
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
        named = stored_worker_id(worker.id, worker.channel), worker.client
        requests = self._waiting[named]
        requests.count -= 1
        if requests.count == 0:
            del self._waiting[named]
        if named not in self._seen:
            self._note(requests.latest)

    async def page(self, after: WorkerCursor | None, limit: int, channel: str | None = None) -> WorkerPage:
        """Return a page of the workers seen lately, the latest first; of one channel, unless that is None.

        When a worker was seen that waits is up to `SEE_WAITING_EVERY` seconds old. The page of a channel tells nothing
        about the workers of others: it is full, unless it is the last one, and there is a worker in the next one.
        """
        if after is None:
            now = asyncio.get_running_loop().time()
            if now - self._saw_waiting > SEE_WAITING_EVERY:
                self._saw_waiting = now
                await self._see_waiting()
            await self._report()
        if channel is not None:
            return await self._page_of(channel, after, limit)
        page = await self._driver.worker_page(self._timeout, after, limit)
        return WorkerPage(tuple(await self._known(page.workers)), page.next)

    async def _page_of(self, channel: str, after: WorkerCursor | None, limit: int) -> WorkerPage:
        """Return a page of the workers of a channel, of which the last one is found by looking for one more."""
        found: list[Worker] = []
        size = 0
        while True:
            page = await self._driver.worker_page(self._timeout, after, READ_AT_ONCE, channel)
            known = await self._known(page.workers)
            own = [place for place, worker in enumerate(known) if _is_shown(worker, channel)]
            left = limit - len(found)
            if len(own) > left:
                if left:
                    page = await self._driver.worker_page(self._timeout, after, own[left - 1] + 1, channel)
                    known = await self._known(page.workers)
                    found += [worker for worker in known if _is_shown(worker, channel)][:left]
                    after = page.next
                return WorkerPage(await self._with_jobs_of(channel, found), after)
            found += [known[place] for place in own]
            if page.next is None:
                return WorkerPage(await self._with_jobs_of(channel, found), None)
            size += sum(_size(known[place]) for place in own)
            if size > LARGEST_PAGE:
                limit = len(found)
            after = page.next
            await asyncio.sleep(0)

    async def _known(self, stored: Sequence[Worker]) -> list[Worker]:
        """Return workers with the ids that they use.

        One that has given only a sign of life, by a job that it runs, is in the channel of that job.
        """
        silent = [worker.jobs[0] for worker in stored if worker.jobs and not (worker.channel or worker.arch)]
        jobs = await self._driver.listed(silent) if silent else ()
        channels = {job.id: job.channel for job in jobs if job is not None}
        known = []
        for worker in stored:
            channel = worker.channel or (channels.get(worker.jobs[0], "") if worker.jobs else "")
            given = given_worker_id(worker.id, channel)
            known.append(worker if not channel else msgspec.structs.replace(worker, id=given, channel=channel))
        return known

    async def _with_jobs_of(self, channel: str, workers: Sequence[Worker]) -> tuple[Worker, ...]:
        """Return workers without jobs of other channels.

        Whoever knows the id of another channel's worker can choose one that is the same for the storage, which then
        gives the jobs of that worker to both.
        """
        named = [job_id for worker in workers for job_id in worker.jobs]
        own: set[UUID] = set()
        for begin in range(0, len(named), READ_AT_ONCE):
            jobs = await self._driver.listed(named[begin : begin + READ_AT_ONCE])
            own.update(job.id for job in jobs if job is not None and job.channel == channel)
            await asyncio.sleep(0)
        if len(own) == len(named):
            return tuple(workers)
        return tuple(
            msgspec.structs.replace(worker, jobs=tuple(job_id for job_id in worker.jobs if job_id in own))
            for worker in workers
        )

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

    def _stored(self, worker: Worker) -> Worker:
        """Return a worker with the id under which the storage knows it."""
        if not worker.channel:
            return worker
        return msgspec.structs.replace(worker, id=stored_worker_id(worker.id, worker.channel))

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


def _is_shown(worker: Worker, channel: str) -> bool:
    """Return True if a worker is shown to those who see one channel: nothing tells the channel of a silent one."""
    return worker.channel == channel and bool(worker.arch or worker.jobs)


def _unreported() -> Shares:
    """Return the account of the bytes of workers that have not been reported yet."""
    return Shares("workers", UNREPORTED, least=_size(Worker(NIL, "", ("x" * 128,) * 64)))


def _size(worker: Worker) -> int:
    """Return about how many bytes a worker takes in memory."""
    texts = sys.getsizeof(worker.client) + sys.getsizeof(worker.channel) + len(worker.problem or "")
    return 512 + sum(64 + len(type) for type in worker.types) + texts

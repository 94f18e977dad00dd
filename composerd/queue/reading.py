"""The part of the queue that reads jobs for somebody, for whom the jobs of some channels may not exist."""

from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from uuid import UUID

from composerd.driver.guard import Guard
from composerd.errors import JobNotFound
from composerd.models import Artifact, IdPage, Job, JobFilter, JobPage, PayloadKind
from composerd.queue import payloads
from composerd.queue.lookups import Lookup
from composerd.queue.payloads import Piece
from composerd.queue.worker_ids import with_given_worker_id

VISIBLE = 10_000
"""Number of jobs of which is remembered that they exist for whoever has asked for them."""

Turn = Callable[[], Awaitable[None]]
"""Lets other requests have their turn, and returns when it is this one's again."""


class Reading:
    """Reads jobs. Each is named with a `Lookup`, so that none is read for somebody for whom it does not exist."""

    def __init__(self, driver: Guard) -> None:
        self.driver = driver
        self._visible: OrderedDict[Lookup, None] = OrderedDict()
        """Jobs that exist for those who have asked, because a job never changes its channel."""

    async def get(self, job: Lookup) -> Job:
        """Return a job, without its args and result. Raises `JobNotFound`.

        A job with many dependents takes long to read, so it is checked before that it exists for whoever asks: the time
        must not tell that there is one.
        """
        await self.check(job)
        return with_given_worker_id(job.checked((await self.driver.get([job.id]))[0]))

    async def listed(self, job: Lookup) -> Job:
        """Return a job as a listing shows it, which takes no longer if it has many dependents. Raises `JobNotFound`."""
        found = job.checked((await self.driver.listed([job.id]))[0])
        if job.channel is not None:
            self._visible[job] = None
            if len(self._visible) > VISIBLE:
                self._visible.popitem(last=False)
        return with_given_worker_id(found)

    async def check(self, job: Lookup) -> None:
        """Raise `JobNotFound` if a job does not exist for whoever asks, and is not known to have existed.

        Nothing is read for those who see every job.
        """
        if job.channel is not None and job not in self._visible:
            await self.listed(job)

    async def dependents(self, job: Lookup, cursor: int | None, limit: int) -> IdPage:
        """Return a page of the jobs that depend on a job; see `Driver.dependents`. Raises `JobNotFound`."""
        await self.check(job)
        page = await self.driver.dependents(job.id, cursor, limit)
        if page is None:
            raise JobNotFound(id=str(job.id))
        return page

    async def list(self, filter: JobFilter, cursor: int | None, limit: int, *, alone: Turn | None = None) -> JobPage:
        """Return a page of jobs; see `Driver.list`.

        With `alone`, only the filter's channel exists for whoever asks, and the page tells nothing about the jobs of
        other channels. If the driver looks at them too, that needs a page that is full, unless it is the last one. It
        may take many searches; `alone` is awaited between them, so that other requests have their turn.
        """
        page = await self.driver.list(filter, cursor, limit)
        found = [*map(with_given_worker_id, page.jobs)]
        if self.driver.looks_at_channel_only(filter):
            alone = None
        while alone is not None and page.next is not None and len(found) < limit:
            await alone()
            page = await self.driver.list(filter, page.next, limit - len(found))
            found += map(with_given_worker_id, page.jobs)
        return JobPage(tuple(found), page.next)

    async def following(self, filter: JobFilter, cursor: int | None, alone: Turn) -> int | None:
        """Return the cursor of the next page for those for whom only the filter's channel exists.

        It is None if the next page would be empty, unless the driver looks at that channel's jobs only.
        """
        if self.driver.looks_at_channel_only(filter):
            return cursor
        after = cursor
        while after is not None:
            page = await self.driver.list(filter, after, 1)
            if page.jobs:
                return cursor
            after = page.next
            await alone()
        return None

    async def payload(self, job: Job, kind: PayloadKind) -> Piece | None:
        """Return a job's args or result, byte for byte; see `payloads.payload`."""
        return await payloads.payload(self.driver, job, kind)

    async def results(self, job_ids: Sequence[UUID]) -> Sequence[Piece]:
        """Return the results of finished and failed jobs, in the order of the ids. Raises `Unavailable`."""
        return await payloads.results(self.driver, job_ids)

    def contents(self, pieces: Sequence[Piece]) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of pieces, a part at a time; see `payloads.contents`."""
        return payloads.contents(self.driver, pieces)

    async def artifacts(self, job: Job) -> Sequence[Artifact]:
        """Return the artifacts of a job that has ended; none of one that has not."""
        return (await self.driver.artifacts([job.id]))[0] if job.state.ended else ()

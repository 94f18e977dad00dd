"""`JobQueue`: jobs, attempts and waiting requests, as the HTTP APIs need them. It owns the rest of this package."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from uuid import UUID

from composerd.artifact_values import ListedArtifact
from composerd.driver.guard import ANSWER_WITHIN, Guard
from composerd.errors import JobNotFound, TokenNotFound
from composerd.free_space import FreeSpace
from composerd.gate import Gate
from composerd.models import (
    Attempt,
    AttemptState,
    Claimed,
    Enqueued,
    Job,
    Key,
    NewJob,
    News,
    Outcome,
    Touch,
    Worker,
)
from composerd.queue import remote_news
from composerd.queue.budgets import Budgets
from composerd.queue.dispatcher import Dispatcher
from composerd.queue.events import Events
from composerd.queue.handovers import Handovers
from composerd.queue.lookups import Lookup
from composerd.queue.options import QueueOptions
from composerd.queue.pauses import Pauses
from composerd.queue.pulse import BEAT, Pulse
from composerd.queue.reading import Reading
from composerd.queue.reaper import Reaper
from composerd.queue.refusals import check_accepted, check_running
from composerd.queue.requests import HandedOut, JobRequest, JobRequests
from composerd.queue.roster import Roster
from composerd.queue.submission_quotas import submit_within
from composerd.queue.undelivered import Undelivered
from composerd.queue.uploads import Uploads
from composerd.queue.waits import Waits
from composerd.queue.watching import Watching
from composerd.queue.worker_ids import with_given_worker_id
from composerd.queue.writes import Writes
from composerd.quotas import Quotas
from composerd.tasks import stop

log = logging.getLogger(__name__)

HANGS_AFTER = 3.0
"""Age in seconds of a write from which on the storage counts as not accepting writes."""


class JobQueue(Reading):
    """The queue over one driver. It works inside `running`.

    A write is completed even if its caller is canceled. Besides the errors that a method names, it may raise
    `Unavailable` and `StorageFull`, after which nothing was changed, and if it changes something `OutcomeUnknown`. It
    may be called again with the same ids and tokens. A storage that hangs is not waited for much longer than
    `ANSWER_WITHIN`; what was begun goes on.
    """

    def __init__(self, driver: Guard, options: QueueOptions, quotas: Quotas | None = None) -> None:
        super().__init__(driver)
        self.options = options
        self.quotas = quotas
        """The quotas of tenants; None if there are none."""
        self.space = FreeSpace("the storage", "submissions", driver.free_space, options.min_free_space)
        self.budgets = Budgets(options.largest_body)
        self.roster = Roster(driver, options.worker_timeout)
        self.listeners: list[Callable[[News], None]] = []
        """Called with news of attempts and jobs that ended."""
        self.on_removed: Callable[[Sequence[UUID]], None] | None = None
        """Called with jobs that were deleted from the storage."""
        self.draining = False
        """True once no request may wait any more."""
        self._waits = Waits(options.max_waits)
        self.gate = Gate()
        """Lets requests begin, and go on after a wait, a few of each client at a time."""
        self._events = Events(self.gate)
        self._watching = Watching(self._events, self._waits, shared=driver.capabilities.shared)
        self._pauses = Pauses(lambda: self._reaper.due_in(0))
        self._pulse = Pulse(self._on_beat)
        self._writes = Writes(driver, self._on_news, self._pulse)
        self.uploads = Uploads(driver, self._writes, self._events)
        self._undelivered = Undelivered(self._writes)
        self._dispatcher = Dispatcher(
            driver,
            self.budgets.claims,
            self.gate,
            lambda waiter: self._undelivered.release(waiter.claim.token, named=waiter.named),
            self._on_news,
            self._pulse,
            quotas,
        )
        self.handovers = Handovers(asyncio.get_running_loop().time, self._dispatcher.doubt)
        self._requests = JobRequests(options, self._dispatcher, self._waits, self.roster, self._undelivered)
        self._reaper = Reaper(
            driver, options.sweep_interval, self._on_news, self._on_purged, self._dispatcher.recheck, self._unrenewed
        )

    def _unrenewed(self) -> bool:
        """Return True if workers could not renew their leases since this was last called, or cannot now."""
        stood_still = self._pauses.stood_still()
        return stood_still or self.driver.outage.unrenewed() or self._writes.touch.oldest * BEAT > HANGS_AFTER

    @property
    def waits(self) -> int:
        """The number of requests that wait, for a job or for a change of one."""
        return self._waits.count

    @property
    def oldest_write(self) -> float:
        """The age in seconds of the oldest write or claim that the storage has not answered, about a second exact."""
        return max(self._dispatcher.oldest, self._writes.oldest) * BEAT

    @property
    def hangs(self) -> bool:
        """True if a write has had no answer for so long that the storage counts as not accepting writes."""
        return self.oldest_write > HANGS_AFTER

    def _on_beat(self) -> None:
        """Notice pauses, and answer requests that the storage has left without an answer for too long."""
        self._pauses.look()
        beats = round(ANSWER_WITHIN / BEAT)
        self._writes.give_up(beats)
        self._dispatcher.give_up(beats)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["JobQueue"]:
        """Run the background tasks over a started driver for the length of a block.

        At the end of the block every wait is answered, and every write that has begun is completed. The driver is not
        closed.
        """
        await self.space.look()
        background = [
            asyncio.create_task(self._reaper.run(), name="reaper"),
            asyncio.create_task(self.roster.run(), name="roster"),
            asyncio.create_task(self._pulse.run(), name="pulse"),
            asyncio.create_task(self.space.run(), name="free space"),
        ]
        if self.driver.capabilities.shared:
            background.append(asyncio.create_task(remote_news.follow(self.driver, self._on_news), name="watch"))
        for task in background:
            task.add_done_callback(_log_crash)
        self._reaper.due_in(0)  # a crash may have left work half done
        self.driver.outage.on_end = lambda: self._on_news(News(recheck=True))
        try:
            yield self
        finally:
            self.drain()
            await self._dispatcher.close()
            if self.quotas is not None:
                await self.quotas.close()
            await self._undelivered.close()
            await self._writes.close()
            await stop(*background)

    def drain(self) -> None:
        """Answer every wait now, and let no request wait any more.

        Requests that come later do not wait.
        """
        self.draining = self._watching.draining = True
        self._events.publish_all()
        self._dispatcher.drain()

    # For submitters.

    async def submit(self, jobs: Sequence[NewJob]) -> Enqueued:
        """Store jobs, all or none, and return them in the order given.

        Raises what `Driver.enqueue` answers: `UnknownDependency`, `CanceledDependency`, `IdempotencyConflict`, and
        `StorageFull` if too little space is free on the file system of the storage. With quotas, raises `QuotaUsedUp`
        and `QuotaForbids` too.
        """
        self.space.check()
        write = self._writes.enqueue.write
        stored = await (write(jobs) if self.quotas is None else submit_within(self.quotas, jobs, write))
        if all(stored.created):
            return stored
        return Enqueued(tuple(map(with_given_worker_id, stored.jobs)), stored.created)

    async def wait_for_end(self, job: Lookup, wait: float, client: str = "") -> Job:
        """Wait until a job ends, at most `wait` seconds, and return it as a listing shows it then.

        Returns at once if the queue drains, or if another client needs the place. Raises `JobNotFound`, also if the job
        is deleted meanwhile, and `Unavailable` if too many requests wait.
        """
        return await self._watching.until(lambda job: job.state.ended, partial(self.listed, job), job.id, wait, client)

    async def cancel(self, job: Lookup) -> Job:
        """Cancel a job and all jobs that depend on it, and return the job.

        Canceling a canceled job again does nothing. Raises `JobNotFound`, and `JobEnded` if it has ended otherwise.
        """
        await self.check(job)
        return with_given_worker_id(await self._writes.cancel.write(job.id))

    async def delete(self, job: Lookup) -> None:
        """Delete a job that has ended, with its payloads and artifacts.

        Raises `JobNotFound`, and `JobNotEnded` if the job, or a job that depends on it, has not ended.
        """
        await self.check(job)
        if await self._writes.delete.write(job.id) is None:
            raise JobNotFound(id=str(job.id))
        if self.on_removed is not None:
            self.on_removed([job.id])

    # For workers.

    async def request(
        self,
        keys: tuple[Key, ...],
        *,
        worker: Worker | None = None,
        confirm: bool,
        wait: float | None,
        client: str = "",
        request_id: UUID | None = None,
        slots: int | None = None,
        owner: str = "",
    ) -> HandedOut | None:
        """Wait for a job of the keys, and begin an attempt at it.

        Args:
            keys: The keys that the worker accepts, without repetitions.
            worker: The worker, if the request named it.
            confirm: True if the worker promises to confirm the handover.
            wait: How long to wait, in seconds; None to wait without a limit.
            client: The client that sent the request.
            request_id: The id under which the worker may repeat the request, if it has one.
            slots: The most requests with which the worker waits for jobs of these keys, if it says so.
            owner: The key of the identity that the attempt will belong to; empty if everybody may use its token.

        Returns:
            A job, which the caller must deliver or hand to `release_undelivered`, and then hand to `free`; None if the
            time is up, the queue drains, or another request needs the place.

        Raises:
            RequestIdUsed: The worker has called about the job that it got for this request id.
            Unavailable: Too many requests wait, the client is reading too many jobs, or the storage does not answer.
        """
        request = JobRequest(keys, worker, confirm, client, request_id, slots, owner)
        return await self._requests.wait(request, wait)

    async def sign_off(self, worker_id: UUID, client: str, channel: str = "") -> None:
        """Let a worker that ends wait no longer, and list it no longer. Raises what `Driver.sign_off` raises."""
        self._requests.end(worker_id, client)
        await self.roster.sign_off(worker_id, client, channel)

    def free(self, claimed: Claimed, client: str) -> None:
        """Stop counting the bytes of a job that was requested, because they are no longer in memory."""
        self._dispatcher.delivered(claimed, client)

    def release_undelivered(self, token: UUID, *, named: bool = False) -> None:
        """Release a job that could not be delivered, uncounted, without waiting for the storage.

        `named` is True if its request had an id.
        """
        self._undelivered.release(token, named=named)

    async def release_unconfirmed(self, token: UUID) -> None:
        """Release a job that its worker has not got, uncounted, unless the worker has called meanwhile."""
        self._undelivered.release(token, named=True)
        await self._undelivered.released(token)

    async def delivered(self, token: UUID) -> Attempt:
        """Restart the handover time of an unconfirmed attempt, because a part of its job was written to the worker.

        An attempt that is confirmed, or over, is not changed. Returns the attempt as it is now.
        """
        return await self._writes.touch.write(Touch(token, confirm=False))

    async def touch(self, token: UUID, partial: bytes | None = None) -> Attempt:
        """Renew the lease of an attempt, and return the attempt as it is now.

        `partial` replaces the progress of the job unless it is None. An attempt that is not running is returned
        unchanged. Raises `TokenNotFound`.
        """
        if token in self._undelivered.releasing:  # the worker must not go on with a job that is about to go
            await self._undelivered.released(token)
        attempt = await self._writes.touch.write(Touch(token, partial))
        if attempt.state is AttemptState.UNKNOWN:
            raise TokenNotFound
        if attempt.worker_id is not None:
            self.roster.alive(attempt.worker_id)
        return attempt

    async def progress(self, token: UUID, partial: bytes) -> None:
        """Store progress of a running attempt. Raises what `check_running` raises for any other."""
        check_running(await self.touch(token, partial))

    async def wait_while_running(self, token: UUID, wait: float, client: str = "") -> Attempt:
        """Wait until an attempt is over, at most `wait` seconds, and return it.

        Returns at once if the queue drains, or if another client needs the place. The lease is renewed at the beginning
        and at the end. Raises `TokenNotFound`.
        """
        attempt = await self.touch(token)
        if attempt.state is not AttemptState.RUNNING or attempt.job_id is None:
            return attempt
        return await self._watching.until(_is_over, partial(self.touch, token), attempt.job_id, wait, client)

    async def finish(
        self, token: UUID, result: bytes, *, failed: bool, artifacts: tuple[ListedArtifact, ...] | None = None
    ) -> None:
        """Accept the outcome of an attempt, once; a repetition with the same result does nothing.

        Raises `ArtifactsDiffer` if `artifacts` is given and other files are attached, after which the attempt goes on.
        Raises `ResultConflict` for a different result, and for an attempt that is over otherwise `TokenNotFound`,
        `AttemptCanceled` or `AttemptSuperseded`.
        """
        check_accepted(await self._writes.finish.write(Outcome(token, result, failed, artifacts)))

    async def release(self, token: UUID) -> None:
        """Requeue the job of a running attempt, uncounted. Raises what `check_running` raises for any other."""
        check_running(await self._writes.release.write(token))

    # News.

    def _on_news(self, news: News) -> None:
        if news.ready or news.recheck:
            self._dispatcher.heat(news)
        if news.recheck:
            self._events.publish_all()
            self._reaper.due_in(0)
        if news.due_in is not None:
            self._reaper.due_in(news.due_in)
        if news.unanswered:
            self.handovers.ended_unanswered(news.unanswered)
        if news.ended or news.requeued:
            if self._dispatcher.running is not None:
                self._dispatcher.running.ended()
            self._events.publish(news.ended)
            self._events.publish(news.requeued)
            for listener in self.listeners:
                listener(news)

    def _on_purged(self, job_ids: Sequence[UUID]) -> None:
        if self.on_removed is not None:
            self.on_removed(job_ids)


def _is_over(attempt: Attempt) -> bool:
    return attempt.state is not AttemptState.RUNNING


def _log_crash(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("the task %s crashed; restart composerd", task.get_name(), exc_info=error)

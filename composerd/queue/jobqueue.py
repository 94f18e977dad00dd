"""JobQueue: what the APIs ask of composerd, in terms of jobs, attempts and waiting. It owns the batchers, the dispatcher and the reaper."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar
from uuid import UUID

import msgspec

from composerd.driver import Driver
from composerd.errors import (
    AttemptCanceled,
    AttemptFinished,
    AttemptSuperseded,
    ComposerdError,
    JobNotFound,
    ResultConflict,
    TokenNotFound,
    Unavailable,
)
from composerd.ids import new_id
from composerd.models import (
    Artifact,
    Attached,
    Attachment,
    Attempt,
    AttemptState,
    Claim,
    Claimed,
    Enqueued,
    Finished,
    Job,
    JobFilter,
    JobPage,
    Key,
    NewJob,
    News,
    Outcome,
    PayloadKind,
    PayloadRef,
    Touch,
    Verdict,
    Worker,
)
from composerd.queue.batcher import Batcher
from composerd.queue.budget import Budget
from composerd.queue.dispatcher import Dispatcher
from composerd.queue.events import Events
from composerd.queue.reaper import Reaper
from composerd.queue.roster import Roster
from composerd.tasks import stop

log = logging.getLogger(__name__)

R = TypeVar("R")

WATCH_AGAIN = 0.5
"""How long until it is tried again to hear other servers, in seconds."""

SHARED_RECHECK = 5.0
"""How often a wait for a job's end looks again where news from other servers may be lost, in seconds."""


class QueueOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a queue behaves; durations in seconds."""

    heartbeat_timeout: float = 120.0
    """The lease of a running attempt."""
    handover_timeout: float = 10.0
    """The lease of an attempt whose worker promised to confirm, until it does."""
    sweep_interval: float = 5.0
    worker_timeout: float = 3600.0
    """A worker not heard of for that long is dropped from the roster."""
    max_waits: int = 20000
    """How many may wait at once, for a job or for news of one."""


class JobQueue:
    """The queue over one driver. `running` brings it to life."""

    def __init__(self, driver: Driver, options: QueueOptions) -> None:
        self.driver = driver
        self.options = options
        self.budget = Budget()
        self.listeners: list[Callable[[News], None]] = []
        """Told of news of attempts and jobs that ended."""
        self.on_removed: Callable[[Sequence[UUID]], None] | None = None
        """Told of jobs that are gone from the storage."""
        self._events = Events()
        self._draining = False
        self._waiting = _Waits(options.max_waits)
        self._enqueue = Batcher(driver.enqueue, self._on_news, _submission_size)
        self._touch = Batcher(driver.touch, self._on_news, lambda touch: len(touch.partial or b""))
        self._finish = Batcher(driver.finish, self._on_news, lambda outcome: len(outcome.result))
        self._attach = Batcher(driver.attach, self._on_news)
        self._release = Batcher(driver.release, self._on_news)
        self._cancel = Batcher(driver.cancel, self._on_news)
        self._delete = Batcher(driver.delete, self._on_news)
        self.roster = Roster(driver, options.worker_timeout)
        self._dispatcher = Dispatcher(driver, self.budget, self._give_back, self._on_news)
        self._reaper = Reaper(driver, options.sweep_interval, self._on_news, self._on_purged, self._dispatcher.recheck)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["JobQueue"]:
        """Run over a started driver; at the end everything that was asked for is written."""
        background = [
            asyncio.create_task(self._reaper.run(), name="reaper"),
            asyncio.create_task(self.roster.run(), name="roster"),
        ]
        if self.driver.capabilities.shared:
            background.append(asyncio.create_task(self._watch(), name="watch"))
        for task in background:
            task.add_done_callback(_log_crash)
        self._reaper.due_in(0)  # what a crash left half done
        try:
            yield self
        finally:
            self.drain()
            await self._dispatcher.close()
            for batcher in (
                self._enqueue,
                self._touch,
                self._finish,
                self._attach,
                self._cancel,
                self._delete,
                self._release,
            ):
                await batcher.close()
            await stop(*background)

    def drain(self) -> None:
        """Answer every wait at once, and let nobody wait any more."""
        self._draining = True
        self._events.publish_all()
        self._dispatcher.drain()

    @property
    def draining(self) -> bool:
        """Whether waits are over."""
        return self._draining

    @property
    def waits(self) -> int:
        """How many wait now."""
        return self._waiting.count

    # For submitters.

    async def submit(self, jobs: Sequence[NewJob]) -> Enqueued:
        """Store jobs, all or none; see `Driver.enqueue` for what it raises."""
        return await self._enqueue.put(jobs)

    async def get(self, job_id: UUID) -> Job:
        """Look up a job. Raises `JobNotFound`."""
        job = (await self.driver.get([job_id]))[0]
        if job is None:
            raise JobNotFound(id=str(job_id))
        return job

    async def ended(self, job_id: UUID, wait: float) -> Job:
        """Wait for a job's end, `wait` seconds at the most; the job as it is then."""
        with self._waiting, self._events.watch(job_id) as watch:
            deadline = _now() + wait
            while True:
                job = await self.get(job_id)
                left = deadline - _now()
                if job.state.ended or left <= 0 or self._draining:
                    return job
                await watch.changed(min(left, SHARED_RECHECK) if self.driver.capabilities.shared else left)

    async def list(self, filter: JobFilter, cursor: int | None, limit: int) -> JobPage:
        """See `Driver.list`."""
        return await self.driver.list(filter, cursor, limit)

    async def payload(self, job_id: UUID, kind: PayloadKind) -> bytes | None:
        """A job's args or result; None if it has none."""
        return (await self.driver.payload([PayloadRef(job_id, kind)]))[0]

    async def results(self, job_ids: Sequence[UUID]) -> Sequence[bytes | None]:
        """The results of jobs, in order."""
        return await self.driver.payload([PayloadRef(job_id, PayloadKind.RESULT) for job_id in job_ids])

    async def artifacts(self, job_id: UUID) -> Sequence[Artifact]:
        """The artifacts of an ended job; none before its end. Raises `JobNotFound`."""
        job = await self.get(job_id)
        if not job.state.ended:
            return ()
        return (await self.driver.artifacts([job_id]))[0]

    async def cancel(self, job_id: UUID) -> Job:
        """End a job and those that depend on it. Raises `JobNotFound`, `JobEnded`."""
        return await self._cancel.put(job_id)

    async def delete(self, job_id: UUID) -> None:
        """Forget an ended job, with its artifacts. Raises `JobNotFound`, `JobNotEnded`."""
        if await self._delete.put(job_id) is None:
            raise JobNotFound(id=str(job_id))
        if self.on_removed is not None:
            self.on_removed([job_id])

    # For workers.

    async def request(
        self, keys: tuple[Key, ...], *, worker: Worker | None = None, confirm: bool, wait: float | None
    ) -> Claimed | None:
        """Wait for a job of the keys, and begin an attempt at it.

        None when the time, in seconds (None: without end), is up or the queue drains. Whoever gets a job must
        `give_back` it if it cannot be delivered.
        """
        claim = Claim(
            token=new_id(),
            keys=keys,
            lease=self.options.heartbeat_timeout,
            handover=self.options.handover_timeout if confirm else None,
            worker_id=None if worker is None else worker.id,
        )
        with self._waiting, self.roster.asking(worker):
            return await self._dispatcher.ask(claim, wait)

    def give_back(self, token: UUID) -> None:
        """Put an undelivered job back, uncounted, without waiting for it."""
        self._give_back(token)

    async def delivered(self, token: UUID) -> None:
        """The answer has been written just now: an unconfirmed hand-over has its full time from here."""
        await self._touch.put(Touch(token, confirm=False))

    async def touch(self, token: UUID, partial: bytes | None = None) -> Attempt:
        """Renew an attempt; what has become of it. Raises `TokenNotFound`."""
        attempt = await self._touch.put(Touch(token, partial))
        if attempt.state is AttemptState.UNKNOWN:
            raise TokenNotFound
        if attempt.worker_id is not None:
            self.roster.alive(attempt.worker_id)
        return attempt

    async def progress(self, token: UUID, partial: bytes) -> None:
        """Report progress of a running attempt; raises what became of any other."""
        check_running(await self.touch(token, partial))

    async def attempt_changed(self, token: UUID, wait: float) -> Attempt:
        """Wait until an attempt has ended, `wait` seconds at the most; renews it at the beginning and the end."""
        attempt = await self.touch(token)
        if attempt.state is not AttemptState.RUNNING or attempt.job_id is None:
            return attempt
        with self._waiting, self._events.watch(attempt.job_id) as watch:
            deadline = _now() + wait
            while True:
                attempt = await self.touch(token)
                left = deadline - _now()
                if attempt.state is not AttemptState.RUNNING or left <= 0 or self._draining:
                    return attempt
                await watch.changed(min(left, SHARED_RECHECK) if self.driver.capabilities.shared else left)

    async def finish(self, token: UUID, result: bytes, *, failed: bool) -> None:
        """Accept an attempt's outcome, once; the same one again is fine. Raises what became of the attempt."""
        finished: Finished = await self._finish.put(Outcome(token, result, failed))
        if finished.verdict is not Verdict.ACCEPTED:
            raise _REFUSED[finished.verdict](**_state_details(finished.verdict))

    async def release(self, token: UUID) -> None:
        """Put a running attempt's job back, uncounted; raises what became of any other."""
        check_running(await self._release.put(token))

    async def attach(self, token: UUID, artifact: Artifact) -> str | None:
        """Add an uploaded file to a running attempt; the place of the one it replaces. Raises what became of any other attempt."""
        attached: Attached = await self._attach.put(Attachment(token, artifact))
        check_running(attached.attempt)
        return attached.replaced

    # What keeps it going.

    def _give_back(self, token: UUID) -> None:
        self._release.put(token).add_done_callback(_log_failure)

    def _on_news(self, news: News) -> None:
        if news.ready or news.recheck:
            self._dispatcher.heat(news)
        if news.recheck:
            self._events.publish_all()
            self._reaper.due_in(0)
        self._events.publish(news.ended)
        self._events.publish(news.requeued)
        if news.due_in is not None:
            self._reaper.due_in(news.due_in)
        if news.ended or news.requeued:
            for listener in self.listeners:
                listener(news)

    def _on_purged(self, job_ids: Sequence[UUID]) -> None:
        if job_ids:
            log.info("removed %d jobs past their retention", len(job_ids))
            if self.on_removed is not None:
                self.on_removed(job_ids)

    async def _watch(self) -> None:
        heard = True
        while True:
            try:
                async for news in self.driver.watch():
                    heard = True
                    self._on_news(news)
            except ComposerdError as exc:
                if heard:
                    log.warning("other servers are not heard: %s", exc)
                heard = False
            self._on_news(News(recheck=True))
            await asyncio.sleep(WATCH_AGAIN)


class _Waits:
    """Counts those who wait: each does so within it. Raises `Unavailable` to one too many."""

    def __init__(self, limit: int) -> None:
        self.count = 0
        self._limit = limit

    def __enter__(self) -> None:
        if self.count >= self._limit:
            raise Unavailable("as many wait as may", limit=self._limit)
        self.count += 1

    def __exit__(self, *_: object) -> None:
        self.count -= 1


_REFUSED: dict[Verdict, type[ComposerdError]] = {
    Verdict.CONFLICT: ResultConflict,
    Verdict.CANCELED: AttemptCanceled,
    Verdict.SUPERSEDED: AttemptSuperseded,
    Verdict.UNKNOWN: TokenNotFound,
}

_ENDED: dict[AttemptState, type[ComposerdError]] = {
    AttemptState.FINISHED: AttemptFinished,
    AttemptState.CANCELED: AttemptCanceled,
    AttemptState.SUPERSEDED: AttemptSuperseded,
    AttemptState.UNKNOWN: TokenNotFound,
}


def check_running(attempt: Attempt) -> None:
    """Raise what became of an attempt, unless it runs."""
    error = _ENDED.get(attempt.state)
    if error is not None:
        raise error(**_state_details(attempt.state))


def _state_details(state: AttemptState | Verdict) -> dict[str, str]:
    return {"state": state.value} if state.value in ("canceled", "finished", "superseded") else {}


def _submission_size(jobs: Sequence[NewJob]) -> int:
    return sum(len(job.args) for job in jobs if job.args is not None)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _log_crash(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("the %s has crashed: restart composerd", task.get_name(), exc_info=error)


def _log_failure(released: "asyncio.Future[Attempt]") -> None:
    if not released.cancelled() and (error := released.exception()) is not None:
        log.warning("a job could not be given back; its lease will do that: %s", error)

"""`SimpleDriver`: the contract over a shelf. Every call is one transaction on one thread; a batch is one, too.

It suits a store that one server has for itself and that can do several changes at once: what it takes to write a driver
is a `Shelf` and `from_url`. What many servers share, or what is to be fast at what only that store can do, implements
`Driver` itself.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from uuid import UUID

import msgspec

from composerd.driver.clock import Clock, microseconds, to_time
from composerd.driver.contract import Batch, Capabilities, Driver, StorageCheck, StorageInfo, StoredJob
from composerd.driver.simple.record import Record
from composerd.driver.simple.shelf import Shelf
from composerd.driver.simple.transaction import Meaning
from composerd.errors import ComposerdError
from composerd.models import (
    Artifact,
    Attached,
    Attachment,
    Attempt,
    Claim,
    Claimed,
    Enqueued,
    Finished,
    Job,
    JobFilter,
    JobPage,
    JobState,
    NewJob,
    Outcome,
    PayloadKind,
    PayloadRef,
    Touch,
    Worker,
)

MAX_WORKERS = 10_000
"""How many workers are remembered, in memory; those not heard of for longest are forgotten first."""

DUMPED_AT_ONCE = 50

S = TypeVar("S")
T = TypeVar("T")


class SimpleDriver(Driver):
    """A driver made of a shelf. A subclass has a `name`, a `contract`, and a `from_url` that hands the shelf over."""

    capabilities = Capabilities(durable=True, shared=False, max_submission=10_000, max_payload=256 * 1024 * 1024)

    meaning: type[Meaning] = Meaning
    """What the methods mean."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self._clock = Clock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="storage")
        self._workers: dict[UUID, Worker] = {}
        self._closed = False

    # The storage.

    async def start(self, *, create: bool = True) -> None:
        await self._run(lambda: self.shelf.open(create=create))
        await self._run(self._begin)

    def _begin(self) -> None:
        with self.shelf.transaction():
            self._clock.not_before(self.meaning(self.shelf, 0).memo.time)
            meaning = self.meaning(self.shelf, self._clock.now())
            meaning.begin_anew()
            meaning.complete()

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await self._run(self.shelf.close)
            self._thread.shutdown()

    async def migrate(self) -> None:
        try:
            await self._run(lambda: self.shelf.open(create=True))
        finally:
            await self._run(self.shelf.close)

    async def ping(self) -> None:
        await self._write([None], lambda meaning, _: meaning.complete())

    async def info(self) -> StorageInfo:
        counts = await self._look(lambda _: self.shelf.counts())
        return StorageInfo(description=self.shelf.description, jobs=counts)

    async def check(self) -> StorageCheck:
        try:
            await self._run(lambda: self.shelf.open(create=False))
            return await self._look(self._check)
        finally:
            await self._run(self.shelf.close)

    def _check(self, meaning: Meaning) -> StorageCheck:
        problems: list[str] = []
        counts = dict.fromkeys(JobState, 0)
        for job_id in self.shelf.page(JobFilter(), None, 2**62):
            try:
                record = meaning.get(job_id)
                record.job()
            except (msgspec.MsgspecError, AssertionError) as exc:
                problems.append(f"job {job_id}: {exc}")
                continue
            counts[record.state] += 1
            ended = record.state in (JobState.FINISHED, JobState.FAILED)
            if ended and self.shelf.payload(PayloadRef(job_id, PayloadKind.RESULT)) is None:
                problems.append(f"job {job_id}: its result is missing")
        return StorageCheck(problems=tuple(problems), jobs={state.value: count for state, count in counts.items()})

    async def shift_clock(self, seconds: float) -> None:
        self._clock.shift(seconds)

    # Writes.

    async def enqueue(self, submissions: Sequence[Sequence[NewJob]]) -> Batch[Enqueued | ComposerdError]:
        return await self._write(submissions, lambda meaning, one: meaning.enqueue(one))

    async def claim(self, requests: Sequence[Claim], max_bytes: int) -> Batch[Claimed | None]:
        def work() -> Batch[Claimed | None]:
            answers: list[Claimed | None] = []
            weight = 0
            with self.shelf.transaction():
                meaning = self.meaning(self.shelf, self._clock.now())
                for request in requests:
                    if answers and weight >= max_bytes:
                        break
                    claimed = meaning.claim(request)
                    weight += len(claimed.args or b"") if claimed is not None else 0
                    answers.append(claimed)
                news = meaning.complete()
            return Batch(answers, news)

        return await self._run(work)

    async def touch(self, touches: Sequence[Touch]) -> Batch[Attempt]:
        return await self._write(touches, lambda meaning, one: meaning.touch(one))

    async def attach(self, attachments: Sequence[Attachment]) -> Batch[Attached]:
        return await self._write(attachments, lambda meaning, one: meaning.attach(one))

    async def finish(self, outcomes: Sequence[Outcome]) -> Batch[Finished]:
        return await self._write(outcomes, lambda meaning, one: meaning.finish(one))

    async def release(self, tokens: Sequence[UUID]) -> Batch[Attempt]:
        return await self._write(tokens, lambda meaning, one: meaning.release(one))

    async def cancel(self, job_ids: Sequence[UUID]) -> Batch[Job | ComposerdError]:
        return await self._write(job_ids, lambda meaning, one: meaning.cancel(one))

    async def delete(self, job_ids: Sequence[UUID]) -> Batch[Job | None | ComposerdError]:
        return await self._write(job_ids, lambda meaning, one: meaning.delete(one))

    async def advance(self, limit: int) -> Batch[UUID]:
        return await self._concerned(lambda meaning: meaning.advance(limit))

    async def purge(self, limit: int) -> Batch[UUID]:
        return await self._concerned(lambda meaning: meaning.purge(limit))

    async def load(self, jobs: Sequence[StoredJob]) -> None:
        await self._write(jobs, lambda meaning, one: meaning.load(one))

    # Looking.

    async def get(self, job_ids: Sequence[UUID]) -> Sequence[Job | None]:
        return await self._look(
            lambda meaning: [None if meaning.find(one) is None else meaning.job(one) for one in job_ids]
        )

    async def list(self, filter: JobFilter, cursor: int | None, limit: int) -> JobPage:
        def page(meaning: Meaning) -> JobPage:
            records = [meaning.get(one) for one in self.shelf.page(filter, cursor, limit)]
            more = records[-1].number if len(records) == limit else None
            return JobPage(tuple(one.job(listed=True) for one in records), more)

        return await self._look(page)

    async def payload(self, refs: Sequence[PayloadRef]) -> "Sequence[bytes | None]":
        return await self._look(lambda _: [self.shelf.payload(ref) for ref in refs])

    async def artifacts(self, job_ids: Sequence[UUID]) -> "Sequence[tuple[Artifact, ...]]":
        def attached(record: Record | None) -> tuple[Artifact, ...]:
            return () if record is None else record.attached()

        return await self._look(lambda meaning: [attached(meaning.find(one)) for one in job_ids])

    async def ahead(self, job_id: UUID, limit: int) -> int:
        def count(meaning: Meaning) -> int:
            record = meaning.find(job_id)
            return 0 if record is None or record.state is not JobState.READY else self.shelf.count_before(record, limit)

        return await self._look(count)

    async def dump(self) -> AsyncIterator[StoredJob]:
        ids = await self._look(lambda _: self.shelf.page(JobFilter(), None, 2**62)[::-1])
        for begin in range(0, len(ids), DUMPED_AT_ONCE):
            some = ids[begin : begin + DUMPED_AT_ONCE]
            for stored in await self._look(lambda meaning: [self._stored(meaning, one) for one in some]):  # noqa: B023
                if stored is not None:
                    yield stored

    def _stored(self, meaning: Meaning, job_id: UUID) -> StoredJob | None:
        record = meaning.find(job_id)
        if record is None:
            return None  # deleted meanwhile
        args, result = (self.shelf.payload(PayloadRef(job_id, kind)) for kind in PayloadKind)
        return record.stored(tuple(self.shelf.dependents(job_id)), args, result)

    # Workers are in memory: who was heard of need not survive.

    async def seen(self, workers: Sequence[Worker]) -> None:
        now = to_time(self._clock.now())
        for worker in workers:
            known = self._workers.pop(worker.id, worker)
            described = worker if worker.types or worker.arch else known
            self._workers[worker.id] = msgspec.structs.replace(described, seen_at=now)
        while len(self._workers) > MAX_WORKERS:
            del self._workers[next(iter(self._workers))]

    async def workers(self, within: float, ids: "Sequence[UUID] | None" = None) -> "Sequence[Worker]":
        since = to_time(self._clock.now() - microseconds(within))
        asked = None if ids is None else set(ids)
        found = [
            one
            for one in reversed(self._workers.values())
            if one.seen_at is not None and one.seen_at >= since and (asked is None or one.id in asked)
        ]

        def with_jobs(meaning: Meaning) -> Sequence[Worker]:
            running = [meaning.get(job_id) for job_id in self.shelf.running()]
            return [
                msgspec.structs.replace(one, jobs=tuple(job.id for job in running if job.worker_id == one.id))
                for one in found
            ]

        return await self._look(with_jobs)

    # The thread.

    async def _write(self, items: Sequence[S], apply: Callable[[Meaning, S], T]) -> Batch[T]:
        def work() -> Batch[T]:
            with self.shelf.transaction():
                meaning = self.meaning(self.shelf, self._clock.now())
                answers = [apply(meaning, one) for one in items]
                news = meaning.complete()
            return Batch(answers, news)

        return await self._run(work)

    async def _concerned(self, apply: Callable[[Meaning], Sequence[UUID]]) -> Batch[UUID]:
        def work() -> Batch[UUID]:
            with self.shelf.transaction():
                meaning = self.meaning(self.shelf, self._clock.now())
                answers = apply(meaning)
                news = meaning.complete()
            return Batch(answers, news)

        return await self._run(work)

    async def _look(self, look: Callable[[Meaning], T]) -> T:
        def work() -> T:
            with self.shelf.transaction():
                return look(self.meaning(self.shelf, self._clock.now()))

        return await self._run(work)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

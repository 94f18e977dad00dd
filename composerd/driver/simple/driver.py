"""`SimpleDriver`: implements the contract over a shelf. Each call, a batch included, is one transaction on one thread.

It suits a database that one server has for itself and that can make several changes at once: to write a driver for it,
write a `Shelf` and a `from_url`. A driver whose storage many servers share, or that uses abilities of its database for
speed, implements `Driver` itself.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from uuid import UUID

import msgspec

from composerd.driver import payloads
from composerd.driver.clock import Clock, microseconds
from composerd.driver.contract import Driver
from composerd.driver.simple.records import JobRecord
from composerd.driver.simple.shelf import Shelf
from composerd.driver.simple.transaction import Kept, Transaction
from composerd.driver.simple.usage import stored_usage
from composerd.driver.timekeeper import ClockState, Timekeeper, dispute
from composerd.driver.values import Batch, Capabilities, StorageCheck, StorageInfo, StoredJob, Usage
from composerd.driver.workers import Workers
from composerd.errors import ComposerdError, DriverError, Unavailable
from composerd.models import (
    Artifact,
    Attached,
    Attachment,
    Attempt,
    Claim,
    Claimed,
    Enqueued,
    Finished,
    IdPage,
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
    WorkerCursor,
    WorkerPage,
)

DUMPED_AT_ONCE = 50

S = TypeVar("S")
T = TypeVar("T")


class SimpleDriver(Driver):
    """A driver made of a shelf. A subclass sets `name` and `contract`, and passes the shelf in its `from_url`."""

    capabilities = Capabilities(
        durable=True, shared=False, max_submission=10_000, max_payload=256 * 1024 * 1024, compares_artifacts=True
    )

    transaction_class: type[Transaction] = Transaction
    """Implements the contract's writing methods; tests override it."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self._clock = Clock()
        self._timekeeper = Timekeeper()
        self._jump = 0
        """The jump of the clock after which the running attempts have not got a full lease yet."""
        self._kept = Kept(0)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="storage")
        self._workers = Workers()
        self._closed = False

    # The storage.

    async def start(self, *, create: bool = True) -> None:
        await self._run(lambda: self.shelf.open(create=create))
        await self._run(self._begin)

    def _begin(self) -> None:
        with self.shelf.transaction():
            moment = self._clock.read()
            transaction = self.transaction_class(self.shelf, moment.now)
            memo = transaction.memo
            jump = self._timekeeper.open(ClockState(memo.seen, memo.disputed_since), *moment)
            memo.disputed_since = self._timekeeper.state.disputed_since
            transaction.count_all()
            transaction.resume(jump)
            transaction.complete()

    async def start_reading(self, *, alone: bool = False) -> Sequence[str]:  # noqa: ARG002  # a shelf is always alone
        await self._run(lambda: self.shelf.open(create=False))
        await self._run(self._look)
        return ()

    def _look(self) -> None:
        with self.shelf.transaction():
            memo = self.transaction_class(self.shelf, self._clock.now()).memo
            self._timekeeper.state = ClockState(memo.seen, memo.disputed_since)

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await asyncio.get_running_loop().run_in_executor(self._thread, self.shelf.close)
            self._thread.shutdown()

    async def migrate(self) -> str | None:
        try:
            await self._run(lambda: self.shelf.open(create=False))
        finally:
            await self._run(self.shelf.close)
        return None

    async def ping(self) -> None:
        await self._write([None], lambda _transaction, _: None)

    async def info(self) -> StorageInfo:
        counts = await self._read(lambda _: self.shelf.counts())
        return StorageInfo(
            description=self.shelf.description, jobs=counts, details=dispute(self._timekeeper.state.disputed_since)
        )

    async def secret(self) -> bytes:
        return await self._read(lambda transaction: transaction.memo.secret)

    async def check(self) -> StorageCheck:
        try:
            await self._run(lambda: self.shelf.open(create=False))
            return await self._read(self._check)
        finally:
            await self._run(self.shelf.close)

    def _check(self, transaction: Transaction) -> StorageCheck:
        problems: list[str] = []
        counts = dict.fromkeys(JobState, 0)
        for job_id in self.shelf.page(JobFilter(), None, 2**62):
            try:
                record = transaction.get(job_id)
                record.job()
            except (msgspec.MsgspecError, AssertionError) as exc:
                problems.append(f"job {job_id}: {exc}")
                continue
            counts[record.state] += 1
            problems += [
                f"job {job_id}: its {kind} is missing"
                for kind in PayloadKind
                if record.has(kind) and self.shelf.payload(PayloadRef(job_id, kind)) is None
            ]
        return StorageCheck(problems=tuple(problems), jobs={state.value: count for state, count in counts.items()})

    async def shift_clock(self, seconds: float) -> None:
        self._clock.shift(seconds)

    async def jump_clock(self, seconds: float) -> None:
        self._clock.jump(seconds)

    async def confirm_clock(self) -> None:
        def confirm(transaction: Transaction, _: None) -> None:
            self._timekeeper.confirm()
            transaction.memo.disputed_since = 0

        await self._write([None], confirm)

    # Writes.

    async def enqueue(self, submissions: Sequence[Sequence[NewJob]]) -> Batch[Enqueued | ComposerdError]:
        return await self._write(submissions, lambda transaction, one: transaction.enqueue(one))

    async def claim(self, requests: Sequence[Claim], max_bytes: int) -> Batch[Claimed | None]:
        def work() -> Batch[Claimed | None]:
            answers: list[Claimed | None] = []
            weight = 0
            lost: UUID | None = None
            with self._writing() as transaction:
                for request in requests:
                    if answers and weight >= max_bytes:
                        break
                    claimed = transaction.claim(request)
                    answers.append(claimed)
                    if claimed is not None:
                        weight += len(claimed.args or b"")
                        if claimed.args is None and transaction.get(claimed.job_id).has_args:
                            lost = claimed.job_id
                news = transaction.complete()
            if lost is not None:  # its attempt stands, so that it can be released
                raise DriverError(f"the args of the job {lost} are missing in the storage")
            return Batch(answers, news)

        return await self._run(work)

    async def touch(self, touches: Sequence[Touch]) -> Batch[Attempt]:
        return await self._write(touches, lambda transaction, one: transaction.touch(one))

    async def attach(self, attachments: Sequence[Attachment]) -> Batch[Attached]:
        return await self._write(attachments, lambda transaction, one: transaction.attach(one))

    async def finish(self, outcomes: Sequence[Outcome]) -> Batch[Finished]:
        return await self._write(outcomes, lambda transaction, one: transaction.finish(one))

    async def release(self, tokens: Sequence[UUID]) -> Batch[Attempt]:
        return await self._write(tokens, lambda transaction, one: transaction.release(one))

    async def cancel(self, job_ids: Sequence[UUID]) -> Batch[Job | ComposerdError]:
        return await self._write(job_ids, lambda transaction, one: transaction.cancel(one))

    async def delete(self, job_ids: Sequence[UUID]) -> Batch[Job | None | ComposerdError]:
        return await self._write(job_ids, lambda transaction, one: transaction.delete(one))

    async def advance(self, limit: int) -> Batch[UUID]:
        return await self._write_all(lambda transaction: transaction.advance(limit))

    async def purge(self, limit: int) -> Batch[UUID]:
        return await self._write_all(lambda transaction: transaction.purge(limit, self._kept_now(transaction.now)))

    def _kept_now(self, now: int) -> Kept:
        before = self._timekeeper.kept_before(now)
        if before != self._kept.before:
            self._kept = Kept(before)
        return self._kept

    async def grace(self) -> None:
        await self._write([None], lambda transaction, _: transaction.grant_grace())

    async def load(self, jobs: Sequence[StoredJob]) -> None:
        await self._write(jobs, lambda transaction, one: transaction.load(one))

    # Queries.

    async def get(self, job_ids: Sequence[UUID]) -> Sequence[Job | None]:
        return await self._read(
            lambda transaction: [None if transaction.find(one) is None else transaction.job(one) for one in job_ids]
        )

    async def listed(self, job_ids: Sequence[UUID]) -> Sequence[Job | None]:
        return await self._read(
            lambda transaction: [
                None if record is None else record.job(listed=True) for record in map(transaction.find, job_ids)
            ]
        )

    async def dependents(self, job_id: UUID, cursor: int | None, limit: int) -> IdPage | None:
        def page(transaction: Transaction) -> IdPage | None:
            if transaction.find(job_id) is None:
                return None
            found = tuple(self.shelf.dependents_after(job_id, cursor or 0, limit))
            return IdPage(found, transaction.get(found[-1]).sequence if len(found) == limit else None)

        return await self._read(page)

    async def list(self, filter: JobFilter, cursor: int | None, limit: int) -> JobPage:
        def page(transaction: Transaction) -> JobPage:
            records = [transaction.get(one) for one in self.shelf.page(filter, cursor, limit)]
            more = records[-1].sequence if len(records) == limit else None
            return JobPage(tuple(one.job(listed=True) for one in records), more)

        return await self._read(page)

    async def payload(self, refs: Sequence[PayloadRef]) -> "Sequence[bytes | None]":
        return await self._read(lambda transaction: [self._payload(transaction, ref) for ref in refs])

    async def payloads_up_to(self, refs: Sequence[PayloadRef], limit: int) -> "Sequence[bytes | int | None]":
        return await self._read(
            lambda transaction: payloads.up_to((self._payload(transaction, ref) for ref in refs), limit)
        )

    def _payload(self, transaction: Transaction, ref: PayloadRef) -> bytes | None:
        """Return a payload, or None if the job has none. Raises `Unavailable` if it has to have one."""
        found = self.shelf.payload(ref)
        if found is None and (record := transaction.find(ref.job_id)) is not None and record.has(ref.kind):
            raise Unavailable(f"the {ref.kind} of the job {ref.job_id} cannot be found in the storage")
        return found

    async def artifacts(self, job_ids: Sequence[UUID]) -> "Sequence[tuple[Artifact, ...]]":
        def attached(record: JobRecord | None) -> tuple[Artifact, ...]:
            return () if record is None else record.attached()

        return await self._read(lambda transaction: [attached(transaction.find(one)) for one in job_ids])

    async def ahead(self, job_id: UUID, limit: int) -> int:
        def count(transaction: Transaction) -> int:
            record = transaction.find(job_id)
            return 0 if record is None or record.state is not JobState.READY else self.shelf.count_ahead(record, limit)

        return await self._read(count)

    async def usage(self, channels: "Sequence[str]") -> "Sequence[Usage]":
        return await self._read(lambda _: [stored_usage(self.shelf, channel) for channel in channels])

    async def dump(self) -> AsyncIterator[StoredJob]:
        ids = await self._read(lambda _: self.shelf.page(JobFilter(), None, 2**62)[::-1])
        for begin in range(0, len(ids), DUMPED_AT_ONCE):
            some = ids[begin : begin + DUMPED_AT_ONCE]
            found = await self._read(lambda transaction: [self._stored(transaction, one) for one in some])  # noqa: B023
            for stored in found:
                if stored is not None:
                    yield stored

    def _stored(self, transaction: Transaction, job_id: UUID) -> StoredJob | None:
        record = transaction.find(job_id)
        if record is None:
            return None  # deleted meanwhile
        args, result = (self._payload(transaction, PayloadRef(job_id, kind)) for kind in PayloadKind)
        return record.stored(transaction.job(job_id).dependents, args, result)

    # Workers are kept in memory: they need not survive a restart.

    async def seen(self, workers: Sequence[Worker]) -> None:
        self._workers.seen(workers, self._clock.read())

    async def sign_off(self, workers: Sequence[Worker]) -> None:
        self._workers.sign_off(workers, self._clock.read())

    async def workers(self, within: float, ids: "Sequence[UUID] | None" = None) -> "Sequence[Worker]":
        return list(await self._with_jobs(self._workers.since(self._clock.elapsed() - microseconds(within), ids)))

    async def worker_page(
        self, within: float, after: WorkerCursor | None, limit: int, channel: str | None = None
    ) -> WorkerPage:
        page = self._workers.page(self._clock.elapsed() - microseconds(within), after, limit, channel)
        return WorkerPage(await self._with_jobs(page.workers), page.next)

    async def _with_jobs(self, workers: Sequence[Worker]) -> tuple[Worker, ...]:
        def with_jobs(transaction: Transaction) -> tuple[Worker, ...]:
            running: dict[UUID | None, list[UUID]] = {}
            for job_id in self.shelf.running():
                running.setdefault(transaction.get(job_id).worker_id, []).append(job_id)
            return tuple(msgspec.structs.replace(one, jobs=tuple(running.get(one.id, ()))) for one in workers)

        return await self._read(with_jobs)

    # The thread.

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Transaction]:
        """Return a context manager for a transaction that writes.

        If the clock has jumped since the last one, running attempts get a full lease first.
        """
        with self.shelf.transaction():
            moment = self._clock.read()
            self._jump += self._timekeeper.observe(*moment)
            transaction = self.transaction_class(self.shelf, moment.now)
            transaction.memo.disputed_since = self._timekeeper.state.disputed_since
            if self._jump:
                transaction.grant_grace(self._jump)
            yield transaction
        self._jump = 0

    async def _write(self, items: Sequence[S], apply: Callable[[Transaction, S], T]) -> Batch[T]:
        def work() -> Batch[T]:
            with self._writing() as transaction:
                answers = [apply(transaction, one) for one in items]
                news = transaction.complete()
            return Batch(answers, news)

        return await self._run(work)

    async def _write_all(self, apply: Callable[[Transaction], Sequence[UUID]]) -> Batch[UUID]:
        def work() -> Batch[UUID]:
            with self._writing() as transaction:
                answers = apply(transaction)
                news = transaction.complete()
            return Batch(answers, news)

        return await self._run(work)

    async def _read(self, read: Callable[[Transaction], T]) -> T:
        def work() -> T:
            with self.shelf.transaction():
                return read(self.transaction_class(self.shelf, self._clock.now()))

        return await self._run(work)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._closed:
            raise Unavailable("the storage was closed")
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

"""Correct drivers, from which the broken ones are derived: a dict in a pickle file, and one that several servers share.

They are written to be small, not fast.
"""

import asyncio
import contextlib
import fcntl
import os
import pickle
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar
from uuid import UUID

import msgspec

from composerd.driver import Batch, Capabilities, transitions
from composerd.driver.simple import JobRecord, Shelf, SimpleDriver
from composerd.driver.simple.transaction import Transaction
from composerd.driver.timekeeper import ClockState
from composerd.driver.url import path_of
from composerd.errors import StorageUnusable
from composerd.models import JobFilter, JobState, Key, News, PayloadRef

S = TypeVar("S")
T = TypeVar("T")


class DictShelf(Shelf):
    """Records in a dict, which every change writes to a file as a whole."""

    counts_usage = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.used: dict[str, bytes] = {}
        self.records: dict[UUID, JobRecord] = {}
        self.payloads: dict[PayloadRef, bytes] = {}
        self.stored_memo: bytes | None = None
        self.changed = False
        self.lock: int | None = None

    @property
    def description(self) -> str:
        return f"a pickle at {self.path}"

    def open(self, *, create: bool) -> None:
        if not create and not self.path.exists():
            raise StorageUnusable(f"there is no storage at {self.path}")
        self.lock = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self.own(self.lock)
        except BlockingIOError as exc:
            raise StorageUnusable(f"{self.path} is in use") from exc
        if self.path.exists():
            self.load()
        else:
            self.save()

    def own(self, lock: int) -> None:
        """Lock the storage against other processes."""
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def load(self) -> None:
        """Read the file."""
        encoded, self.payloads, self.stored_memo, self.used = pickle.loads(self.path.read_bytes())
        self.records = {job_id: JobRecord.decoded(one) for job_id, one in encoded.items()}

    def save(self) -> None:
        """Write the file, completely or not at all."""
        unfinished = self.path.with_suffix(".tmp")
        encoded = {job_id: record.encoded for job_id, record in self.records.items()}
        unfinished.write_bytes(pickle.dumps((encoded, self.payloads, self.stored_memo, self.used)))
        unfinished.replace(self.path)

    def close(self) -> None:
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        before = dict(self.records), dict(self.payloads), self.stored_memo, dict(self.used)
        self.changed = False
        try:
            yield
            if self.changed:
                self.save()
        except BaseException:
            self.records, self.payloads, self.stored_memo, self.used = before
            raise

    def read(self, job_id: UUID) -> bytes | None:
        record = self.records.get(job_id)
        return None if record is None else record.encoded

    def write(self, record: JobRecord) -> None:
        self.records[record.id] = JobRecord.decoded(record.encoded)
        self.changed = True

    def remove(self, record: JobRecord) -> None:
        del self.records[record.id]
        self.payloads = {ref: payload for ref, payload in self.payloads.items() if ref.job_id != record.id}
        self.changed = True

    def find(self, holds: Callable[[JobRecord], bool], order: Callable[[JobRecord], Any] | None = None) -> list[UUID]:
        """Return the ids of the records for which `holds` is true, in the given order."""
        found = [record for record in self.records.values() if holds(record)]
        return [record.id for record in (found if order is None else sorted(found, key=order))]

    def with_token(self, token: UUID) -> UUID | None:
        return next(iter(self.find(lambda one: token in one.tokens)), None)

    def with_key(self, channel: str, idempotency_key: str) -> UUID | None:
        wanted = (channel, idempotency_key)
        return next(iter(self.find(lambda one: (one.new.channel, one.new.idempotency_key) == wanted)), None)

    def dependents(self, job_id: UUID) -> Sequence[UUID]:
        return self.find(lambda one: job_id in one.new.dependencies, by_sequence)

    def first_ready(self, keys: Sequence[Key]) -> UUID | None:
        ready = self.find(lambda one: one.state is JobState.READY and one.new.key in keys, by_ready_order)
        return next(iter(ready), None)

    def count_ahead(self, record: JobRecord, limit: int) -> int:
        ready = self.find(lambda one: one.state is JobState.READY and one.new.key == record.new.key, by_ready_order)
        return min(ready.index(record.id), limit)

    def due(self, now: int, limit: int) -> Sequence[UUID]:
        return self.find(lambda one: one.due_at is not None and one.due_at <= now)[:limit]

    def next_due(self) -> int | None:
        return min((one.due_at for one in self.records.values() if one.due_at is not None), default=None)

    def expired(self, now: int) -> Sequence[UUID]:
        return self.find(lambda one: one.expires_at is not None and one.expires_at <= now)

    def running(self) -> Sequence[UUID]:
        return self.find(lambda one: one.state is JobState.RUNNING)

    def page(self, filter: JobFilter, before: int | None, limit: int) -> Sequence[UUID]:
        def shown(one: JobRecord) -> bool:
            has = (one.state, one.new.type, one.new.channel, one.new.arch)
            filtered = (filter.state, filter.type, filter.channel, filter.arch)
            passes = all(wanted in (None, value) for wanted, value in zip(filtered, has, strict=True))
            passes = passes and (not filter.states or one.state in filter.states)
            return passes and (before is None or one.sequence < before)

        return self.find(shown, by_sequence)[::-1][:limit]

    def counts(self) -> dict[str, int]:
        return {state: len(self.find(lambda one: one.state is state)) for state in JobState}  # noqa: B023

    def payload(self, ref: PayloadRef) -> bytes | None:
        return self.payloads.get(ref)

    def store_payload(self, ref: PayloadRef, payload: bytes) -> None:
        self.payloads[ref] = payload
        self.changed = True

    def memo(self) -> bytes | None:
        return self.stored_memo

    def store_memo(self, memo: bytes) -> None:
        self.stored_memo = memo
        self.changed = True

    def usage(self, channel: str) -> bytes | None:
        return self.used.get(channel)

    def store_usage(self, channel: str, usage: bytes | None) -> None:
        if usage is None:
            self.used.pop(channel, None)
        else:
            self.used[channel] = usage
        self.changed = True


def by_sequence(record: JobRecord) -> int:
    """Return the key for the order of submission."""
    return record.sequence


def by_ready_order(record: JobRecord) -> tuple[int, int]:
    """Return the key for the order in which claims take ready jobs."""
    return -record.new.priority, record.position


class Correct(SimpleDriver):
    """A driver that keeps every clause."""

    contract = "1.5"
    name = "correct"
    capabilities = msgspec.structs.replace(SimpleDriver.capabilities, counts_usage=True)
    shelf_type: type[DictShelf] = DictShelf

    @classmethod
    def from_url(cls, url: str) -> Self:
        return cls(cls.shelf_type(path_of(url, "file")))


class SharedShelf(DictShelf):
    """Records in a file that is locked and read for each transaction."""

    def own(self, lock: int) -> None:
        """Wait for the lock, so that only one process creates the file."""
        fcntl.flock(lock, fcntl.LOCK_EX)

    def open(self, *, create: bool) -> None:
        super().open(create=create)
        assert self.lock is not None
        fcntl.flock(self.lock, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        assert self.lock is not None
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        try:
            self.load()
            with super().transaction():
                yield
        finally:
            fcntl.flock(self.lock, fcntl.LOCK_UN)


class CorrectShared(Correct):
    """A driver that keeps every clause, on a shared storage. News reaches other instances in the same process."""

    name = "shared"
    capabilities = Capabilities(
        durable=True,
        shared=True,
        max_submission=1000,
        max_payload=64 * 1024 * 1024,
        compares_artifacts=True,
        counts_usage=True,
    )
    shelf_type = SharedShelf
    listening: ClassVar[dict[Path, list[asyncio.Queue[News]]]] = {}

    def _begin(self) -> None:
        self._timekeeper.open(ClockState(), *self._clock.read())
        with self._writing() as transaction:
            transaction.count_all()
            self.extend_lease(transaction)
            transaction.complete()

    async def grace(self) -> None:
        await self._write([None], lambda transaction, _: self.extend_lease(transaction))

    def extend_lease(self, transaction: Transaction) -> None:
        """Do not count the time in which no server has written anything."""
        gap = transaction.now - (transaction.memo.seen or transaction.now)
        for record, running in transaction.running():
            transitions.extend_lease(running, transaction.now, gap)
            transaction.save(record)

    async def _write(self, items: Sequence[S], apply: Callable[[Transaction, S], T]) -> Batch[T]:
        batch = await super()._write(items, apply)
        self.announce(batch.news)
        return batch

    def announce(self, news: News) -> None:
        """Pass news on to the other instances."""
        assert isinstance(self.shelf, DictShelf)
        for queue in self.listening.get(self.shelf.path, ()):
            queue.put_nowait(news)

    async def watch(self) -> AsyncIterator[News]:
        assert isinstance(self.shelf, DictShelf)
        queue: asyncio.Queue[News] = asyncio.Queue()
        self.listening.setdefault(self.shelf.path, []).append(queue)
        while True:
            yield await queue.get()

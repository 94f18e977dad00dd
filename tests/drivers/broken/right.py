"""Drivers that are right, for others to break: a dict in a pickle file, and one that several servers share. Small, and slow."""

import asyncio
import contextlib
import fcntl
import os
import pickle
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar
from uuid import UUID

from composerd.driver import Batch, Capabilities
from composerd.driver.simple import JobRecord, Shelf, SimpleDriver
from composerd.driver.simple.transaction import Transaction
from composerd.driver.url import path_of
from composerd.errors import StorageUnusable
from composerd.models import JobFilter, JobState, Key, News, PayloadRef

S = TypeVar("S")
T = TypeVar("T")


class DictShelf(Shelf):
    """Records in a dict; every change writes the whole of it to a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[UUID, JobRecord] = {}
        self.payloads: dict[PayloadRef, bytes] = {}
        self.memo_kept: bytes | None = None
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
        """Keep others out."""
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def load(self) -> None:
        """Read the file."""
        encoded, self.payloads, self.memo_kept = pickle.loads(self.path.read_bytes())
        self.records = {job_id: JobRecord.decoded(one) for job_id, one in encoded.items()}

    def save(self) -> None:
        """Write the file, whole or not at all."""
        unfinished = self.path.with_suffix(".tmp")
        encoded = {job_id: record.encoded for job_id, record in self.records.items()}
        unfinished.write_bytes(pickle.dumps((encoded, self.payloads, self.memo_kept)))
        unfinished.replace(self.path)

    def close(self) -> None:
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        before = dict(self.records), dict(self.payloads), self.memo_kept
        self.changed = False
        try:
            yield
            if self.changed:
                self.save()
        except BaseException:
            self.records, self.payloads, self.memo_kept = before
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
        """The ids of records of which something holds, in an order."""
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
        ready = self.find(lambda one: one.state is JobState.READY and one.new.key in keys, by_rank)
        return next(iter(ready), None)

    def count_before(self, record: JobRecord, limit: int) -> int:
        ready = self.find(lambda one: one.state is JobState.READY and one.new.key == record.new.key, by_rank)
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
            asked = (filter.state, filter.type, filter.channel, filter.arch)
            passes = all(wanted in (None, value) for wanted, value in zip(asked, has, strict=True))
            return passes and (before is None or one.sequence < before)

        return self.find(shown, by_sequence)[::-1][:limit]

    def counts(self) -> dict[str, int]:
        return {state: len(self.find(lambda one: one.state is state)) for state in JobState}  # noqa: B023

    def payload(self, ref: PayloadRef) -> bytes | None:
        return self.payloads.get(ref)

    def keep_payload(self, ref: PayloadRef, payload: bytes) -> None:
        self.payloads[ref] = payload
        self.changed = True

    def memo(self) -> bytes | None:
        return self.memo_kept

    def keep_memo(self, memo: bytes) -> None:
        self.memo_kept = memo
        self.changed = True


def by_sequence(record: JobRecord) -> int:
    """In the order of submission."""
    return record.sequence


def by_rank(record: JobRecord) -> tuple[int, int]:
    """In the order in which they are handed out."""
    return -record.new.priority, record.position


class Right(SimpleDriver):
    """It keeps every clause."""

    contract = "1.0"
    name = "right"
    shelf_type: type[DictShelf] = DictShelf

    @classmethod
    def from_url(cls, url: str) -> Self:
        return cls(cls.shelf_type(path_of(url, "file")))


class SharedShelf(DictShelf):
    """The file is read at the beginning of each transaction, and nobody else's until its end."""

    def own(self, lock: int) -> None:
        """Whoever comes first makes the file."""
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


class RightShared(Right):
    """It keeps every clause, and the storage is shared; the news goes by a list in this process."""

    name = "shared"
    capabilities = Capabilities(durable=True, shared=True, max_submission=1000, max_payload=64 * 1024 * 1024)
    shelf_type = SharedShelf
    listening: ClassVar[dict[Path, list[asyncio.Queue[News]]]] = {}

    async def _write(self, items: Sequence[S], apply: Callable[[Transaction, S], T]) -> Batch[T]:
        batch = await super()._write(items, apply)
        self.tell(batch.news)
        return batch

    def tell(self, news: News) -> None:
        """Let the other servers know."""
        assert isinstance(self.shelf, DictShelf)
        for queue in self.listening.get(self.shelf.path, ()):
            queue.put_nowait(news)

    async def watch(self) -> AsyncIterator[News]:
        assert isinstance(self.shelf, DictShelf)
        queue: asyncio.Queue[News] = asyncio.Queue()
        self.listening.setdefault(self.shelf.path, []).append(queue)
        while True:
            yield await queue.get()

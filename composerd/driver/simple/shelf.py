"""`Shelf`: what a store has to do for `SimpleDriver`: keep records and payloads, find them again, and do several changes at once."""

import abc
from collections.abc import Sequence
from contextlib import AbstractContextManager
from uuid import UUID

from composerd.driver.simple.records import JobRecord
from composerd.models import JobFilter, Key, PayloadRef


class Shelf(abc.ABC):
    """A store of records. Its methods block; they are called one at a time, on one thread of the driver's own.

    All but `open` and `close` are called inside of a `transaction`. What a method raises ends the transaction, and
    nothing of it may be left. Errors are those of the contract: `StorageFull`, `Unavailable`, `StorageUnusable`.
    """

    @property
    @abc.abstractmethod
    def description(self) -> str:
        """What and where it is, without secrets: `sqlite at /var/lib/jobs.db`."""

    @abc.abstractmethod
    def open(self, *, create: bool) -> None:
        """Open the storage, for this process alone, and bring it up to date; make it if there is none and `create` says so.

        Raises `StorageUnusable` if it is not there, not what it should be, or open elsewhere.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Let go of it. Fine twice, and after a failed `open`."""

    @abc.abstractmethod
    def transaction(self) -> AbstractContextManager[None]:
        """Changes inside of the block are on stable storage, all of them, when it ends; none, when it ends with an exception."""

    # Records.

    @abc.abstractmethod
    def read(self, job_id: UUID) -> bytes | None:
        """The bytes of a record (`encoded`)."""

    @abc.abstractmethod
    def write(self, record: JobRecord) -> None:
        """Keep a new record, or a changed one in the place of the former."""

    @abc.abstractmethod
    def remove(self, record: JobRecord) -> None:
        """Forget a record and its payloads; no other method finds it any more."""

    # Finding them.

    @abc.abstractmethod
    def with_token(self, token: UUID) -> UUID | None:
        """The job that has the token among its `tokens`."""

    @abc.abstractmethod
    def with_key(self, channel: str, idempotency_key: str) -> UUID | None:
        """The job whose `new` has this channel and this idempotency key."""

    @abc.abstractmethod
    def dependents(self, job_id: UUID) -> Sequence[UUID]:
        """The jobs that have it among their `dependencies`, by `number`."""

    @abc.abstractmethod
    def first_ready(self, keys: Sequence[Key]) -> UUID | None:
        """Of the jobs whose `state` is ready and whose `new.key` is one of these: that of highest priority, then of lowest `place`."""

    @abc.abstractmethod
    def count_before(self, record: JobRecord, limit: int) -> int:
        """How many ready jobs of this one's key are of higher priority, or of equal priority and lower `place`; up to `limit`."""

    @abc.abstractmethod
    def due(self, now: int, limit: int) -> Sequence[UUID]:
        """Up to `limit` jobs whose `due_at` is `now` or earlier."""

    @abc.abstractmethod
    def next_due(self) -> int | None:
        """The earliest `due_at` of all."""

    @abc.abstractmethod
    def expired(self, now: int) -> Sequence[UUID]:
        """The jobs whose `expires_at` is `now` or earlier, earliest first."""

    @abc.abstractmethod
    def running(self) -> Sequence[UUID]:
        """The jobs whose `state` is running."""

    @abc.abstractmethod
    def page(self, filter: JobFilter, before: int | None, limit: int) -> Sequence[UUID]:
        """Up to `limit` jobs that pass the filter and whose `number` is below `before`, if given; the highest number first."""

    @abc.abstractmethod
    def counts(self) -> dict[str, int]:
        """How many jobs are in each `state`."""

    # What is kept beside them.

    @abc.abstractmethod
    def payload(self, ref: PayloadRef) -> bytes | None:
        """What was kept under this name."""

    @abc.abstractmethod
    def keep_payload(self, ref: PayloadRef, payload: bytes) -> None:
        """Keep bytes under this name; there are none yet."""

    @abc.abstractmethod
    def memo(self) -> bytes | None:
        """What `keep_memo` kept last."""

    @abc.abstractmethod
    def keep_memo(self, memo: bytes) -> None:
        """Keep these few bytes in the place of the last ones."""

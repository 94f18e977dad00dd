"""`Shelf`: what a store has to do for `SimpleDriver`: store records and payloads and find them, in transactions."""

import abc
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import ClassVar
from uuid import UUID

from composerd.driver.simple.records import JobRecord
from composerd.models import JobFilter, Key, PayloadRef


class Shelf(abc.ABC):
    """A store of records.

    Its methods block; they are called one at a time, on a thread of the driver's own. All except `open` and `close` are
    called inside a `transaction`. An exception ends the transaction, and nothing of it may remain.

    A shelf that keeps counts for `Driver.usage` sets `counts_usage`, and has the methods `usage` and `store_usage`. Its
    driver declares the capability `counts_usage` too.

    Errors are those of the contract: `StorageFull` and `Unavailable`, after which nothing was changed, `OutcomeUnknown`
    if the end of a transaction failed so that its changes may be stored or not, and `StorageUnusable`.
    """

    counts_usage: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def description(self) -> str:
        """The kind of storage and where it is, without secrets: `sqlite at /var/lib/jobs.db`."""

    @abc.abstractmethod
    def open(self, *, create: bool) -> None:
        """Open the storage for this process alone and bring it up to date.

        If the storage does not exist, create it, provided that `create` is true.

        Raises:
            StorageUnusable: The storage does not exist, is damaged or of a newer format, or is open elsewhere.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Close the storage. It may be called twice, and after an `open` that failed."""

    @abc.abstractmethod
    def transaction(self) -> AbstractContextManager[None]:
        """Return a context manager for a transaction.

        When its block ends, all changes made in it are on stable storage; when it ends with an exception, none are.
        """

    # Records.

    @abc.abstractmethod
    def read(self, job_id: UUID) -> bytes | None:
        """Return the bytes of a record as they were stored (`encoded`), or None if there is no such job."""

    @abc.abstractmethod
    def write(self, record: JobRecord) -> None:
        """Store a record, in place of the job's former record if there is one.

        From now on the methods below find the job by the properties of this record, and not by those of the former one.
        """

    @abc.abstractmethod
    def remove(self, record: JobRecord) -> None:
        """Delete a record and its payloads. No other method finds the job afterwards.

        `record` is as it was stored last.
        """

    # Finding them.

    @abc.abstractmethod
    def with_token(self, token: UUID) -> UUID | None:
        """Return the id of the job that has the token among its `tokens`, or None."""

    @abc.abstractmethod
    def with_key(self, channel: str, idempotency_key: str) -> UUID | None:
        """Return the id of the job whose `new` has this channel and idempotency key, or None. There is at most one."""

    @abc.abstractmethod
    def dependents(self, job_id: UUID) -> Sequence[UUID]:
        """Return the ids of the jobs that have this one among their `dependencies`, lowest `sequence` first.

        A job that names it twice is returned once.
        """

    def dependents_after(self, job_id: UUID, sequence: int, limit: int) -> Sequence[UUID]:
        """Return up to `limit` of the `dependents`, those whose `sequence` is higher than this one, in the same order.

        Override it if the store can do that without reading all of them: a job may have a hundred thousand.
        """
        found = self.dependents(job_id)
        begin = bisect_right(found, sequence, key=self._sequence_of)
        return found[begin : begin + limit]

    def _sequence_of(self, job_id: UUID) -> int:
        record = self.read(job_id)
        assert record is not None, f"the storage has lost the job {job_id}"
        return JobRecord.decoded(record).sequence

    @abc.abstractmethod
    def first_ready(self, keys: Sequence[Key]) -> UUID | None:
        """Return the id of the first job whose `state` is ready and whose `new.key` is one of `keys`, or None.

        The first one is that of the highest `new.priority`, and of those the one with the lowest `position`.
        """

    @abc.abstractmethod
    def count_ahead(self, record: JobRecord, limit: int) -> int:
        """Return how many ready jobs of the same key a claim would take before this one, at most `limit`.

        These are the jobs with a higher priority, and those with the same priority and a lower `position`.
        """

    @abc.abstractmethod
    def due(self, now: int, limit: int) -> Sequence[UUID]:
        """Return the ids of up to `limit` jobs whose `due_at` is `now` or earlier, in any order.

        `now` is in microseconds since the epoch, like `due_at`. A job whose `due_at` is None is never due.
        """

    @abc.abstractmethod
    def next_due(self) -> int | None:
        """Return the earliest `due_at` of all jobs, or None if no job has one."""

    @abc.abstractmethod
    def expired(self, now: int) -> Sequence[UUID]:
        """Return the ids of the jobs whose `expires_at` is `now` or earlier, the earliest first."""

    @abc.abstractmethod
    def running(self) -> Sequence[UUID]:
        """Return the ids of the jobs whose `state` is running, in any order."""

    @abc.abstractmethod
    def page(self, filter: JobFilter, before: int | None, limit: int) -> Sequence[UUID]:
        """Return the ids of up to `limit` jobs that match the filter, the highest `sequence` first.

        With `before`, return only jobs whose `sequence` is lower than it. Pages of one channel are frequent where there
        are tenants: an index of channel and `sequence` keeps the jobs of others out of them (V13).
        """

    @abc.abstractmethod
    def counts(self) -> dict[str, int]:
        """Return how many jobs are in each `state`; a state without jobs may be missing."""

    # Other stored values.

    @abc.abstractmethod
    def payload(self, ref: PayloadRef) -> bytes | None:
        """Return the payload that was stored under this name, byte for byte, or None if there is none."""

    @abc.abstractmethod
    def store_payload(self, ref: PayloadRef, payload: bytes) -> None:
        """Store a payload under this name, under which there is none yet; it may have 32 MiB or more."""

    @abc.abstractmethod
    def memo(self) -> bytes | None:
        """Return the bytes that `store_memo` stored last, or None if it was never called."""

    @abc.abstractmethod
    def store_memo(self, memo: bytes) -> None:
        """Store a few bytes, in place of those stored before."""

    def usage(self, channel: str) -> bytes | None:
        """Return the bytes that `store_usage` stored last for a channel, or None if there are none."""
        raise NotImplementedError(f"{type(self).__name__}.usage")

    def store_usage(self, channel: str, usage: bytes | None) -> None:
        """Store a few bytes for a channel, in place of those stored before; remove these if `usage` is None."""
        raise NotImplementedError(f"{type(self).__name__}.store_usage")

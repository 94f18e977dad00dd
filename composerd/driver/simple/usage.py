"""Counts what the jobs of each channel use, as far as the shelf keeps such counts."""

from uuid import UUID

import msgspec

from composerd.driver.simple.records import JobRecord
from composerd.driver.simple.shelf import Shelf
from composerd.driver.values import Usage
from composerd.models import JobFilter, JobState, PayloadKind, PayloadRef

_NOTHING = Usage()


class UsageChanges:
    """The changes of the counts in one transaction. They are stored at its end."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._stored: dict[UUID, Usage] = {}
        """The use of each job as it is stored now, as far as the transaction has read or stored it."""
        self._changed: dict[str, Usage] = {}
        """The use that the transaction adds to each channel."""

    def found(self, record: JobRecord) -> None:
        """Note a job as it is stored."""
        if self._shelf.counts_usage:
            self._stored[record.id] = _of(record)

    def saved(self, record: JobRecord) -> None:
        """Count a job as it is stored from now on."""
        if self._shelf.counts_usage:
            self._count(record, _of(record))

    def removed(self, record: JobRecord) -> None:
        """Count a job no more."""
        if self._shelf.counts_usage:
            self._count(record, _NOTHING)

    def _count(self, record: JobRecord, now: Usage) -> None:
        before = self._stored.get(record.id, _NOTHING)
        self._stored[record.id] = now
        channel = record.channel
        self._changed[channel] = _sum(self._changed.get(channel, _NOTHING), now, before)

    def store(self) -> None:
        """Add the changes to the counts that are stored."""
        for channel, change in self._changed.items():
            if change != _NOTHING:
                self._keep(channel, _sum(stored_usage(self._shelf, channel), change, _NOTHING))
        self._changed.clear()

    def _keep(self, channel: str, usage: Usage) -> None:
        self._shelf.store_usage(channel, None if usage == _NOTHING else msgspec.msgpack.encode(usage))

    def count_all(self) -> None:
        """Count all jobs of a storage that has not counted before, or not always."""
        counted: dict[str, Usage] = {}
        for job_id in self._shelf.page(JobFilter(), None, 2**62):
            encoded = self._shelf.read(job_id)
            assert encoded is not None, "the page has the job"
            record = JobRecord.decoded(encoded)
            record.args_size, record.result_size = (
                len(self._shelf.payload(PayloadRef(job_id, kind)) or b"") for kind in PayloadKind
            )
            self._shelf.write(record)
            counted[record.channel] = _sum(counted.get(record.channel, _NOTHING), _of(record), _NOTHING)
        for channel, usage in counted.items():
            self._keep(channel, usage)


def stored_usage(shelf: Shelf, channel: str) -> Usage:
    """Return what the jobs of a channel use."""
    stored = shelf.usage(channel)
    return _NOTHING if stored is None else msgspec.msgpack.decode(stored, type=Usage)


def _of(record: JobRecord) -> Usage:
    """Return what one job uses."""
    return Usage(
        waiting=int(record.state in (JobState.WAITING, JobState.READY)),
        running=int(record.state is JobState.RUNNING),
        payloads=record.args_size + record.result_size,
        artifacts=sum(one.size for one in record.attached()),
    )


def _sum(one: Usage, more: Usage, less: Usage) -> Usage:
    """Return one use with another one added and a third one subtracted."""
    fields = zip(*map(msgspec.structs.astuple, (one, more, less)), strict=True)
    return Usage(*[a + b - c for a, b, c in fields])

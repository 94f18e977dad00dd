"""Counts of what the jobs of each channel use, which every change of a job keeps up to date."""

from collections.abc import Iterable

import msgspec

from composerd.driver import Usage
from composerd.models import Artifact, JobState
from composerd_fs.journal.entries import Payload, StoredPayload
from composerd_fs.journal.frames import CHECK, length_of
from composerd_fs.state.job import JobRecord

_WAITING, _READY, _RUNNING = JobState.WAITING, JobState.READY, JobState.RUNNING


class _Counts(msgspec.Struct, gc=False):
    """The fields of `Usage`, for one channel."""

    waiting: int = 0
    running: int = 0
    payloads: int = 0
    artifacts: int = 0


class UsageCounts:
    """The counts of all channels. A channel whose counts are all 0 need not be known."""

    def __init__(self) -> None:
        self._channels: dict[str, _Counts] = {}

    def differing(self, others: "UsageCounts") -> list[str]:
        """Return the channels of which others have counted something else, in order."""
        return sorted(one for one in self.channels | others.channels if self.of(one) != others.of(one))

    @property
    def channels(self) -> set[str]:
        """The channels that are known."""
        return set(self._channels)

    def of(self, channel: str) -> Usage:
        """Return what the jobs of a channel use."""
        found = self._channels.get(channel)
        return Usage() if found is None else Usage(found.waiting, found.running, found.payloads, found.artifacts)

    def count(self, channel: str, waiting: int, running: int, payloads: int) -> None:
        """Count jobs that wait or run, and bytes of payloads, or with negative numbers those that are gone."""
        counts = self._channels.get(channel) or self._begun(channel)
        counts.waiting += waiting
        counts.running += running
        counts.payloads += payloads

    def count_change(self, channel: str, before: JobState, after: JobState, payloads: int) -> None:
        """Count a job that has changed its state, and thereby has more bytes of payloads."""
        counts = self._channels.get(channel) or self._begun(channel)
        if before is _RUNNING:
            counts.running -= 1
        elif before is _READY or before is _WAITING:
            counts.waiting -= 1
        if after is _RUNNING:
            counts.running += 1
        elif after is _READY or after is _WAITING:
            counts.waiting += 1
        counts.payloads += payloads

    def count_files(self, channel: str, size: int) -> None:
        """Count bytes of artifacts, or with a negative number bytes that are gone."""
        counts = self._channels.get(channel) or self._begun(channel)
        counts.artifacts += size

    def count_job(self, job: JobRecord) -> None:
        """Count everything that a job uses, which nothing has counted yet."""
        channel, state = job.key.channel, job.state
        payloads = size_of(job.args) + size_of(job.result)
        self.count(channel, state is _READY or state is _WAITING, state is _RUNNING, payloads)
        self.count_files(channel, size_of_files(job.files))

    def forget_unused(self, channel: str) -> None:
        """Forget a channel if nothing of it is counted: there may be any number of them in time."""
        found = self._channels.get(channel)
        if found is not None and not (found.waiting or found.running or found.payloads or found.artifacts):
            del self._channels[channel]
            if not self._channels:
                self._channels.clear()  # gives back the memory of the dictionary too

    def _begun(self, channel: str) -> _Counts:
        counts = self._channels[channel] = _Counts()
        return counts


def size_of(payload: Payload | StoredPayload | None) -> int:
    """Return the size of a payload in bytes, wherever it is; 0 for none."""
    if payload is None:
        return 0
    if isinstance(payload, int):
        return length_of(payload)
    return payload[2] - CHECK if isinstance(payload, tuple) else len(payload)


def size_of_files(files: Iterable[Artifact]) -> int:
    """Return the size of files in bytes."""
    return sum(one.size for one in files)

"""Counts of what the jobs of each channel use, which every change of a job keeps up to date."""

from collections.abc import Iterable

import msgspec

from composerd.driver import Usage
from composerd.models import Artifact, JobState
from composerd_fs.journal.entries import Payload, StoredPayload
from composerd_fs.journal.frames import CHECK, length_of


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

    def count_state(self, channel: str, state: JobState, jobs: int) -> None:
        """Count jobs that are in a state now, or with a negative number jobs that no longer are."""
        if state is JobState.RUNNING:
            self._counted(channel).running += jobs
        elif state is JobState.READY or state is JobState.WAITING:
            self._counted(channel).waiting += jobs

    def count_payloads(self, channel: str, size: int) -> None:
        """Count bytes of payloads, or with a negative number bytes that are gone."""
        self._counted(channel).payloads += size

    def count_artifacts(self, channel: str, size: int) -> None:
        """Count bytes of artifacts, or with a negative number bytes that are gone."""
        self._counted(channel).artifacts += size

    def forget_unused(self, channel: str) -> None:
        """Forget a channel if nothing of it is counted: there may be any number of them in time."""
        found = self._channels.get(channel)
        if found is not None and not (found.waiting or found.running or found.payloads or found.artifacts):
            del self._channels[channel]
            if not self._channels:
                self._channels.clear()  # gives back the memory of the dictionary too

    def _counted(self, channel: str) -> _Counts:
        found = self._channels.get(channel)
        if found is None:
            found = self._channels[channel] = _Counts()
        return found


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

"""The progress of running jobs (`partial`). It is in memory only, and bounded."""

from collections import OrderedDict

from composerd_fs.state.job import JobRecord
from composerd_fs.state.jobs import Jobs
from composerd_fs.state.undo import Undo

MAX_PARTIALS = 64 * 1024 * 1024
"""Largest size in bytes of the progress of all running jobs together.

The oldest of the channel that has most is forgotten first, so that no tenant makes the others' be forgotten.
"""


class Progress:
    """The progress of all running jobs, that of each channel from the oldest on."""

    def __init__(self, jobs: Jobs, undo: Undo) -> None:
        self._jobs = jobs
        self._undo = undo
        self._partials: dict[str, OrderedDict[int, int]] = {}
        """The size of each, by channel and by `id.int` of its job."""
        self._sizes: dict[str, int] = {}
        """The size of that of each channel."""
        self._size = 0

    def keep(self, job: JobRecord, partial: bytes) -> None:
        """Replace the progress of a running job, and forget what is too much: the oldest of the fullest channel."""
        self._drop(job)
        job.partial = partial
        self._partials.setdefault(job.channel, OrderedDict())[job.id.int] = len(partial)
        self._sizes[job.channel] = self._sizes.get(job.channel, 0) + len(partial)
        self._size += len(partial)
        while self._size > MAX_PARTIALS:
            others = [channel for channel, own in self._partials.items() if next(iter(own)) != job.id.int]
            if not others:
                break
            most = max(others, key=self._sizes.__getitem__)
            self._drop(self._jobs.live[next(iter(self._partials[most]))])

    def end(self, job: JobRecord) -> None:
        """Drop the progress of a job whose attempt ends; if the flush is refused, the job has it again."""
        if job.partial is not None:
            self._undo.add((self.keep, job, job.partial))
            self._drop(job)

    def _drop(self, job: JobRecord) -> None:
        if job.partial is None:
            return
        job.partial = None
        own = self._partials[job.channel]
        size = own.pop(job.id.int)
        self._size -= size
        if own:
            self._sizes[job.channel] -= size
        else:
            del self._partials[job.channel], self._sizes[job.channel]

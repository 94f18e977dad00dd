"""The progress of running jobs (`partial`). It is in memory only, and bounded."""

from collections import OrderedDict

from composerd_fs.state.job import JobRecord
from composerd_fs.state.jobs import Jobs
from composerd_fs.state.undo import Undo

MAX_PARTIALS = 64 * 1024 * 1024
"""Largest size in bytes of the progress of all running jobs together. The oldest is forgotten first."""


class Progress:
    """The progress of all running jobs, the oldest first."""

    def __init__(self, jobs: Jobs, undo: Undo) -> None:
        self._jobs = jobs
        self._undo = undo
        self._partials: OrderedDict[int, int] = OrderedDict()
        """The size of each, by `id.int` of its job."""
        self._size = 0

    def keep(self, job: JobRecord, partial: bytes) -> None:
        """Replace the progress of a running job; forget the oldest progress if there is too much."""
        self._drop(job)
        job.partial = partial
        self._partials[job.id.int] = len(partial)
        self._size += len(partial)
        while self._size > MAX_PARTIALS and len(self._partials) > 1:
            self._drop(self._jobs.live[next(iter(self._partials))])

    def end(self, job: JobRecord) -> None:
        """Drop the progress of a job whose attempt ends; if the flush is refused, the job has it again."""
        if job.partial is not None:
            self._undo.add((self.keep, job, job.partial))
            self._drop(job)

    def _drop(self, job: JobRecord) -> None:
        if job.partial is not None:
            self._size -= self._partials.pop(job.id.int, 0)
            job.partial = None

"""Checkpoints: the whole table as entries, taken while the table goes on changing, and restored from them. No files.

A snapshot is the table as it was between two flushes. It is taken some jobs at a time. A job that a later flush is
about to change is taken before that (`Table.before_change`), so that all jobs are taken as they were at one moment.
Archived jobs are taken as they are packed.
"""

from bisect import bisect_left

from composerd.models import JobState
from composerd_fs.journal import entries
from composerd_fs.journal.converting import kept_entry, kept_record
from composerd_fs.journal.entries import CheckpointEntry
from composerd_fs.state.job import JobRecord
from composerd_fs.state.jobs import ARCHIVED_FOR_ONE
from composerd_fs.state.table import Table


class Snapshot:
    """The table at the moment when the snapshot is created, which must be between two flushes."""

    def __init__(self, table: Table, frame: int) -> None:
        self._table = table
        self._jobs = table.jobs
        self._chunks = table.jobs.by_sequence.chunks()
        self._next = 0
        self._last = table.last_sequence
        self._early: set[int] = set()
        """The sequences of jobs that were taken because they were about to change."""
        self._taken: list[CheckpointEntry] = [
            entries.BegunEntry(frame, table.last_sequence, table.last_position, table.latest)
        ]
        self._archived: list[bytes] = []
        self._shapes = 0
        """The number of shapes that were taken."""
        self.jobs = 0
        """The number of jobs that were taken."""
        self.complete = False
        """True if `some` has returned everything."""
        table.before_change = self._before_change
        table.jobs.archive.during_snapshot = True

    def _before_change(self, job: JobRecord) -> None:
        if job.sequence <= self._last and job.sequence not in self._early and not self._is_taken(job.sequence):
            self._early.add(job.sequence)
            self._take(job)

    def _is_taken(self, sequence: int) -> bool:
        return bisect_left(self._chunks, self._jobs.by_sequence.chunk_of(sequence)) < self._next

    def some(self, count: int) -> list[CheckpointEntry]:
        """Return the entries of the jobs in the next chunks: about `count` jobs, or more if they are archived.

        The list is empty if all these jobs were taken before.
        """
        work = 0
        while work < count * ARCHIVED_FOR_ONE and self._next < len(self._chunks):
            for sequence, job in self._jobs.by_sequence.chunk(self._chunks[self._next]):
                if sequence > self._last or sequence in self._early:
                    continue
                if isinstance(job, bytes):
                    self._archived.append(job)
                    self.jobs += 1
                    work += 1
                else:
                    self._take(job)
                    work += ARCHIVED_FOR_ONE
            self._next += 1
        taken, self._taken = self._taken, []
        taken += self._take_archived()
        if self._next == len(self._chunks):
            taken.append(entries.CompleteEntry(self.jobs))
            self.complete = True
        return taken

    def close(self) -> None:
        """End the snapshot; it takes no more jobs."""
        self._table.before_change = None
        self._jobs.archive.end_snapshot()

    def _take(self, job: JobRecord) -> None:
        self._taken.append(kept_entry(job))
        self.jobs += 1

    def _take_archived(self) -> list[CheckpointEntry]:
        """Return archived jobs after the new shapes among theirs. No shape changes its number until `close`."""
        if not self._archived:
            return []
        archived, self._archived = self._archived, []
        shapes = self._jobs.archive.shapes_since(self._shapes)
        self._shapes += len(shapes)
        if not shapes:
            return [entries.ArchivedEntry(archived)]
        return [entries.ShapesEntry(shapes), entries.ArchivedEntry(archived)]


class Restoration:
    """Restores an empty table from the entries of a checkpoint, in their order."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._jobs: list[JobRecord] = []

    def apply(self, entry: CheckpointEntry) -> None:
        """Restore the next entry."""
        if isinstance(entry, entries.KeptEntry):
            self._jobs.append(kept_record(entry, self._table.jobs.interning))
        elif isinstance(entry, entries.ArchivedEntry):
            self._table.jobs.restore_archived(entry.jobs)
        elif isinstance(entry, entries.ShapesEntry):
            self._table.jobs.archive.restore_shapes(entry.shapes)
        elif isinstance(entry, entries.BegunEntry):
            self._table.last_sequence, self._table.last_position = entry.last_sequence, entry.last_position
            self._table.latest = entry.latest
        else:
            self._complete()

    def _complete(self) -> None:
        """Register the jobs, connect those that wait for each other, and fill the indexes."""
        table = self._table
        for job in self._jobs:
            table.jobs.restore(job)
        for job in self._jobs:
            for job_id in set(job.dependencies):
                dependency = table.jobs.live.get(job_id.int)
                if dependency is None:
                    continue  # it was deleted, or is archived: no unended job depends on it
                if not job.state.ended:
                    dependency.needed += 1
                if not dependency.state.ended:
                    job.pending += 1
        for job in self._jobs:
            if job.state is not JobState.RUNNING:  # `Table.restart` indexes the leases
                table.index(job)
            if job.state.ended:
                table.jobs.rests(job)
        table.jobs.archive.finish_restore()
        self._jobs = []

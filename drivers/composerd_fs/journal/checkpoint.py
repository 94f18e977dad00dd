"""Checkpoints: the whole table as records, taken while others go on changing it, and made a table again. No files.

A snapshot is the table as it was between two flushes. It is taken some rows at a time; a row that a later flush is
about to change is taken before that (`Undo.before`), so that what comes out is one moment's. Packed jobs are taken as
they are.
"""

from bisect import bisect_left
from typing import TypeAlias

from composerd.models import AttemptState, JobState
from composerd_fs.journal import entries
from composerd_fs.journal.converting import artifact_fields, attempt_fields
from composerd_fs.journal.entries import JobFields, Record
from composerd_fs.journal.frames import packed_place, unpacked_place
from composerd_fs.state.interning import artifact_of
from composerd_fs.state.job import Row
from composerd_fs.state.jobs import PACKED_FOR_ONE
from composerd_fs.state.table import Table

Taken: TypeAlias = entries.Begun | entries.Kept | entries.Shapes | entries.Archived | entries.Complete
"""What a checkpoint holds."""


class Snapshot:
    """The table at the moment when this is made, which must be between two flushes."""

    def __init__(self, table: Table, frame: int) -> None:
        self._table = table
        self._chunks = table.by_seq.chunks()
        self._next = 0
        self._last = table.last_seq
        self._early: set[int] = set()
        self._taken: list[Record] = [entries.Begun(frame, table.last_seq, table.last_place, table.latest)]
        self._packed: list[bytes] = []
        self._told = 0
        """How many shapes were given."""
        self.jobs = 0
        """How many were taken."""
        self.complete = False
        """Whether all has been given."""
        table.undo.before = self._before
        table.archive.held = True

    def _before(self, row: Row) -> None:
        if row.seq <= self._last and row.seq not in self._early and not self._passed(row.seq):
            self._early.add(row.seq)
            self._take(row)

    def _passed(self, seq: int) -> bool:
        return bisect_left(self._chunks, self._table.by_seq.chunk_of(seq)) < self._next

    def some(self, count: int) -> list[Record]:
        """The next records, of at least so many jobs, or more packed ones; they may all have been taken already."""
        work = 0
        while work < count * PACKED_FOR_ONE and self._next < len(self._chunks):
            for seq, row in self._table.by_seq.chunk(self._chunks[self._next]):
                if seq > self._last or seq in self._early:
                    continue
                if isinstance(row, bytes):
                    self._packed.append(row)
                    self.jobs += 1
                    work += 1
                else:
                    self._take(row)
                    work += PACKED_FOR_ONE
            self._next += 1
        taken, self._taken = self._taken, []
        taken += self._archived()
        if self._next == len(self._chunks):
            taken.append(entries.Complete(self.jobs))
            self.complete = True
        return taken

    def close(self) -> None:
        """Take no more."""
        self._table.undo.before = None
        self._table.archive.held = False

    def _take(self, row: Row) -> None:
        self._taken.append(kept(row))
        self.jobs += 1

    def _archived(self) -> list[Record]:
        """What was packed, behind the shapes that it has: their numbers mean the same until the snapshot is closed."""
        if not self._packed:
            return []
        packed, self._packed = self._packed, []
        shapes = self._table.archive.told(self._told)
        self._told += len(shapes)
        return [entries.Shapes(shapes), entries.Archived(packed)] if shapes else [entries.Archived(packed)]


class Restoring:
    """Makes the records of a checkpoint a table again, in the order in which they come."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._rows: list[Row] = []

    def apply(self, record: Taken) -> None:
        """The next record."""
        if isinstance(record, entries.Kept):
            self._rows.append(self._row(record))
        elif isinstance(record, entries.Archived):
            self._table.restore_packed(record.jobs)
        elif isinstance(record, entries.Shapes):
            self._table.archive.learn(record.shapes)
        elif isinstance(record, entries.Begun):
            self._table.last_seq, self._table.last_place = record.last_seq, record.last_place
            self._table.latest = record.latest
        else:
            self._connect()

    def _row(self, record: entries.Kept) -> Row:
        row = self._table.made.row(record.job, record.seq, record.queued_at)
        row.place = record.place
        row.args, row.result = unpacked_place(record.args), unpacked_place(record.result)
        row.state = JobState(record.state)
        row.started_at, row.finished_at = record.started_at, record.finished_at
        row.retries, row.failures, row.returns = record.retries, record.failures, record.returns
        if record.dependents:
            row.dependents = dict.fromkeys(record.dependents)
        row.worker = self._table.made.worker(record.worker)
        if record.attempts:
            artifacts = {one.name: artifact_of(one) for one in record.artifacts}
            row.runs = tuple(self._table.made.attempts(row, record.attempts, artifacts))
        if row.state.ended:
            row.artifacts = tuple([artifact_of(one) for one in record.artifacts])
        return row

    def _connect(self) -> None:
        """All are there: let them be known, and know each other."""
        table = self._table
        for row in self._rows:
            table.restore(row)
        for row in self._rows:
            for job_id in set(row.dependencies):
                dependency = table.rows.get(job_id)
                if dependency is None:
                    continue  # it was deleted, or is packed: nobody needs it
                if not row.state.ended:
                    dependency.needed += 1
                if not dependency.state.ended:
                    row.pending += 1
        for row in self._rows:
            if row.state is not JobState.RUNNING:  # the start gives those their leases
                table.index(row)
            if row.state.ended:
                table.rests(row)
        table.archive.restored()
        self._rows = []


def kept(row: Row) -> entries.Kept:
    """A row as a record."""
    running = row.runs[-1] if row.runs and row.runs[-1].state is AttemptState.RUNNING else None
    artifacts = row.artifacts if running is None else tuple((running.artifacts or {}).values())
    return entries.Kept(
        JobFields(
            row.id,
            row.key.type,
            row.key.arch,
            row.key.channel,
            None,
            row.dependencies,
            row.priority,
            row.not_before,
            *row.policy,
            row.idempotency_key,
            row.fingerprint,
        ),
        row.seq,
        row.place,
        row.state.value,
        row.queued_at,
        row.started_at,
        row.finished_at,
        row.retries,
        row.failures,
        row.returns,
        row.worker,
        packed_place(row.args),
        packed_place(row.result),
        [attempt_fields(run) for run in row.runs],
        [artifact_fields(artifact) for artifact in artifacts],
        list(row.dependents) if row.dependents else [],
    )

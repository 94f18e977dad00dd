"""Checkpoints: the whole table as records, taken while others go on changing it, and made a table again. No files.

A snapshot is the table as it was between two flushes. It is taken a few rows at a time; a row that a later flush is
about to change is taken before that (`Undo.before`), so that what comes out is one moment's.
"""

from collections.abc import Sequence

from composerd.models import AttemptState, JobState
from composerd_fs import frames, records
from composerd_fs.facts import artifact_fields
from composerd_fs.made import artifact_of
from composerd_fs.records import AttemptFields, JobFields, Payload, Place, Record
from composerd_fs.rows import Row, Run
from composerd_fs.table import Table


class Snapshot:
    """The table at the moment when this is made, which must be between two flushes."""

    def __init__(self, table: Table, frame: int) -> None:
        self._table = table
        self._seqs = table.by_seq.numbers()
        self._next = 0
        self._last = table.last_seq
        self._early: set[int] = set()
        self._taken: list[Record] = [records.Begun(frame, table.last_seq, table.last_place, table.latest)]
        self.complete = False
        """Whether all has been given."""
        self.live: dict[int, int] = {}
        """Bytes of payload that the jobs have, by segment."""
        table.undo.before = self._before

    @property
    def seqs(self) -> Sequence[int]:
        """The jobs, by number."""
        return self._seqs

    def _before(self, row: Row) -> None:
        if row.seq <= self._last and row.seq not in self._early and not self._passed(row.seq):
            self._early.add(row.seq)
            self._take(row)

    def _passed(self, seq: int) -> bool:
        return self._next > 0 and seq <= self._seqs[self._next - 1]

    def some(self, count: int) -> list[Record]:
        """The next records, of about so many jobs; they may all have been taken already."""
        seqs = self._seqs[self._next : self._next + count]
        for seq in seqs:
            if seq not in self._early:
                row = self._table.by_seq.get(seq)
                assert row is not None, "who deletes a job says so before"
                self._take(row)
        self._next += len(seqs)
        if self._next == len(self._seqs):
            self._taken.append(records.Complete(len(self._seqs)))
            self.complete = True
        taken, self._taken = self._taken, []
        return taken

    def close(self) -> None:
        """Take no more."""
        self._table.undo.before = None

    def _take(self, row: Row) -> None:
        for payload in (row.args, row.result):
            if isinstance(payload, int):
                segment, _, length = frames.where(payload)
                self.live[segment] = self.live.get(segment, 0) + length
        self._taken.append(kept(row))


class Restoring:
    """Makes the records of a checkpoint a table again, in the order in which they come."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._rows: list[Row] = []

    def apply(self, record: records.Begun | records.Kept | records.Complete) -> None:
        """The next record."""
        if isinstance(record, records.Kept):
            self._rows.append(self._row(record))
        elif isinstance(record, records.Begun):
            self._table.last_seq, self._table.last_place = record.last_seq, record.last_place
            self._table.latest = record.latest
        else:
            self._connect()

    def _row(self, record: records.Kept) -> Row:
        row = self._table.made.row(record.job, record.seq, record.queued_at)
        row.place = record.place
        row.args, row.result = _payload(record.args), _payload(record.result)
        row.state = JobState(record.state)
        row.started_at, row.finished_at = record.started_at, record.finished_at
        row.retries, row.failures, row.returns = record.retries, record.failures, record.returns
        row.worker = self._table.made.worker(record.worker)
        artifacts = {one.name: artifact_of(one) for one in record.artifacts} if record.artifacts else {}
        if row.state.ended:
            row.artifacts = tuple(artifacts.values())
        row.runs = tuple(self._table.made.attempts(row, record.attempts, artifacts))
        return row

    def _connect(self) -> None:
        """All are there: let them be known, and know each other."""
        table = self._table
        self._rows.sort(key=_seq)  # those that changed meanwhile were taken out of turn
        for row in self._rows:
            table.insert(row)
            for run in row.runs:
                table.runs[run.token] = run
        for row in self._rows:
            for job_id in set(row.dependencies):
                dependency = table.rows.get(job_id)
                if dependency is None:
                    continue  # it was deleted
                if dependency.dependents is None:
                    dependency.dependents = {}
                dependency.dependents[row.seq] = row
                if not dependency.state.ended:
                    row.pending += 1
        for row in self._rows:
            if row.state is not JobState.RUNNING:  # the start gives those their leases
                table.index(row)
        self._rows = []


def kept(row: Row) -> records.Kept:
    """A row as a record."""
    running = row.runs[-1] if row.runs and row.runs[-1].state is AttemptState.RUNNING else None
    artifacts = row.artifacts if running is None else tuple((running.artifacts or {}).values())
    return records.Kept(
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
        _place(row.args),
        _place(row.result),
        [_attempt(run) for run in row.runs],
        [artifact_fields(artifact) for artifact in artifacts],
    )


def _attempt(run: Run) -> AttemptFields:
    return AttemptFields(run.token, run.number, run.state.value, run.confirm, run.digest, run.lease, run.worker)


def _place(payload: Payload | None) -> bytes | Place | None:
    return frames.where(payload) if isinstance(payload, int) else payload


def _payload(place: bytes | Place | None) -> Payload | None:
    return frames.place(*place) if isinstance(place, tuple) else place


def _seq(row: Row) -> int:
    return row.seq

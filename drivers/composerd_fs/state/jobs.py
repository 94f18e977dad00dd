"""All jobs and attempts, found by id, number, token or key, whether packed or not; and how much payload they have. No meaning.

A job that came to rest (ended, and nobody unended depends on it) is packed between two flushes, and is a row again
before anything about it changes.
"""

from collections.abc import Sequence
from uuid import UUID

from composerd.models import JobState
from composerd_fs.journal.entries import Payload
from composerd_fs.journal.frames import where
from composerd_fs.state import archive
from composerd_fs.state.archive import Archive
from composerd_fs.state.indexes import Expiries, Numbered
from composerd_fs.state.interning import Made
from composerd_fs.state.job import Row, Run
from composerd_fs.state.undo import Undo

PACKED_FOR_ONE = 16
"""How many packed jobs are as much work as one that is not."""


class Jobs:
    """What the table has."""

    def __init__(self) -> None:
        self.rows: dict[UUID, Row] = {}
        """Those that are not packed; `find` knows all."""
        self.by_seq = Numbered()
        self.runs: dict[UUID, Run] = {}
        """Attempts at those that are not packed; `find_run` knows all."""
        self.keys: dict[tuple[str, str], Row] = {}
        """The same by channel and idempotency key."""
        self.made = Made()
        self.archive = Archive(self.by_seq, self.made)
        self.expiries = Expiries(self._expires_at)
        self.counts = dict.fromkeys(JobState, 0)
        self.live: dict[int, int] = {}
        """Bytes of payload that jobs have, by segment."""
        self.undo = Undo()
        self._resting: list[Row] = []

    @property
    def work(self) -> int:
        """How much a look at everything is, in jobs that are not packed."""
        live = len(self.rows)
        return live + (sum(self.counts.values()) - live) // PACKED_FOR_ONE

    def find(self, job_id: UUID) -> Row | None:
        """A job by its id; what is done to a packed one changes nothing."""
        row = self.rows.get(job_id)
        if row is not None:
            return row
        packed = self.archive.find(job_id)
        return None if packed is None else self.archive.unpack(packed)

    def find_run(self, token: UUID) -> Run | None:
        """An attempt by its token; the same."""
        run = self.runs.get(token)
        if run is not None:
            return run
        packed = self.archive.find_token(token)
        if packed is None:
            return None
        return next(run for run in self.archive.unpack(packed).runs if run.token == token)

    def find_key(self, channel: str, key: str) -> Row | None:
        """A job by its idempotency key; the same."""
        row = self.keys.get((channel, key))
        if row is not None:
            return row
        packed = self.archive.find_key(channel, key)
        return None if packed is None else self.archive.unpack(packed)

    def at(self, seq: int) -> Row | None:
        """A job by its number; the same."""
        row = self.by_seq.get(seq)
        return self.archive.unpack(archive.decode(row)) if isinstance(row, bytes) else row

    def dependents_of(self, row: Row) -> tuple[UUID, ...]:
        """The ids of those that depend on a job, in the order of their submission."""
        found = [self.at(seq) for seq in sorted(row.dependents or ())]
        return tuple([one.id for one in found if one is not None])

    def rests(self, row: Row) -> None:
        """A job has ended, or nobody unended depends on it any more: perhaps it is to be packed."""
        self._resting.append(row)

    def put_away(self) -> None:
        """Between two flushes: pack the jobs that have come to rest."""
        for row in self._resting:
            if row.state.ended and not row.needed and self.by_seq.get(row.seq) is row:
                self._pack(row)
        self._resting.clear()

    def _pack(self, row: Row) -> None:
        self.archive.add(row)
        del self.rows[row.id]
        for run in row.runs:
            del self.runs[run.token]
        if row.idempotency_key is not None:
            del self.keys[row.key.channel, row.idempotency_key]

    def thaw(self, job_id: UUID) -> Row | None:
        """A job that is about to be changed: not packed any more."""
        row = self.rows.get(job_id)
        if row is not None:
            return row
        packed = self.archive.find(job_id)
        if packed is None:
            return None
        row = self.archive.unpack(packed)
        self.archive.forget(packed)
        self.by_seq.replace(row.seq, row)
        self._know(row)
        for run in row.runs:
            self.runs[run.token] = run
        if row.dependents:
            row.dependents = {seq: None for seq in row.dependents if self.by_seq.get(seq) is not None}
        self.rests(row)
        return row

    def insert(self, row: Row) -> None:
        """Let a row be known by its id, its number and its key."""
        self.by_seq[row.seq] = row
        self.counts[row.state] += 1
        self._know(row)

    def _know(self, row: Row) -> None:
        self.rows[row.id] = row
        if row.idempotency_key is not None:
            self.keys[row.key.channel, row.idempotency_key] = row

    def restore(self, row: Row) -> None:
        """Take in a row of a checkpoint."""
        self.insert(row)
        self.hold(row.args)
        self.hold(row.result)
        for run in row.runs:
            self.runs[run.token] = run

    def restore_packed(self, jobs: Sequence[bytes]) -> None:
        """Take in packed jobs of a checkpoint: as little as can be for each, there may be millions."""
        live = self.live
        for data in jobs:
            packed = self.archive.restore(data)
            shape = self.archive.shapes[packed.shape]
            self.counts[shape.state] += 1
            for place in (packed.args, packed.result):
                if isinstance(place, tuple):
                    live[place[0]] = live.get(place[0], 0) + place[2]
            if shape.policy.retention is not None:
                self.expiries.add(packed.queued_at + packed.finished + shape.policy.retention, packed.seq)

    def hold(self, payload: Payload | None, sign: int = 1) -> None:
        """A job has a payload, or has it no more."""
        if isinstance(payload, int):
            segment, _, length = where(payload)
            self._weigh(segment, sign * length)
            if not self.undo.replaying:
                self.undo.call(self._weigh, segment, -sign * length)

    def _weigh(self, segment: int, length: int) -> None:
        total = self.live.get(segment, 0) + length
        if total:
            self.live[segment] = total
        else:
            del self.live[segment]

    def _expires_at(self, seq: int) -> int | None:
        row = self.at(seq)
        return None if row is None else row.expires_at

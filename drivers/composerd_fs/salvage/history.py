"""The history of the jobs in a damaged journal: what is certain of each job, and what a gap has made doubtful.

After a gap, every job that had not ended before it is in doubt: it may have been claimed, finished, canceled or deleted
in the part that is lost. An entry after the gap that is about the job, or about its running attempt, removes the doubt.
A job that is still in doubt at the end must not run, so it is canceled, and so are the jobs that wait for it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any
from uuid import UUID

import msgspec

from composerd.models import AttemptState, JobState
from composerd_fs.journal import entries as kinds
from composerd_fs.journal.checkpoint import Restoration
from composerd_fs.journal.entries import Entry, JobFields, JournalEntry, PackedJob
from composerd_fs.state.job import JobRecord
from composerd_fs.state.table import Table

_decode_packed = msgspec.msgpack.Decoder(PackedJob).decode


class LostJob(msgspec.Struct):
    """A job of which entries were found, but neither its submission nor its part of the checkpoint."""

    id: UUID
    type: str | None = None
    state: str | None = None
    """The last state that an entry says it had."""


class History:
    """A table to which the entries of a damaged journal are applied, with what is lost between them."""

    def __init__(self) -> None:
        self.table = Table()
        self.doubtful: set[UUID] = set()
        """Jobs that had not ended before a gap, and of which no entry after it was found."""
        self._uncounted: set[UUID] = set()
        """Jobs that have ever been in doubt: it is not known how many of their retries are used up."""
        self.lost: dict[UUID, LostJob] = {}
        self.unknown_attempts = 0
        """The number of results of attempts of which it is not known to which jobs they belong."""
        self._whole = True
        """True as long as nothing is lost."""
        self._shapes_whole = True
        """False once a part of the checkpoint is lost: shapes after it have unknown numbers."""
        self._restoration = Restoration(self.table)
        self._tokens: dict[UUID, UUID] = {}
        """The lost jobs of attempts, by token."""
        self._lenient: dict[type, Callable[[Any], None]] = {
            kinds.EnqueuedEntry: self._enqueued,
            kinds.ClaimedEntry: self._claimed,
            kinds.AttachedEntry: self._attached,
            kinds.FinishedEntry: self._finished,
            kinds.RequeuedEntry: self._requeued,
            kinds.CanceledEntry: self._canceled,
            kinds.DeletedEntry: self._deleted,
            kinds.RestoredEntry: self._restored,
            kinds.PropagatedEntry: self._ignored,
            kinds.PropagatedToEntry: self._ignored,
            kinds.MovedEntry: self._moved,
        }

    # The checkpoint.

    def restore(self, entries: Sequence[Entry]) -> None:
        """Apply entries of the checkpoint."""
        for entry in entries:
            if isinstance(entry, kinds.ArchivedEntry):
                self._restore_archived(entry.jobs)
            elif isinstance(entry, kinds.BegunEntry | kinds.KeptEntry) or (
                isinstance(entry, kinds.ShapesEntry) and self._shapes_whole
            ):
                self._restoration.apply(entry)

    def _restore_archived(self, jobs: Sequence[bytes]) -> None:
        known = len(self.table.jobs.archive.shapes)
        for data in jobs:
            one = _decode_packed(data)
            if one.shape < known:
                self._restoration.apply(kinds.ArchivedEntry([data]))
            else:
                self._lose(UUID(bytes=one.id), state="ended")

    def lose_checkpoint(self) -> None:
        """Go on after a part of the checkpoint that is lost."""
        self._whole = self._shapes_whole = False

    def restored(self) -> None:
        """Finish the checkpoint."""
        table = self.table
        self._restoration.apply(kinds.CompleteEntry(0))
        for chunk in table.jobs.by_sequence.chunks():
            for sequence, job in table.jobs.by_sequence.chunk(chunk):
                table.last_sequence = max(table.last_sequence, sequence)
                if isinstance(job, JobRecord):
                    table.last_position = max(table.last_position, job.position)
        table.replayed()
        if not self._whole:
            self._doubt(job.id for job in self._unended() if self._depends_on_doubt(job))

    # The segments.

    def lose(self, unproven: Sequence[Entry]) -> None:
        """Go on after frames that are lost, of which some entries may be known."""
        self._settle()
        self._whole = False
        self._doubt(job.id for job in self._unended())
        for entry in unproven:
            if isinstance(entry, kinds.EnqueuedEntry):
                for fields in entry.jobs:
                    if self.table.jobs.find(fields.id) is None:
                        self._lose(fields.id, fields.type, "submitted")

    def apply(self, base: int, entries: Sequence[Entry]) -> None:
        """Apply the entries of a frame."""
        self.table.base = base
        for entry in entries:
            if self._whole:
                self.table.apply(entry)  # type: ignore[arg-type]  # a segment has no entries of a checkpoint
            else:
                self._lenient[type(entry)](entry)
        if self._whole:
            self.table.replayed()
        else:
            self._settle()

    def cancel(self, job_ids: Sequence[UUID]) -> list[UUID]:
        """Cancel jobs that have not ended, and those that wait for them; return the latter."""
        unended = {job.id for job in self._unended()}
        for job_id in job_ids:
            job = self.table.jobs.live.get(job_id.int)
            if job is not None and not job.state.ended:
                self.table.apply(kinds.CanceledEntry(self.table.latest, job_id))
        self._settle()
        return sorted(unended - {job.id for job in self._unended()} - set(job_ids))

    def unended(self) -> list[JobRecord]:
        """Return the jobs that have not ended."""
        return list(self._unended())

    def _unended(self) -> Iterator[JobRecord]:
        return (job for job in self.table.jobs.live.values() if not job.state.ended)

    def _settle(self) -> None:
        """Propagate all ends: how far that had gone is not known after a gap, and makes no difference to the result."""
        self.table.replayed()
        while self.table.unpropagated:
            self.table.propagate(1000)
            self.table.replayed()

    # Entries after a gap: each is applied if the table has what it is about.

    def _enqueued(self, entry: kinds.EnqueuedEntry) -> None:
        for fields in entry.jobs:
            if self._begins(fields):
                self.table.apply(kinds.EnqueuedEntry(entry.at, [fields]))
                self._began(fields.id)

    def _restored(self, entry: kinds.RestoredEntry) -> None:
        if self._begins(entry.job):
            self.table.apply(entry)
            self._began(entry.job.id)

    def _begins(self, fields: JobFields) -> bool:
        """Return False if a job is there already. Drop one that has its key: it was deleted in a gap."""
        if self.table.jobs.find(fields.id) is not None:
            return False
        if fields.idempotency_key is not None:
            other = self.table.jobs.find_key(fields.channel, fields.idempotency_key)
            if other is not None:
                self._delete(other.id)
        self.lost.pop(fields.id, None)
        return True

    def _began(self, job_id: UUID) -> None:
        job = self.table.jobs.find(job_id)
        if job is not None and not job.state.ended and self._depends_on_doubt(job):
            self._doubt([job_id])

    def _depends_on_doubt(self, job: JobRecord) -> bool:
        """Return True if what a job depends on is lost, or in doubt: nothing that an unended job needs is deleted."""
        return any(one in self.doubtful or self.table.jobs.find(one) is None for one in job.dependencies)

    def _claimed(self, entry: kinds.ClaimedEntry) -> None:
        job = self._unended_job(entry.job_id, "running")
        if job is None:
            self._tokens[entry.token] = entry.job_id
        elif entry.token.int not in self.table.jobs.attempts:
            if job.running is not None:
                job.running.state = AttemptState.SUPERSEDED
            self.table.apply(entry)
            self.doubtful.discard(job.id)

    def _attached(self, entry: kinds.AttachedEntry) -> None:
        self._on_attempt(entry.token, entry)

    def _finished(self, entry: kinds.FinishedEntry) -> None:
        if not self._on_attempt(entry.token, entry, "failed" if entry.failed else "finished"):
            self.unknown_attempts += entry.token not in self._tokens

    def _requeued(self, entry: kinds.RequeuedEntry) -> None:
        self._on_attempt(entry.token, entry, "requeued")

    def _on_attempt(self, token: UUID, entry: JournalEntry, state: str | None = None) -> bool:
        """Apply an entry about an attempt that runs, and return False if it is not known."""
        attempt = self.table.jobs.attempts.get(token.int)
        if attempt is not None and attempt.state is AttemptState.RUNNING:
            self.table.apply(entry)
            job = attempt.job
            if attempt.state is AttemptState.RUNNING or job.state.ended or job.id not in self._uncounted:
                self.doubtful.discard(job.id)
            else:
                self._doubt([job.id])  # this may have been its last retry, and have ended it
        elif token in self._tokens and state is not None:
            self._lose(self._tokens[token], state=state)
        return attempt is not None

    def _canceled(self, entry: kinds.CanceledEntry) -> None:
        job = self._unended_job(entry.job_id, "canceled")
        if job is not None:
            self.table.apply(entry)
            self.doubtful.discard(job.id)

    def _deleted(self, entry: kinds.DeletedEntry) -> None:
        for job_id in entry.job_ids:
            self.lost.pop(job_id, None)
            self._delete(job_id)

    def _moved(self, entry: kinds.MovedEntry) -> None:
        if self.table.jobs.find(entry.job_id) is not None:
            self.table.apply(entry)
        elif entry.job_id not in self.lost:
            self._lose(entry.job_id)

    def _ignored(self, entry: JournalEntry) -> None:
        """Do nothing: ends are propagated by `_settle`."""

    def _delete(self, job_id: UUID) -> None:
        """Delete a job. If its end is not known, it was in a gap: only ended jobs are deleted."""
        job = self.table.jobs.thaw(job_id)
        if job is None:
            return
        if not job.state.ended:
            counts = self.table.jobs.counts
            counts[job.state] -= 1
            counts[JobState.CANCELED] += 1
            job.state = JobState.CANCELED
            for one in set(job.dependencies):
                dependency = self.table.jobs.live.get(one.int)
                if dependency is not None:
                    dependency.needed -= 1
        self.doubtful.discard(job_id)
        self.table.apply(kinds.DeletedEntry([job_id]))

    def _unended_job(self, job_id: UUID, state: str) -> JobRecord | None:
        job = self.table.jobs.live.get(job_id.int)
        if job is None and self.table.jobs.find(job_id) is None:
            self._lose(job_id, state=state)
        return None if job is None or job.state.ended else job

    def _doubt(self, job_ids: Iterable[UUID]) -> None:
        ids = set(job_ids)
        self.doubtful |= ids
        self._uncounted |= ids

    def _lose(self, job_id: UUID, type: str | None = None, state: str | None = None) -> None:
        """Note what an entry says about a job that is not in the table."""
        job = self.lost.setdefault(job_id, LostJob(job_id))
        job.type, job.state = type or job.type, state or job.state

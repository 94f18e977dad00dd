"""The writing methods of the contract on the table: each decides which entries are written, and applies them. No I/O.

They work in slices, so that other tasks get a turn however many items and edges there are. What an entry changes is in
`table`, what happens to a job in `composerd.driver.transitions`.
"""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from composerd.driver import Batch, transitions
from composerd.driver.attachments import difference, exceeded
from composerd.driver.clock import microseconds, seconds
from composerd.driver.transitions import RequeueCause
from composerd.errors import ComposerdError, JobEnded, JobNotEnded, JobNotFound
from composerd.models import (
    UNKNOWN_ATTEMPT,
    Attached,
    Attachment,
    Attempt,
    AttemptState,
    Claim,
    Finished,
    Job,
    JobState,
    News,
    Outcome,
    Touch,
    Verdict,
)
from composerd_fs.journal import entries
from composerd_fs.journal.converting import artifact_fields
from composerd_fs.journal.entries import Payload
from composerd_fs.journal.frames import length_of
from composerd_fs.state.changes import Slices
from composerd_fs.state.job import AttemptRecord
from composerd_fs.state.storing import STEPS_TO_UNPACK, Storing

JOBS_OF_AN_ADVANCE = 200
"""The most delayed jobs and ended leases of one flush."""

SORTED_AT_ONCE = 4000
"""Number of jobs that are sorted by the end of their retention before other tasks get a turn."""

STEPS_OF_A_PURGE = 2000
"""Number of steps after which a purge deletes no further job in its flush."""


class Claims(NamedTuple):
    """The answer to claims, before the args are read."""

    attempts: Sequence[AttemptRecord | None]
    payloads: Sequence[Payload | None]
    """The args of their jobs."""


class CopiedPayloads(NamedTuple):
    """The payloads of a job that were read to be written again; None for one that is not copied."""

    job_id: UUID
    args: bytes | None
    result: bytes | None
    args_location: int | None
    result_location: int | None


class Commands(Storing):
    """All writing methods on one table."""

    def _job(self, job_id: UUID) -> Job:
        job = self._jobs.find(job_id)
        assert job is not None, "the job has just been found"
        shown = job.job(self._jobs.dependents_of(job).ids)
        self._table.steps += len(shown.dependents) // 2
        return shown

    # Attempts.

    def claim(self, requests: Sequence[Claim], max_bytes: int) -> Slices[Claims]:
        """Begin attempts at ready jobs; see `Driver.claim`."""
        attempts: list[AttemptRecord | None] = []
        payloads: list[Payload | None] = []
        size = 0
        now = self._time.observe()
        for request in requests:
            if attempts and size >= max_bytes:
                break
            attempt = self._jobs.find_attempt(request.token)
            if attempt is None:
                job = self._table.ready.take(request.keys)
                if job is not None:
                    handover = request.handover
                    self._write(
                        entries.ClaimedEntry(
                            now,
                            job.id,
                            request.token,
                            microseconds(request.lease),
                            None if handover is None else microseconds(handover),
                            request.worker_id,
                        )
                    )
                    attempt = job.attempts[-1]
            elif attempt.state is not AttemptState.RUNNING:
                attempt = None
            args = None if attempt is None else attempt.job.args
            if args is not None:
                size += length_of(args) if isinstance(args, int) else len(args)
            attempts.append(attempt)
            payloads.append(args)
            if self._table.pauses():
                yield
        return Claims(attempts, payloads)

    def attach(self, attachments: Sequence[Attachment]) -> Slices[list[Attached]]:
        """Add files to running attempts; see `Driver.attach`."""
        answers = []
        for one in attachments:
            attempt = self._jobs.find_attempt(one.token)
            replaced = refused = None
            if attempt is not None and attempt.state is AttemptState.RUNNING:
                files = attempt.artifacts or {}
                before = files.get(one.artifact.name)
                refused = exceeded(files, one)
                if before != one.artifact and refused is None:
                    self._write(entries.AttachedEntry(attempt.token, artifact_fields(one.artifact)))
                    replaced = None if before is None or before.location == one.artifact.location else before.location
                self._renew(attempt)
            if self._table.pauses():
                yield
            answers.append(Attached(_attempt(attempt), replaced, refused))
        return answers

    def finish(self, outcomes: Sequence[Outcome], digests: Sequence[bytes]) -> Slices[list[Finished]]:
        """End running attempts with their outcomes, whose results have these digests; see `Driver.finish`."""
        answers = []
        for outcome, digest in zip(outcomes, digests, strict=True):
            attempt = self._jobs.find_attempt(outcome.token)
            verdict = transitions.verdict(attempt, digest)
            if attempt is None:
                answers.append(Finished(verdict))
                continue
            differs = None
            if attempt.state is AttemptState.RUNNING and outcome.artifacts is not None:
                self._table.steps += len(outcome.artifacts)
                differs = difference(attempt.artifacts or {}, outcome.artifacts)
            if differs is not None:
                verdict = Verdict.DIFFERS
            elif attempt.state is AttemptState.RUNNING:
                self._progress.end(attempt.job)
                result = self._store(outcome.result)
                self._write(entries.FinishedEntry(self._now(), attempt.token, result, digest, outcome.failed))
            answers.append(Finished(verdict, attempt.job.id, differs))
            if self._table.pauses():
                yield
        self._propagate()
        return answers

    def release(self, tokens: Sequence[UUID]) -> Slices[list[Attempt]]:
        """Requeue the jobs of running attempts; see `Driver.release`."""
        answers = []
        for token in tokens:
            attempt = self._jobs.find_attempt(token)
            answers.append(_attempt(attempt))
            if attempt is not None and attempt.state is AttemptState.RUNNING:
                self._requeue(attempt, RequeueCause.RELEASED)
            if self._table.pauses():
                yield
        self._propagate()
        return answers

    def _requeue(self, attempt: AttemptRecord, cause: RequeueCause) -> None:
        self._progress.end(attempt.job)
        self._write(entries.RequeuedEntry(self._now(), attempt.token, cause))

    # Ends of jobs.

    def cancel(self, job_ids: Sequence[UUID]) -> Slices[list[Job | ComposerdError]]:
        """End jobs and all that depend on them; see `Driver.cancel`."""
        answers: list[Job | ComposerdError] = []
        for job_id in job_ids:
            job = self._jobs.find(job_id)
            if job is None:
                answers.append(JobNotFound())
                continue
            if not job.state.ended:
                self._progress.end(job)
                self._write(entries.CanceledEntry(self._now(), job.id))
            canceled = job.state is JobState.CANCELED
            answers.append(self._job(job_id) if canceled else JobEnded(state=job.state.value))
            if self._table.pauses():
                yield
        self._propagate()
        return answers

    def delete(self, job_ids: Sequence[UUID]) -> Slices[list[Job | None | ComposerdError]]:
        """Delete ended jobs; see `Driver.delete`."""
        answers: list[Job | None | ComposerdError] = []
        for job_id in job_ids:
            job = self._jobs.find(job_id)
            if job is None:
                answers.append(None)
            elif not transitions.deletable(job.state, needed=job.needed > 0):
                answers.append(JobNotEnded())
            else:
                answers.append(self._job(job_id))
                self._write(entries.DeletedEntry([job.id]))
            if self._table.pauses():
                yield
        return answers

    # Time.

    def advance(self, limit: int) -> Slices[list[UUID]]:
        """Process up to `limit` things that are due, and return the jobs concerned; see `Driver.advance`."""
        table = self._table
        now = self._time.observe()
        done: list[UUID] = []
        most = min(limit, JOBS_OF_AN_ADVANCE)
        while len(done) < most and (job := table.delays.pop(now)) is not None:
            table.start_delayed(job)
            done.append(job.id)
            if table.pauses():
                yield
        while len(done) < most and (attempt := table.leases.pop(now)) is not None:
            cause = transitions.expiry(attempt, now)
            assert cause is not None, "an attempt that the index gives has expired"
            self._requeue(attempt, cause)
            done.append(attempt.job.id)
            if table.pauses():
                yield
        self._propagate(limit)
        due = [at for at in (table.delays.next(), table.leases.next()) if at is not None]
        table.due_at = now if len(done) >= most else min(due, default=None)
        return done

    def purge(self, limit: int) -> Slices[list[UUID]]:
        """Delete up to `limit` jobs whose retention is over, and return them; see `Driver.purge`."""
        table = self._table
        now = self._time.observe()
        kept_before = self._time.keeper.kept_before(now)
        expiries = self._jobs.expiries
        while expiries.sort(SORTED_AT_ONCE):
            yield
        expiries.keep_before(kept_before)
        purged: dict[UUID, None] = {}
        found: list[UUID] = []
        work = 0
        while len(purged) < limit and (not purged or work < STEPS_OF_A_PURGE):
            sequence = expiries.pop(now)
            if sequence is None:
                break
            job = self._jobs.at(sequence)
            if job is not None and job.finished_at is not None and job.expires_at is not None:
                if job.finished_at < kept_before:
                    expiries.set_aside(job.expires_at, sequence)
                elif transitions.deletable(job.state, needed=job.needed > 0) and job.id not in purged:
                    purged[job.id] = None
                    found.append(job.id)
                # else it comes back when no unended job needs it any more
                work += STEPS_TO_UNPACK + job.edges // STEPS_TO_UNPACK
                table.steps += job.edges // STEPS_TO_UNPACK
            table.steps += STEPS_TO_UNPACK
            if table.pauses():
                if found:
                    self._write(entries.DeletedEntry(found))
                    found = []
                yield
        if found:
            self._write(entries.DeletedEntry(found))
        return list(purged)

    # Compaction.

    def move(self, copied: Sequence[CopiedPayloads]) -> Slices[list[UUID]]:
        """Write payloads again, unless their jobs have other payloads by now, and return those that were written."""
        moved = []
        for one in copied:
            job = self._jobs.find(one.job_id)
            if job is None:
                continue
            args = self._store(one.args) if one.args is not None and job.args == one.args_location else None
            result = self._store(one.result) if one.result is not None and job.result == one.result_location else None
            if args is not None or result is not None:
                self._write(entries.MovedEntry(one.job_id, args, result))
                moved.append(one.job_id)
            if self._table.pauses():
                yield
        return moved

    # Heartbeats. They are not written: a crash only lengthens a lease.

    def touch(self, touches: Sequence[Touch]) -> Batch[Attempt]:
        """Renew running attempts; see `Driver.touch`."""
        answers = []
        due_at: int | None = None
        for one in touches:
            attempt = self._jobs.find_attempt(one.token)
            answers.append(_attempt(attempt))
            if attempt is None or attempt.state is not AttemptState.RUNNING:
                continue
            if self._renew(attempt, confirm=one.confirm) and (due_at is None or attempt.deadline < due_at):
                due_at = attempt.deadline
            if one.partial is not None:
                self._progress.keep(attempt.job, one.partial)
        if due_at is None:
            return Batch(answers)
        return Batch(answers, News(due_in=seconds(due_at - self._now())))

    def _renew(self, attempt: AttemptRecord, *, confirm: bool = True) -> bool:
        """Renew a running attempt, and return True if it may end earlier than before.

        That is so if its handover was longer than its lease, and if it got a full lease instead of its handover.
        """
        before = attempt.deadline
        if confirm:
            transitions.renew(attempt, self._now())
        else:
            transitions.restart_handover(attempt, self._now())
        if attempt.deadline >= before:
            return False
        self._table.leases.add(attempt.deadline, attempt)
        return True


def _attempt(attempt: AttemptRecord | None) -> Attempt:
    return UNKNOWN_ATTEMPT if attempt is None else attempt.attempt()

"""The table: what each entry of the journal changes about jobs and attempts.

Live and replayed entries go through the same `apply`. `composerd.driver.transitions` decides what happens to a job, and
`commands` decides which entries are written. What follows from each transition is in `changes`.
"""

from collections.abc import Callable, Sequence

from composerd.driver import transitions
from composerd.driver.transitions import NOTHING
from composerd.models import JobState
from composerd_fs.journal import entries
from composerd_fs.journal.converting import add_history, artifact_of, submitted_record
from composerd_fs.journal.entries import JobFields, JournalEntry, Payload
from composerd_fs.state.changes import Changes
from composerd_fs.state.job import AttemptRecord, JobRecord
from composerd_fs.state.propagated import Unpropagated
from composerd_fs.state.usage import size_of_files


class Table(Changes):
    """The jobs of the storage, and the changes that entries make to them."""

    def __init__(self) -> None:
        super().__init__()
        self._apply: dict[type, Callable[..., None]] = {
            entries.EnqueuedEntry: self._enqueued,
            entries.ClaimedEntry: self._claimed,
            entries.AttachedEntry: self._attached,
            entries.FinishedEntry: self._finished,
            entries.RequeuedEntry: self._requeued,
            entries.CanceledEntry: self._canceled,
            entries.DeletedEntry: self._deleted,
            entries.RestoredEntry: self._restored,
            entries.PropagatedEntry: self._propagated,
            entries.PropagatedToEntry: self._propagated_to,
            entries.MovedEntry: self._moved,
        }

    def apply(self, entry: JournalEntry) -> None:
        """Change the table as an entry says. `commands` must have decided on the entry, now or before a restart."""
        self._apply[type(entry)](entry)

    # The entries.

    def _enqueued(self, entry: entries.EnqueuedEntry) -> None:
        for fields in entry.jobs:
            job = self._new_job(fields, entry.at)
            dependencies: Sequence[JobRecord] = ()
            if job.dependencies:
                found = [self.jobs.thaw(job_id) for job_id in dict.fromkeys(job.dependencies)]
                dependencies = [one for one in found if one is not None]
                for dependency in dependencies:
                    self._save(dependency)
                    self.jobs.connect(job, dependency)
            effects = transitions.submit(job, dependencies, entry.at)
            self._update(job, JobState.WAITING, effects, entry.at)

    def _claimed(self, entry: entries.ClaimedEntry) -> None:
        job = self.jobs.live[entry.job_id.int]
        self._save(job)
        before = job.state  # waiting in a replay, if its time has come: that is not written
        confirm = entry.handover is not None
        attempt = AttemptRecord(entry.token, job, entry.lease, entry.handover, entry.worker_id, confirm)
        transitions.begin(job, attempt, entry.at)
        self.jobs.remember(job, attempt)
        expires_at = transitions.expires_at(attempt)
        self.leases.add(expires_at, attempt)
        if self.due_at is None or expires_at < self.due_at:
            self.due_at = expires_at
        self._update(job, before, NOTHING, entry.at)
        if self._replaying and before is JobState.READY:
            self.ready.left(job)  # before the restart a claim took it out

    def _attached(self, entry: entries.AttachedEntry) -> None:
        attempt = self.jobs.attempts[entry.token.int]
        self._save(attempt.job)
        artifact = artifact_of(entry.artifact)
        before = (attempt.artifacts or {}).get(artifact.name)
        self.jobs.count_files(attempt.job, artifact.size - (0 if before is None else before.size))
        attempt.artifacts = {**(attempt.artifacts or {}), artifact.name: artifact}
        attempt.confirmed = True

    def _finished(self, entry: entries.FinishedEntry) -> None:
        attempt = self.jobs.attempts[entry.token.int]
        job = attempt.job
        self._save(job)
        effects = transitions.finish(
            job,
            attempt,
            failed=entry.failed,
            digest=entry.digest,
            now=entry.at,
            next_position=self._next_position,
        )
        self._update(job, JobState.RUNNING, effects, entry.at, self._absolute(entry.result))

    def _requeued(self, entry: entries.RequeuedEntry) -> None:
        attempt = self.jobs.attempts[entry.token.int]
        job = attempt.job
        self._save(job)
        effects = transitions.requeue(
            job,
            attempt,
            entry.cause,
            now=entry.at,
            next_position=self._next_position,
        )
        self._update(job, JobState.RUNNING, effects, entry.at)

    def _canceled(self, entry: entries.CanceledEntry) -> None:
        job = self.jobs.live[entry.job_id.int]
        self._save(job)
        before = job.state
        self._update(job, before, transitions.cancel(job, job.running, entry.at), entry.at)

    def _deleted(self, entry: entries.DeletedEntry) -> None:
        jobs = self.jobs
        for job_id in entry.job_ids:
            job = jobs.thaw(job_id)
            assert job is not None, "a job that is deleted is stored"
            self._save(job)
            self.steps += job.edges // 4
            jobs.delete(job)
            self.undo.add((setattr, self, "freed_bytes", self.freed_bytes))
            self.freed_bytes += jobs.count_bytes(job.args, -1) + jobs.count_bytes(job.result, -1)
            for dependency_id in set(job.dependencies):
                dependency = jobs.live.get(dependency_id.int)
                if dependency is not None and dependency.dependents is not None:
                    self._save(dependency)
                    dependency.dependents.discard(job.sequence)
                    jobs.rests(dependency)
                    self.undo.add((dependency.dependents.add, job.sequence))

    def _restored(self, entry: entries.RestoredEntry) -> None:
        job = self._new_job(entry.job, entry.queued_at)
        state = JobState(entry.state)
        for job_id in dict.fromkeys(job.dependencies):
            dependency = self.jobs.thaw(job_id)
            if dependency is None:
                continue
            self._save(dependency)
            self.jobs.connect(job, dependency, needs=not state.ended)
            if not dependency.state.ended:
                job.pending += 1
            elif state is JobState.WAITING:  # its end may not have been propagated in the storage that the job is from
                job.pending += 1
                self._unpropagated.append(Unpropagated(dependency, 1, job.sequence + 1, job.sequence, [job]))
                self.undo.add((self._unpropagated.pop,))
        add_history(job, entry)
        self.jobs.add_attempts(job)
        self.jobs.count_files(job, size_of_files(job.files))
        if job.running is not None:
            transitions.resume(job.running, entry.at)
        job.result = self._absolute(entry.result)
        self.jobs.count_bytes(job.result)
        if state.ended:
            self.jobs.rests(job)
        job.state = state
        self._update(job, JobState.WAITING, NOTHING, entry.at)
        self.index(job)

    def _propagated(self, entry: entries.PropagatedEntry) -> None:
        self.propagate_count(entry.dependents)

    def _propagated_to(self, entry: entries.PropagatedToEntry) -> None:
        for lowest in entry.lowest:
            self.propagate_to(lowest)

    def _moved(self, entry: entries.MovedEntry) -> None:
        job = self.jobs.thaw(entry.job_id)
        assert job is not None, "a payload that is moved belongs to a job"
        self._save(job)
        if entry.args is not None:
            self.jobs.count_bytes(job.args, -1)
            job.args = self._absolute(entry.args)
            self.jobs.count_bytes(job.args)
        if entry.result is not None:
            self.jobs.count_bytes(job.result, -1)
            job.result = self._absolute(entry.result)
            self.jobs.count_bytes(job.result)

    # Steps that several entries share.

    def _new_job(self, fields: JobFields, at: int) -> JobRecord:
        self.last_sequence += 1
        job = submitted_record(fields, self.last_sequence, at, self.jobs.interning)
        job.position = self._next_position()
        job.args = self._absolute(fields.args)
        self.jobs.count_bytes(job.args)
        self.jobs.add(job)
        return job

    def _next_position(self) -> int:
        self.last_position += 1
        return self.last_position

    def _absolute(self, payload: Payload | None) -> Payload | None:
        return self.base + payload if isinstance(payload, int) else payload

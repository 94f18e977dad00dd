"""The writing methods that store jobs: submissions, and jobs from another storage. The others are in `commands`."""

from collections.abc import Callable, Generator, Sequence
from typing import TypeVar
from uuid import UUID

from composerd.driver import StoredJob
from composerd.driver.submissions import plan, planned_in_steps
from composerd.errors import ComposerdError
from composerd.models import (
    MAX_STEP,
    Enqueued,
    Job,
    NewJob,
)
from composerd_fs.journal import entries
from composerd_fs.journal.converting import job_fields, restored_entry
from composerd_fs.journal.entries import JobFields, JournalEntry, Payload
from composerd_fs.state.changes import Slices
from composerd_fs.state.progress import Progress
from composerd_fs.state.table import Table
from composerd_fs.state.timekeeping import Timekeeping

JOBS_OF_AN_ENTRY = 100
"""About how many jobs and dependencies of a submission are stored between two pauses."""

STEPS_TO_UNPACK = 8
"""About how many steps it takes to unpack an archived job; an edge of it takes an eighth of one."""

T = TypeVar("T")


class Storing:
    """The methods that store jobs, and what all writing methods share.

    `store` puts a payload into the flush and returns the value that an entry has in its place; `record` puts an entry
    into the flush.
    """

    def __init__(
        self,
        table: Table,
        time: Timekeeping,
        store: Callable[[bytes], Payload],
        record: Callable[[JournalEntry], None],
    ) -> None:
        self._table = table
        self._jobs = table.jobs
        self._time = time
        self._now = time.now
        self._store = store
        self._record = record
        self._progress = Progress(table.jobs, table.undo)

    def _write(self, entry: JournalEntry) -> None:
        self._table.apply(entry)
        self._record(entry)

    def _propagate(self, limit: int = MAX_STEP) -> None:
        """Propagate ends to up to `limit` dependents, and record to which: later entries are decided after that."""
        ends = self._table.propagate(min(limit, MAX_STEP))
        whole = [one.whole for one in ends if one.whole is not None]
        if ends and len(whole) == len(ends):
            self._record(entries.PropagatedEntry(sum(whole)))
        elif ends:
            self._record(entries.PropagatedToEntry([one.lowest for one in ends]))

    # Submissions.

    def enqueue(self, submissions: Sequence[Sequence[NewJob]]) -> Slices[list[Enqueued | ComposerdError]]:
        """Store submissions; see `Driver.enqueue`."""
        answers: list[Enqueued | ComposerdError] = []
        for submission in submissions:
            try:
                answers.append((yield from self._enqueue(submission)))
            except ComposerdError as exc:
                answers.append(exc)
        self._propagate()
        return answers

    def _enqueue(self, submission: Sequence[NewJob]) -> Slices[Enqueued]:
        table = self._table
        for job in submission:
            if job.dependencies:
                yield from self._thaw(job.dependencies)
        find, find_key = self._jobs.find, self._jobs.find_key
        if len(submission) == 1:
            planned = plan(submission, find, find_key)
        else:
            planned = yield from self._paused(planned_in_steps(submission, find, find_key))
        now = self._now()
        fields: list[JobFields] = []
        size = 0
        for new, dependencies in planned.new:
            fields.append(job_fields(new, dependencies, now, self._store))
            size += 1 + len(dependencies)
            if size >= JOBS_OF_AN_ENTRY:
                self._write(entries.EnqueuedEntry(now, fields))  # one of several in one frame
                fields = []
                size = 0
                if table.pauses():
                    yield
        if fields:
            self._write(entries.EnqueuedEntry(now, fields))
        jobs: list[Job] = []
        for job_id, _ in planned.answer:
            record = self._jobs.find(job_id)
            assert record is not None, "the job has just been stored or found"
            jobs.append(record.job())
            table.steps += 1
            if table.pauses():
                yield
        return Enqueued(tuple(jobs), tuple([created for _, created in planned.answer]))

    def _thaw(self, job_ids: Sequence[UUID]) -> Slices[None]:
        """Take jobs out of the archive that will be read more than once, or changed."""
        table, live = self._table, self._jobs.live
        for job_id in job_ids:
            table.steps += 1
            if job_id.int not in live:
                job = self._jobs.thaw(job_id)
                table.steps += STEPS_TO_UNPACK if job is None else STEPS_TO_UNPACK + job.edges // STEPS_TO_UNPACK
            if table.pauses():
                yield

    def _paused(self, steps: Generator[int, None, T]) -> Slices[T]:
        """Do work that says at each `yield` how many steps it has made since the last one."""
        while True:
            try:
                self._table.steps += next(steps)
            except StopIteration as stop:
                answer: T = stop.value
                return answer
            if self._table.pauses():
                yield

    def load(self, jobs: Sequence[StoredJob]) -> Slices[list[UUID]]:
        """Store jobs from another storage, and return those that were not stored yet; see `Driver.load`."""
        loaded = []
        for stored in jobs:
            if self._jobs.find(stored.new.id) is None:
                self._write(restored_entry(stored, self._now(), self._store))
                loaded.append(stored.new.id)
            if self._table.pauses():
                yield
        self._propagate()
        return loaded

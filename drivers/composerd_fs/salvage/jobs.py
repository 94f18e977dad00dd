"""Takes the jobs out of a damaged storage, one by one, and says of each what is missing."""

import os
from collections.abc import Iterator
from contextlib import closing
from uuid import UUID

from msgspec.structs import replace

from composerd.directory import Directory
from composerd.driver import Damage, StoredJob, transitions
from composerd.models import JobState
from composerd_fs.journal import frames
from composerd_fs.journal.entries import Payload
from composerd_fs.journal.files import JournalFiles
from composerd_fs.journal.io import read_exactly
from composerd_fs.journal.layout import segment_name
from composerd_fs.salvage.history import History
from composerd_fs.salvage.reading import DamagedJournal, Frame
from composerd_fs.state.job import JobRecord

AT_ONCE = 100
"""Maximum number of jobs that are returned at once."""

BYTES_AT_ONCE = 16 * 1024 * 1024
"""Size in bytes of args and results from which on no further jobs are returned at once."""

RESULT_LOST = 10
"""The id of the `job_error` of a job whose result is lost."""

_DOUBTFUL = "its history has a gap: it may have run, ended or been deleted, so it is stored as canceled"
_DOUBTFUL_END = "its history has a gap: it ended because of a job that it depends on, unless it had ended before that"
_ARGS_LOST = "its args are damaged or missing, so it is stored as canceled"
_ARGS_OF_ENDED = "its args are damaged or missing"
_RESULT_LOST = "its result is damaged or missing, so it is stored as failed"
_WAITS = "it waits for a job that is stored as canceled, so it is too"
_LOST = "it is lost: the part of the journal with its submission is damaged or missing"


class Salvage:
    """The salvage of one journal, which no process writes to. It blocks, and is called in a thread."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._history = History()
        self._problems: dict[UUID, str] = {}
        """The faults in the history or the args of jobs, and the way in which they are stored because of that."""

    def read(self) -> list[Damage]:
        """Read the journal, cancel the jobs that must not run, and return what is damaged in the files.

        Raises `StorageUnusable` if it is of a newer format.
        """
        history = self._history
        with closing(JournalFiles(self._directory)) as files:
            files.look()
            journal = DamagedJournal(files)
            for found in journal.checkpoint():
                if isinstance(found, Frame):
                    history.restore(found.entries)
                else:
                    history.lose_checkpoint()
            history.restored()
            for found in journal.segments():
                if isinstance(found, Frame):
                    history.apply(found.base, found.entries)
                else:
                    history.lose(found.unproven)
        self._cancel()
        damage = [Damage(problem=one) for one in journal.damage]
        if history.unknown_attempts:
            damage.append(Damage(problem=f"{history.unknown_attempts} results are lost whose jobs are not known"))
        if files.damaged_marker is not None:
            problem = f"the end of the journal: the marker of a clean stop, {files.damaged_marker}, is damaged"
            damage.append(Damage(problem=problem, harmless=True))
        if journal.incomplete is not None:
            damage.append(Damage(problem=journal.incomplete, harmless=True))
        return damage

    def _cancel(self) -> None:
        history = self._history
        unended = {job.id: job for job in history.unended()}
        self._problems = {one: _DOUBTFUL if one in unended else _DOUBTFUL_END for one in history.doubtful}
        for job in unended.values():
            if job.id not in self._problems and isinstance(job.args, int) and self._payload(job.args) is None:
                self._problems[job.id] = _ARGS_LOST
        for job_id in history.cancel([one for one in self._problems if one in unended]):
            self._problems[job_id] = _WAITS

    def jobs(self) -> Iterator[list[StoredJob | Damage]]:
        """Yield the jobs, oldest submission first, some at a time, each after what is missing of it."""
        jobs = self._history.table.jobs
        some: list[StoredJob | Damage] = []
        count = size = 0
        for chunk in jobs.by_sequence.chunks():
            for sequence, _ in jobs.by_sequence.chunk(chunk):
                job = jobs.at(sequence)
                assert job is not None, "the chunk has a job of this sequence"
                found = self._stored(job)
                some += found
                stored = found[-1]
                assert isinstance(stored, StoredJob)
                count += 1
                size += len(stored.new.args or b"") + len(stored.result or b"")
                if count >= AT_ONCE or size >= BYTES_AT_ONCE:
                    yield some
                    some, count, size = [], 0, 0
        yield some

    def _stored(self, job: JobRecord) -> list[StoredJob | Damage]:
        problems = [self._problems[job.id]] if job.id in self._problems else []
        args = self._payload(job.args)
        if args is None and job.args is not None and _ARGS_LOST not in problems:
            problems.append(_ARGS_OF_ENDED)
        result = self._payload(job.result)
        stored = job.stored(self._history.table.jobs.dependents_of(job).ids, args, result)
        if result is None and job.state.has_result:
            problems.append(_RESULT_LOST)
            reason = "The result of this job was lost in a damaged storage."
            result = transitions.job_error(RESULT_LOST, reason, None)
            stored = replace(stored, job=replace(stored.job, state=JobState.FAILED), result=result)
        state = stored.job.state.value
        return [*(Damage(problem=one, job_id=job.id, type=job.key.type, state=state) for one in problems), stored]

    def lost(self) -> list[Damage]:
        """Return the jobs of which only traces were found."""
        found = self._history.lost.values()
        return [Damage(problem=_LOST, job_id=one.id, type=one.type, state=one.state, lost=True) for one in found]

    def _payload(self, payload: Payload | None) -> bytes | None:
        """Return a payload, or None if there is none or if it cannot be read."""
        if not isinstance(payload, int):
            return payload
        segment, offset, length = frames.span_of(payload)
        try:
            with self._directory.opened(segment_name(segment), os.O_RDONLY) as descriptor:
                return frames.unpack_payload(read_exactly(descriptor, length, offset))
        except OSError:
            return None

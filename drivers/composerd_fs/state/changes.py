"""The changes that follow from each transition of a job: counts, indexes, news, and the steps that take it back.

The ends of jobs are propagated to their dependents here, in bounded steps; the result does not depend on how the steps
are cut. The module `table` has the transitions.
"""

from collections import deque
from collections.abc import Callable, Generator
from typing import TypeAlias, TypeVar
from uuid import UUID

import msgspec
from msgspec.structs import replace

from composerd.driver import transitions
from composerd.driver.clock import seconds
from composerd.driver.transitions import Effects
from composerd.models import NO_NEWS, AttemptState, JobState, Key, News
from composerd_fs.journal.entries import Payload
from composerd_fs.state.indexes import ReadyIndex, Timers
from composerd_fs.state.job import AttemptRecord, JobRecord
from composerd_fs.state.jobs import Jobs
from composerd_fs.state.propagated import Propagated, Unpropagated
from composerd_fs.state.undo import Undo
from composerd_fs.state.usage import size_of, size_of_files

SLICE = 500
"""Number of steps after which other tasks get a turn. A step is a change of a job or an edge, and takes up to 8 µs."""

PROPAGATION = 500
"""Number of steps of a flush after which no further dependent is updated in it."""


_WAITING, _READY = JobState.WAITING, JobState.READY

A = TypeVar("A")

Slices: TypeAlias = Generator[None, None, A]
"""Work that lets other tasks have a turn at each `yield`, and returns the answer. The table is not used meanwhile."""


class Changes:
    """The jobs of the storage, and what follows from their transitions.

    It is in memory and does no I/O. Changes belong to the current flush until `commit`; `roll_back` takes them back.
    """

    def __init__(self) -> None:
        self.undo = Undo()
        self.jobs = Jobs(self.undo)
        self.ready = ReadyIndex()
        self.delays: Timers[JobRecord] = Timers(_starts_at)
        self.leases: Timers[AttemptRecord] = Timers(_expires_at)
        self.base = 0
        """The number that is added to the locations in the entries of a flush to make them absolute."""
        self.last_sequence = 0
        self.last_position = 0
        self.latest = 0
        """The latest time in an entry."""
        self.freed_bytes = 0
        """The bytes of payloads that deleted jobs had."""
        self.due_at: int | None = None
        """Time at which `advance` has something to do because of the changes since the last news."""
        self.before_change: Callable[[JobRecord], None] | None = None
        """Called with each job before it changes, while a checkpoint is taken."""
        self._replaying = True
        self._saved: set[int] = set()
        """The jobs that are to be restored if the flush is refused, by identity."""
        self.steps = 0
        """The number of steps of the flush so far."""
        self._pause_at = SLICE
        self._steps_of_propagation = 0
        self._unpropagated: deque[Unpropagated] = deque()
        """Ended jobs whose ends are still to be propagated, in the order in which they ended."""
        self._not_ready: list[JobRecord] = []
        """The jobs that are not ready after all, because the flush was refused."""
        self._ready_news: dict[Key, int] = {}
        self._ended_news: list[UUID] = []
        self._requeued_news: list[UUID] = []
        self._unanswered_news: list[UUID] = []

    # Flushes, and the start.

    def take_news(self, now: int) -> News:
        """Return the changes since the last call that waiting requests may be interested in."""
        due_at = self.due_at
        if due_at is None and not (self._ready_news or self._ended_news or self._requeued_news or self._unpropagated):
            return NO_NEWS
        news = News(
            ready=self._ready_news,
            ended=tuple(self._ended_news),
            requeued=tuple(self._requeued_news),
            due_in=0.0 if self._unpropagated else None if due_at is None else max(seconds(due_at - now), 0.0),
            unanswered=tuple(self._unanswered_news),
        )
        self._ready_news, self._ended_news, self._requeued_news, self.due_at = {}, [], [], None
        self._unanswered_news = []
        return news

    def commit(self) -> None:
        """Keep the changes of the flush, which is on stable storage. `Jobs.archive_resting` may follow."""
        self.undo.clear()
        self._end_flush()

    def roll_back(self) -> None:
        """Take back the changes of the flush, which is not on stable storage."""
        self.undo.roll_back()
        for job in self._not_ready:
            self.ready.left(job)
        self._not_ready.clear()
        self._end_flush()
        self.take_news(0)

    def _end_flush(self) -> None:
        self._saved.clear()
        self.steps = self._steps_of_propagation = 0
        self._pause_at = SLICE

    def pauses(self) -> bool:
        """Return True if the changes have taken so long since the last pause that other tasks should get a turn."""
        if self.steps < self._pause_at:
            return False
        self._pause_at = self.steps + SLICE
        return True

    def replayed(self) -> None:
        """Keep the changes of replayed entries, and forget their news."""
        self.commit()
        self.jobs.archive_resting()
        self.take_news(0)

    def restart(self, now: int, jump: int = 0) -> None:
        """Finish a replay: start delayed jobs, and give every running attempt a full lease.

        `jump` is the time by which the clock may have jumped since the last entry.
        """
        self._shorten_backoffs(now)
        while (job := self.delays.pop(now)) is not None:  # that their time had come was not written
            self.start_delayed(job)
        for attempt in self.jobs.attempts.values():
            if attempt.state is AttemptState.RUNNING:
                transitions.resume(attempt, now, jump)
                attempt.handover = None  # nothing is being delivered any more
                self.leases.add(transitions.expires_at(attempt), attempt)
        self._replaying = False
        self.replayed()

    def grant_grace(self, now: int, jump: int = 0) -> None:
        """Give every running attempt a full lease, because the clock jumped or nobody could renew it."""
        for attempt in {id(one): one for one in self.leases}.values():
            transitions.grant_grace(attempt, now, jump)
        self.leases.rebuild()
        if jump < 0:
            self._shorten_backoffs(now)

    def _shorten_backoffs(self, now: int) -> None:
        """Let no job wait for longer than its backoff. No entry is written for it: a start does the same."""
        for job in [one for one in self.delays if one.failures]:
            self._save(job)
            if transitions.shorten_backoff(job, now) and job.not_before is not None:
                self.delays.add(job.not_before, job)

    def index(self, job: JobRecord) -> None:
        """Put a job into the index for its state. One entry too many in an index does no harm."""
        if job.state is JobState.READY:
            self.ready.add(job)
        elif job.state is JobState.WAITING and job.pending == 0 and job.not_before is not None:
            self.delays.add(job.not_before, job)
        elif job.state is JobState.RUNNING and job.attempts:
            self.leases.add(transitions.expires_at(job.attempts[-1]), job.attempts[-1])
        elif job.expires_at is not None:
            self.jobs.expiries.add(job.expires_at, job.sequence)

    # Every transition.

    def _save(self, job: JobRecord) -> None:
        """Remember a job and its running attempt before they change, so that a refused flush can be taken back.

        The first time in a flush is enough: an attempt that begins later in it is forgotten altogether.
        """
        self.steps += 1
        if self._replaying or id(job) in self._saved:
            return
        self._saved.add(id(job))
        if self.before_change is not None:
            self.before_change(job)
        self.undo.add((self._restore, job, replace(job)))
        if job.state is JobState.RUNNING and job.attempts:
            attempt = job.attempts[-1]
            self.undo.add((_restore_fields, attempt, replace(attempt)))

    def _restore(self, job: JobRecord, before: JobRecord) -> None:
        _restore_fields(job, before)
        self.index(job)

    def _update(
        self, job: JobRecord, before: JobState, effects: Effects, at: int = 0, result: Payload | None = None
    ) -> None:
        """Update counts, indexes, news and undo after a transition.

        Args:
            job: The job after the transition.
            before: Its state before.
            effects: What the transition returned.
            at: The time of the transition, if it may have ended the job.
            result: The result that the worker sent, which is kept if the job has ended and `effects` has no other.
        """
        state = job.state
        if before is JobState.RUNNING and state is not before:
            self.leases.left()
            job.partial = None
            if job.attempts:
                attempt = job.attempts[-1]
                if attempt.artifacts:
                    if effects.publish:
                        job.artifacts = tuple(attempt.artifacts[name] for name in sorted(attempt.artifacts))
                    else:
                        self.jobs.count_files(job, -size_of_files(attempt.artifacts.values()))
                attempt.artifacts = None
        if effects.requeued:
            self._requeued_news.append(job.id)
        if effects.unanswered:
            self._unanswered_news.append(job.id)
        if effects.ready:
            self.ready.add(job)
            self._ready_news[job.key] = self._ready_news.get(job.key, 0) + 1
        elif effects.due_at is not None:
            self.delays.add(effects.due_at, job)
            if self.due_at is None or effects.due_at < self.due_at:
                self.due_at = effects.due_at
        elif effects.ended:
            self._ended(job, before, result if effects.result is None else effects.result)
        if state is not before:
            self._count(job, before, state)
        self.latest = max(self.latest, at)

    def _count(self, job: JobRecord, before: JobState, after: JobState) -> None:
        counts = self.jobs.counts
        counts[before] -= 1
        counts[after] += 1
        if after is not _READY or before is not _WAITING:  # both count as waiting
            self.jobs.usage.count_change(job.key.channel, before, after, size_of(job.result))
        self.undo.add((self._recount, job, after, before))

    def _recount(self, job: JobRecord, after: JobState, before: JobState) -> None:
        self.jobs.counts[after] -= 1
        self.jobs.counts[before] += 1
        size = size_of(job.result) if after.ended else 0
        self.jobs.usage.count_change(job.key.channel, after, before, -size)
        if after is JobState.READY:
            self._not_ready.append(job)

    def _ended(self, job: JobRecord, before: JobState, result: Payload | None) -> None:
        if before is JobState.READY:
            self.ready.left(job)
        elif before is JobState.WAITING and job.pending == 0 and job.not_before is not None:
            self.delays.left()
        job.result = result
        self.jobs.count_bytes(result)
        self._ended_news.append(job.id)
        self.jobs.rests(job)
        expires_at = job.expires_at
        if expires_at is not None:
            self.jobs.expiries.add(expires_at, job.sequence)
        for job_id in set(job.dependencies):
            dependency = self.jobs.live.get(job_id.int)
            if dependency is not None:
                self._save(dependency)
                dependency.needed -= 1
                if not dependency.needed:
                    self.jobs.rests(dependency)
                    if dependency.expires_at is not None:  # `purge` has dropped it if it has found it before
                        self.jobs.expiries.add_again(dependency.expires_at, dependency.sequence)
        if job.needed:
            unpropagated = Unpropagated(job, job.needed, self.last_sequence + 1)
            if self._replaying:
                found = [self.jobs.by_sequence.get(sequence) for sequence in job.dependents or ()]
                unpropagated.waiting = [one for one in found if isinstance(one, JobRecord) and not one.state.ended]
            self._unpropagated.append(unpropagated)
            self.undo.add((self._unpropagated.pop,))

    def start_delayed(self, job: JobRecord) -> None:
        """Make a job ready, because its time has come. No entry is written for it."""
        self._save(job)
        self._update(job, JobState.WAITING, transitions.start_delayed(job))

    # Propagating the ends of jobs.

    @property
    def unpropagated(self) -> bool:
        """True if ends of jobs are still to be propagated."""
        return bool(self._unpropagated)

    def propagate(self, limit: int) -> list[Propagated]:
        """Propagate the ends of jobs to up to `limit` dependents, in as many steps as a flush may have for that."""
        ends: list[Propagated] = []
        began = self.steps
        last = began + PROPAGATION - self._steps_of_propagation
        while self._unpropagated and limit > 0 and self.steps < last:
            one = self._unpropagated[0]
            whole = None if one.begun else one.needed
            self.undo.add((_restore_fields, one, replace(one)))
            one.begun = True
            while limit > 0 and self.steps < last and self._propagate_one(one):
                limit -= 1
            lowest = self.jobs.id_at(one.below) if one.below else None
            ends.append(Propagated(None if one.below else whole, lowest))
            self._drop_propagated()
        self._steps_of_propagation += self.steps - began
        return ends

    def _propagate_one(self, one: Unpropagated) -> bool:
        """Propagate the end of a job to the next dependent; return False if there is none."""
        sequence = None if one.job.dependents is None else one.job.dependents.last_before(one.below)
        if sequence is None or sequence < one.since:
            one.below = 0
            return False
        one.below = sequence
        self.steps += 1
        job = self.jobs.by_sequence.get(sequence)
        if isinstance(job, JobRecord) and job.state is JobState.WAITING:
            self._dependency_ended(job, one.job)
        return True

    def _drop_propagated(self) -> None:
        """Drop the first end if it was propagated to all dependents."""
        one = self._unpropagated[0]
        if one.below == 0:
            self._unpropagated.popleft()
            self.undo.add((self._unpropagated.appendleft, one))

    def propagate_to(self, lowest: UUID | None) -> None:
        """Propagate the first end that is left down to a dependent, or to all: for a replay."""
        one = self._unpropagated[0]
        one.begun = True
        job = None if lowest is None else self.jobs.find(lowest)
        below = 0 if job is None else job.sequence
        while one.below > below and self._propagate_one(one):
            pass
        while one.waiting and one.waiting[-1].sequence >= one.below:
            one.waiting.pop()
        self._drop_propagated()

    def propagate_count(self, dependents: int) -> None:
        """Propagate ends to a number of dependents, of those that had not ended when the jobs ended: for a replay."""
        for _ in range(dependents):
            one = self._unpropagated[0]
            one.begun = True
            job = one.waiting.pop()
            self._dependency_ended(job, one.job)
            one.below = job.sequence if one.waiting else 0
            self._drop_propagated()

    def _dependency_ended(self, job: JobRecord, dependency: JobRecord) -> None:
        self._save(job)
        before = job.state
        at = dependency.finished_at or 0
        effects = transitions.dependency_ended(job, dependency.state, lambda: self._failed_dependencies(job), at)
        self._update(job, before, effects)

    def _failed_dependencies(self, job: JobRecord) -> list[UUID]:
        found = [self.jobs.find(job_id) for job_id in dict.fromkeys(job.dependencies)]
        return [one.id for one in found if one is not None and one.state is JobState.FAILED]


def _restore_fields(record: msgspec.Struct, before: msgspec.Struct) -> None:
    for name in record.__struct_fields__:
        setattr(record, name, getattr(before, name))


def _starts_at(job: JobRecord) -> int | None:
    return job.not_before if job.state is JobState.WAITING and job.pending == 0 else None


def _expires_at(attempt: AttemptRecord) -> int | None:
    return transitions.expires_at(attempt) if attempt.state is AttemptState.RUNNING else None

"""The table: what is known of every job and attempt, and how each recorded fact changes it. Decisions are in `commands`.

Live and replayed facts go through the same `apply`. What follows from the end of a job (its dependents become ready,
fail or are canceled) is derived here, in bounded steps (`settle`), and comes out the same however the steps are cut.
"""

from collections import deque
from collections.abc import Callable, Sequence
from uuid import UUID

from composerd.driver.clock import microseconds, seconds
from composerd.driver.rules import on_return, retry_backoff
from composerd.driver.transitions import dependency_result, lost_result
from composerd.models import MAX_REMEMBERED_TOKENS, AttemptState, JobState, Key, News
from composerd_fs.journal import entries
from composerd_fs.journal.entries import JobFields, Payload, Record
from composerd_fs.state.indexes import ReadyIndex, Timers
from composerd_fs.state.interning import artifact_of
from composerd_fs.state.job import Row, Run
from composerd_fs.state.jobs import Jobs

SETTLED_AT_ONCE = 10_000
"""How many dependents of ended jobs are looked at before others get a turn."""


class Table(Jobs):
    """All jobs, and what changes them."""

    def __init__(self) -> None:
        super().__init__()
        self.ready = ReadyIndex()
        self.delays: Timers[Row] = Timers(_delayed_until)
        self.leases: Timers[Run] = Timers(self._lapses_at)
        self.base = 0
        """What makes the places of the facts' payloads absolute."""
        self.last_seq = 0
        self.last_place = 0
        self.latest = 0
        """The latest time that a fact has."""
        self.started_at = 0
        """Nothing lapses within one lease of this moment."""
        self.freed = 0
        """Bytes of payload that deleted jobs had."""
        self._unsettled: deque[tuple[Row, list[Row]]] = deque()
        self._ready_news: dict[Key, int] = {}
        self._ended_news: list[UUID] = []
        self._returned_news: list[UUID] = []
        self._due_news: int | None = None
        self._apply: dict[type, Callable[..., None]] = {
            entries.Enqueued: self._enqueued,
            entries.Claimed: self._claimed,
            entries.Attached: self._attached,
            entries.Finished: self._finished,
            entries.Returned: self._returned,
            entries.Canceled: self._canceled,
            entries.Deleted: self._deleted,
            entries.Restored: self._restored,
            entries.Settled: self._settled,
            entries.Moved: self._moved,
        }

    def apply(self, record: Record) -> None:
        """Let a fact be true. It must be one that `commands` decided on, now or before a restart."""
        self._apply[type(record)](record)

    def take_news(self, now: int) -> News:
        """What has changed since the last call that somebody may wait for."""
        due = self._due_news
        news = News(
            ready=self._ready_news,
            ended=tuple(self._ended_news),
            requeued=tuple(self._returned_news),
            due_in=0.0 if self._unsettled else None if due is None else max(seconds(due - now), 0.0),
        )
        self._ready_news, self._ended_news, self._returned_news, self._due_news = {}, [], [], None
        return news

    def restart(self, now: int) -> None:
        """After a replay: what was ready is ready again, every running attempt is confirmed and has a full lease from now."""
        self.started_at = now
        while (row := self.delays.pop(now)) is not None:  # that its time had come was not recorded
            self.make_ready(row)
        for run in self.runs.values():
            if run.state is AttemptState.RUNNING:
                run.confirmed = True
                run.deadline = now + run.lease
                self.leases.add(self._lapse(run), run)
        self.undo.replaying = False
        self.take_news(now)

    def roll_back(self) -> None:
        """Take back everything since the last flush."""
        for row in self.undo.roll_back():
            if row.id in self.rows:
                self.index(row)
        self.take_news(0)

    # What follows from the end of jobs.

    @property
    def unsettled(self) -> bool:
        """Whether ends have consequences that were not drawn yet."""
        return bool(self._unsettled)

    def settle(self, limit: int) -> int:
        """Draw the consequences of ended jobs for up to `limit` dependents; how many it were."""
        done = 0
        while self._unsettled and done < limit:
            ended, dependents = self._unsettled[0]
            row = dependents.pop()
            self.undo.call(dependents.append, row)
            if not dependents:
                self._unsettled.popleft()
                self.undo.call(self._unsettled.appendleft, (ended, dependents))
            done += 1
            self._dependency_ended(row, ended)
        return done

    def _dependency_ended(self, row: Row, dependency: Row) -> None:
        if row.state is not JobState.WAITING:
            return
        at = dependency.finished_at or 0
        self.undo.save(row)
        if dependency.state is JobState.CANCELED:
            self._end(row, JobState.CANCELED, at, None)
            return
        row.pending -= 1
        if dependency.state is JobState.FAILED and row.policy.fail_with_dependency:
            self._end(row, JobState.FAILED, at, dependency_result(self.failed_dependencies(row.dependencies)))
        elif row.pending == 0:
            self._wait_or_ready(row, at)

    def failed_dependencies(self, dependencies: tuple[UUID, ...]) -> list[UUID]:
        """Those that have failed, in the order named."""
        return [
            job_id
            for job_id in dict.fromkeys(dependencies)
            if (row := self.find(job_id)) is not None and row.state is JobState.FAILED
        ]

    # The facts.

    def _enqueued(self, record: entries.Enqueued) -> None:
        for fields in record.jobs:
            row = self._new_row(fields, record.at)
            failed: Sequence[UUID] = ()
            if row.dependencies:
                for job_id in dict.fromkeys(row.dependencies):
                    dependency = self.thaw(job_id)
                    assert dependency is not None, "a submission names jobs that there are"
                    self._depend(row, dependency)
                    if not dependency.state.ended:
                        row.pending += 1
                if row.policy.fail_with_dependency:
                    failed = self.failed_dependencies(row.dependencies)
            if failed:
                self._end(row, JobState.FAILED, record.at, dependency_result(failed))
            elif row.pending == 0:
                self._wait_or_ready(row, record.at)
        self._at(record.at)

    def _claimed(self, record: entries.Claimed) -> None:
        row = self.rows[record.job]
        self.undo.save(row)
        run = Run(
            record.token,
            row,
            row.number + 1,
            record.lease,
            record.handover,
            self.made.worker(record.worker),
        )
        row.number = run.number
        row.started_at = record.at
        row.worker = run.worker
        self._state(row, JobState.RUNNING)
        self._remember(row, run)
        run.deadline = record.at + (record.lease if run.confirmed else record.handover or 0)
        at = self._lapse(run)
        self.leases.add(at, run)
        self._due(at)
        self._at(record.at)

    def _attached(self, record: entries.Attached) -> None:
        run = self.runs[record.token]
        self.undo.save(run)
        artifact = artifact_of(record.artifact)
        run.artifacts = {**(run.artifacts or {}), artifact.name: artifact}

    def _finished(self, record: entries.Finished) -> None:
        run = self.runs[record.token]
        row = run.row
        self.undo.save(row)
        self.undo.save(run)
        run.digest = record.digest
        self._end_run(run, AttemptState.FINISHED)
        if record.failed and row.failures < row.policy.retry_on_failure:
            row.failures += 1
            row.retries += 1
            row.returns = 0
            backoff = retry_backoff(seconds(row.policy.retry_backoff), row.failures)
            row.not_before = record.at + microseconds(backoff)
            self._put_back(row, record.at)
        else:
            row.artifacts = tuple(sorted((run.artifacts or {}).values(), key=lambda artifact: artifact.name))
            state = JobState.FAILED if record.failed else JobState.FINISHED
            self._end(row, state, record.at, self._place(record.result))
        run.artifacts = None
        self._at(record.at)

    def _returned(self, record: entries.Returned) -> None:
        run = self.runs[record.token]
        row = run.row
        self.undo.save(row)
        self.undo.save(run)
        self._end_run(run, AttemptState.SUPERSEDED)
        run.artifacts = None
        row.retries, row.returns, again = on_return(
            record.cause, row.retries, row.failures, row.returns, row.policy.max_retries
        )
        if again:
            self._put_back(row, record.at)
        else:
            self._end(row, JobState.FAILED, record.at, lost_result(record.cause, row.policy.max_retries))
        self._at(record.at)

    def _canceled(self, record: entries.Canceled) -> None:
        row = self.rows[record.job]
        self.undo.save(row)
        self._end(row, JobState.CANCELED, record.at, None)
        self._at(record.at)

    def _deleted(self, record: entries.Deleted) -> None:
        for job in record.jobs:
            row = self.thaw(job)
            assert row is not None, "who is deleted was there"
            self.undo.save(row)
            self.undo.call(self._undelete, row)
            del self.rows[job]
            del self.by_seq[row.seq]
            self.freed += row.weight
            self.hold(row.args, -1)
            self.hold(row.result, -1)
            self.counts[row.state] -= 1
            self.expiries.left()
            for run in row.runs:
                del self.runs[run.token]
            if row.idempotency_key is not None:
                del self.keys[row.key.channel, row.idempotency_key]
            for job_id in set(row.dependencies):
                dependency = self.rows.get(job_id)
                if dependency is not None and dependency.dependents is not None:
                    self.undo.save(dependency)
                    dependency.dependents.pop(row.seq, None)
                    self.undo.call(dependency.dependents.__setitem__, row.seq, None)

    def _undelete(self, row: Row) -> None:
        self.insert(row)
        for run in row.runs:
            self.runs[run.token] = run
        self.rests(row)

    def _restored(self, record: entries.Restored) -> None:
        row = self._new_row(record.job, record.queued_at)
        waiting = record.state == JobState.WAITING.value
        state = JobState(record.state)
        for job_id in dict.fromkeys(row.dependencies):
            dependency = self.thaw(job_id)
            if dependency is not None:
                self._depend(row, dependency, needs=not state.ended)
                if not dependency.state.ended:
                    row.pending += 1
                elif waiting:  # perhaps what follows was not drawn yet where it came from
                    row.pending += 1
                    self._unsettled.append((dependency, [row]))
                    self.undo.call(self._unsettled.pop)
        row.started_at = record.started_at
        row.finished_at = record.finished_at
        row.retries, row.failures, row.returns = record.retries, record.failures, record.returns
        row.worker = self.made.worker(record.worker)
        row.result = self._place(record.result)
        self.hold(row.result)
        artifacts = {one.name: artifact_of(one) for one in record.artifacts}
        for run in self.made.attempts(row, record.attempts, artifacts):
            run.deadline = record.at + run.lease
            self._remember(row, run)
        if state.ended:
            row.artifacts = tuple(artifacts.values())
            self.rests(row)
        self._state(row, state)
        self.index(row)
        self._at(record.at)

    def _settled(self, record: entries.Settled) -> None:
        self.settle(record.dependents)

    def _moved(self, record: entries.Moved) -> None:
        row = self.thaw(record.job)
        assert row is not None, "what is moved is somebody's"
        self.undo.save(row)
        if record.args is not None:
            self.hold(row.args, -1)
            row.args = self._place(record.args)
            self.hold(row.args)
        if record.result is not None:
            self.hold(row.result, -1)
            row.result = self._place(record.result)
            self.hold(row.result)

    # Steps that the facts have in common.

    def _new_row(self, fields: JobFields, at: int) -> Row:
        self.last_seq += 1
        self.last_place += 1
        row = self.made.row(fields, self.last_seq, at)
        row.place = self.last_place
        row.args = self._place(fields.args)
        self.hold(row.args)
        self.insert(row)
        self.undo.call(self._remove, row)
        return row

    def _place(self, payload: Payload | None) -> Payload | None:
        return self.base + payload if isinstance(payload, int) else payload

    def _depend(self, row: Row, dependency: Row, *, needs: bool = True) -> None:
        """A job depends on another, and needs it kept for as long as it has not ended itself."""
        self.undo.save(dependency)
        if dependency.dependents is None:
            dependency.dependents = {}
        dependency.dependents[row.seq] = None
        dependency.needed += needs

    def _remove(self, row: Row) -> None:
        """Take back that a job was new."""
        del self.rows[row.id]
        del self.by_seq[row.seq]
        self.counts[JobState.WAITING] -= 1
        if row.idempotency_key is not None:
            del self.keys[row.key.channel, row.idempotency_key]
        for job_id in set(row.dependencies):
            dependency = self.rows.get(job_id)
            if dependency is not None and dependency.dependents is not None:
                dependency.dependents.pop(row.seq, None)
        row.state = JobState.CANCELED  # its entries in the indexes are stale

    def _remember(self, row: Row, run: Run) -> None:
        self.runs[run.token] = run
        self.undo.call(self._forget, run)
        row.runs = (*row.runs, run)
        if len(row.runs) > MAX_REMEMBERED_TOKENS:
            forgotten = self.runs.pop(row.runs[0].token)
            self.undo.call(self.runs.__setitem__, forgotten.token, forgotten)
            row.runs = row.runs[1:]

    def _forget(self, run: Run) -> None:
        del self.runs[run.token]
        run.state = AttemptState.UNKNOWN  # its entry among the leases is stale

    def _state(self, row: Row, state: JobState) -> None:
        self.counts[row.state] -= 1
        self.counts[state] += 1
        self.undo.call(self._count_back, row.state, state)
        row.state = state

    def _count_back(self, before: JobState, after: JobState) -> None:
        self.counts[before] += 1
        self.counts[after] -= 1

    def _wait_or_ready(self, row: Row, now: int) -> None:
        """All its dependencies have ended: it waits for its time, or is ready."""
        if row.not_before is not None and row.not_before > now:
            self.delays.add(row.not_before, row)
            self._due(row.not_before)
            return
        self._state(row, JobState.READY)
        self.ready.add(row)
        self._ready_news[row.key] = self._ready_news.get(row.key, 0) + 1

    def make_ready(self, row: Row) -> None:
        """Its time has come."""
        self.undo.save(row)
        self._state(row, JobState.READY)
        self.ready.add(row)
        self._ready_news[row.key] = self._ready_news.get(row.key, 0) + 1

    def _put_back(self, row: Row, now: int) -> None:
        self.last_place += 1
        row.place = self.last_place
        self._state(row, JobState.WAITING)
        self._returned_news.append(row.id)
        row.partial = None
        self._wait_or_ready(row, now)

    def _end(self, row: Row, state: JobState, at: int, result: Payload | None) -> None:
        if row.state is JobState.READY:
            self.ready.left(row)
        elif row.state is JobState.WAITING and row.pending == 0:
            self.delays.left()
        elif row.state is JobState.RUNNING and row.runs and row.runs[-1].state is AttemptState.RUNNING:
            run = row.runs[-1]
            self.undo.save(run)
            self._end_run(run, AttemptState.CANCELED)
            run.artifacts = None
        self._state(row, state)
        row.finished_at = at
        row.result = result
        row.partial = None
        self.hold(result)
        self._ended_news.append(row.id)
        self.rests(row)
        if row.expires_at is not None:
            self.expiries.add(row.expires_at, row.seq)
        for job_id in set(row.dependencies):
            dependency = self.rows.get(job_id)
            if dependency is not None:
                self.undo.save(dependency)
                dependency.needed -= 1
                if not dependency.needed:
                    self.rests(dependency)
        if row.needed:
            dependents = [self.by_seq.get(seq) for seq in row.dependents or ()]
            self._unsettled.append((row, [one for one in dependents if isinstance(one, Row) and not one.state.ended]))
            self.undo.call(self._unsettled.pop)

    def _end_run(self, run: Run, state: AttemptState) -> None:
        run.state = state
        self.leases.left()

    def _lapses_at(self, run: Run) -> int | None:
        return self._lapse(run) if run.state is AttemptState.RUNNING else None

    def _lapse(self, run: Run) -> int:
        """When an attempt lapses if nobody touches it."""
        timeout = run.row.policy.timeout
        if timeout is None or run.row.started_at is None:
            return run.deadline
        return min(run.deadline, self.timed_out_at(run, timeout))

    def timed_out_at(self, run: Run, timeout: int) -> int:
        """When an attempt has run for longer than its job allows; one from before a start has one lease from there to report."""
        began = run.row.started_at or 0
        return began + timeout if began >= self.started_at else max(began + timeout, self.started_at + run.lease)

    def index(self, row: Row) -> None:
        """Put a row into the indexes that its state asks for; an entry too many does no harm."""
        if row.state is JobState.READY:
            self.ready.add(row)
        elif row.state is JobState.WAITING and row.pending == 0 and row.not_before is not None:
            self.delays.add(row.not_before, row)
        elif row.state is JobState.RUNNING and row.runs:
            self.leases.add(self._lapse(row.runs[-1]), row.runs[-1])
        elif row.expires_at is not None:
            self.expiries.add(row.expires_at, row.seq)

    def _due(self, at: int) -> None:
        if self._due_news is None or at < self._due_news:
            self._due_news = at

    def _at(self, time: int) -> None:
        self.latest = max(self.latest, time)


def _delayed_until(row: Row) -> int | None:
    return row.not_before if row.state is JobState.WAITING and row.pending == 0 else None

"""The changes to the records of a shelf in one transaction, and what follows from them: stored payloads, news, ends.

The end of a job is propagated to its dependents at once, as far as one transaction may, and to the rest by `advance`.
"""

from collections import deque
from secrets import token_bytes
from uuid import UUID

import msgspec

from composerd.driver import transitions
from composerd.driver.contract import SECRET_SIZE
from composerd.driver.simple.records import JobRecord, due_in
from composerd.driver.simple.shelf import Shelf
from composerd.driver.simple.usage import UsageChanges
from composerd.driver.transitions import Effects
from composerd.models import MAX_STEP, JobState, Key, News, PayloadKind, PayloadRef

_UNSAVED = -1
"""Stands for the lower end of `JobRecord.unpropagated` until that is stored."""


class Memo(msgspec.Struct, omit_defaults=True):
    """The few values that a shelf keeps beside the records."""

    sequence: int = msgspec.field(name="number", default=0)
    """The last sequence or position that was given out."""
    seen: int = msgspec.field(name="time", default=0)
    """A time at which the storage was open: that of the last write."""
    secret: bytes = b""
    """The secret of the storage; empty until the first transaction of a version that has one."""
    counted: bool = False
    """True if all jobs are counted for `Driver.usage`. A version that does not count drops this field."""
    disputed_since: int = 0
    """Jobs that ended before this time are not purged; 0 if the clock is not disputed."""


class Changes:
    """The changes of one transaction of a shelf."""

    def __init__(self, shelf: Shelf, now: int) -> None:
        self.shelf = shelf
        self.now = now
        memo = shelf.memo()
        self.memo = Memo() if memo is None else msgspec.msgpack.decode(memo, type=Memo)
        self.usage = UsageChanges(shelf)
        self.ready: dict[Key, int] = {}
        self.ended: list[UUID] = []
        self.requeued: list[UUID] = []
        self.unanswered: list[UUID] = []
        self.due_at: int | None = None
        self.steps_left = MAX_STEP
        """The number of dependents that may still be updated because jobs have ended."""
        self.propagating: deque[JobRecord] | None = None
        """Jobs whose ends are still to be propagated, while that happens."""

    def complete(self) -> News:
        """Store the memo and return the news of this transaction."""
        self.usage.store()
        self.memo.seen = self.now
        self.memo.secret = self.memo.secret or token_bytes(SECRET_SIZE)
        self.shelf.store_memo(msgspec.msgpack.encode(self.memo))
        return News(
            self.ready,
            tuple(self.ended),
            tuple(self.requeued),
            due_in(self.due_at, self.now),
            unanswered=tuple(self.unanswered),
        )

    def apply(self, record: JobRecord, effects: Effects) -> None:
        """Store a job after a transition, together with its effects; propagate its end if it ended."""
        if effects.ended or effects.requeued:
            record.partial = None
        if effects.result is not None:
            self.shelf.store_payload(PayloadRef(record.id, PayloadKind.RESULT), effects.result)
            record.result_size = len(effects.result)
        if effects.ready:
            self.ready[record.new.key] = self.ready.get(record.new.key, 0) + 1
        if effects.requeued:
            self.requeued.append(record.id)
        if effects.unanswered:
            self.unanswered.append(record.id)
        if effects.ended:
            self.ended.append(record.id)
        self.save(record)
        if effects.ended:
            record.unpropagated = (_UNSAVED, self.memo.sequence)  # one that is submitted later has not waited for it
            self.propagate(record)

    def propagate(self, record: JobRecord) -> None:
        """Propagate the end of a job to its dependents, and to theirs where that ends them, as far as this one may."""
        if self.propagating is not None:
            self.propagating.append(record)
            return
        self.propagating = deque([record])
        while self.propagating and self.steps_left > 0:
            if self.propagate_some(self.propagating[0]):
                self.propagating.popleft()
        for left in self.propagating:
            assert left.unpropagated is not None
            left.unpropagated = (max(left.unpropagated[0], 0), left.unpropagated[1])
            self.save(left)
        self.propagating = None

    def propagate_some(self, dependency: JobRecord) -> bool:
        """Propagate the end of a job to some of its dependents, and return True if none is left."""
        assert dependency.unpropagated is not None
        after, last = dependency.unpropagated
        most = self.steps_left
        found = self.shelf.dependents_after(dependency.id, after, most)
        for job_id in found:
            dependent = self.get(job_id)
            after = dependent.sequence
            if after > last:
                break
            self.steps_left -= 1
            if dependent.state is JobState.WAITING:
                self.apply(dependent, self.dependency_ended(dependent, dependency))
        done = len(found) < most or after >= last
        if done:
            saved = dependency.unpropagated[0] != _UNSAVED
            dependency.unpropagated = None
            if saved:
                self.save(dependency)
        else:
            dependency.unpropagated = (after, last)
        return done

    def dependency_ended(self, record: JobRecord, dependency: JobRecord) -> Effects:
        """Change a job because a dependency has ended; return the effects."""
        return transitions.dependency_ended(
            record, dependency.state, lambda: self.failed_dependencies(record), self.now
        )

    def failed_dependencies(self, record: JobRecord) -> list[UUID]:
        """Return the dependencies that have failed, in the order in which the job names them."""
        found = [self.find(one) for one in record.distinct_dependencies]
        return [one.id for one in found if one is not None and one.state is JobState.FAILED]

    # Records.

    def find(self, job_id: UUID) -> JobRecord | None:
        """Return a record, or None."""
        encoded = self.shelf.read(job_id)
        if encoded is None:
            return None
        record = JobRecord.decoded(encoded)
        self.usage.found(record)
        return record

    def get(self, job_id: UUID) -> JobRecord:
        """Return a record that is known to be stored."""
        record = self.find(job_id)
        assert record is not None, f"the storage has lost the job {job_id}"
        return record

    def save(self, record: JobRecord) -> None:
        """Store a record."""
        self.shelf.write(record)
        self.usage.saved(record)
        if record.due_at is not None and (self.due_at is None or record.due_at < self.due_at):
            self.due_at = record.due_at

    def remove(self, record: JobRecord) -> None:
        """Delete a record and its payloads."""
        self.shelf.remove(record)
        self.usage.removed(record)

    def next_sequence(self) -> int:
        """Return a number larger than any before."""
        self.memo.sequence += 1
        return self.memo.sequence

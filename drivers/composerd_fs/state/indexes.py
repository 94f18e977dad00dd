"""Indexes of the table.

The ordered ones are heaps. An entry is checked when it reaches the top, so that most changes of a job cost the heaps
nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from heapq import heapify, heappop, heappush
from typing import Generic, TypeAlias, TypeVar

from composerd.models import JobState, Key
from composerd_fs.state.job import JobRecord

T = TypeVar("T")

_FEW = 64
"""Number of entries below which a heap is not rebuilt."""

_Ready: TypeAlias = tuple[int, int, JobRecord]
"""The negative priority and the position of a job, and the job."""


class ReadyIndex:
    """Ready jobs by key, the highest priority first, then the lowest position."""

    def __init__(self) -> None:
        self._heaps: dict[Key, list[_Ready]] = {}
        self._stale: dict[Key, int] = {}

    def add(self, job: JobRecord) -> None:
        """Add a job that is ready."""
        heap = self._heaps.get(job.key)
        if heap is None:
            heap = self._heaps[job.key] = []
        heappush(heap, (-job.priority, job.position, job))

    def left(self, job: JobRecord) -> None:
        """Note that a job which `take` did not return is not ready any more."""
        stale = self._stale[job.key] = self._stale.get(job.key, 0) + 1
        heap = self._heaps.get(job.key, [])
        if stale >= len(heap) or (stale > _FEW and stale * 2 > len(heap)):
            fresh = [entry for entry in heap if _is_ready(entry)]
            if fresh:
                heapify(fresh)
                self._heaps[job.key] = fresh
                del self._stale[job.key]
            else:
                self._forget(job.key)

    def take(self, keys: tuple[Key, ...]) -> JobRecord | None:
        """Remove and return the first job of some keys, or None if none is ready."""
        heaps = self._heaps
        best: list[_Ready] | None = None
        for key in keys:
            heap = heaps.get(key)
            if heap is None:
                continue
            while heap:
                _, position, job = heap[0]
                if job.state is JobState.READY and job.position == position:
                    if best is None or heap[0] < best[0]:
                        best = heap
                    break
                heappop(heap)
            else:
                self._forget(key)
        if best is None:
            return None
        job = heappop(best)[2]
        if not best:
            self._forget(job.key)
        return job

    def _forget(self, key: Key) -> None:
        """Forget a key of which no job is ready."""
        self._heaps.pop(key, None)
        self._stale.pop(key, None)
        if not self._heaps:
            self._heaps.clear()  # gives back the memory of the dictionaries too
            self._stale.clear()

    def ahead(self, job: JobRecord, limit: int) -> int:
        """Return how many jobs of a ready job's key are ahead of it, counted up to `limit`."""
        order = (-job.priority, job.position)
        heap = self._heaps.get(job.key, [])
        count = 0
        found = [
            0
        ]  # entries of the heap: those that are ahead are below others that are ahead, so all others are left out
        while found and count < limit:
            at = found.pop()
            if at < len(heap) and heap[at][:2] < order:
                count += _is_ready(heap[at])
                found += (2 * at + 1, 2 * at + 2)
        return count


def _is_ready(entry: _Ready) -> bool:
    _, position, job = entry
    return job.state is JobState.READY and job.position == position


class Timers(Generic[T]):
    """Jobs or attempts by the time at which they are due.

    `due_at` returns that time, or None for an item that will never be due.
    """

    def __init__(self, due_at: Callable[[T], int | None]) -> None:
        self._heap: list[tuple[int, int, T]] = []
        self._due_at = due_at
        self._count = 0
        self._left = 0

    def add(self, at: int, one: T) -> None:
        """Add an item that is due at that time. Later it may be due after that time, or never."""
        self._count += 1
        heappush(self._heap, (at, self._count, one))

    def left(self) -> None:
        """Note that an item will never be due any more."""
        self._left += 1
        if self._left > _FEW and self._left * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if self._due_at(entry[2]) is not None]
            heapify(self._heap)
            self._left = 0

    def rebuild(self) -> None:
        """Sort the items again: they may be due earlier than when they were added."""
        found = {id(one): one for one in self}.values()
        due = [(self._due_at(one), one) for one in found]
        self._heap = [(at, count, one) for count, (at, one) in enumerate(due) if at is not None]
        self._count = len(self._heap)
        self._left = 0
        heapify(self._heap)

    def __iter__(self) -> Iterator[T]:
        """Iterate over the items that may become due, in no order; an item may come twice."""
        return (one for _, _, one in self._heap if self._due_at(one) is not None)

    def next(self) -> int | None:
        """Return the time at which the first item is due, or an earlier one; None if there is none."""
        while self._heap and self._due_at(self._heap[0][2]) is None:
            heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop(self, now: int) -> T | None:
        """Remove and return an item that is due, or None if none is."""
        while self._heap and self._heap[0][0] <= now:
            _, _, one = heappop(self._heap)
            at = self._due_at(one)
            if at is None:
                continue
            if at <= now:
                return one
            self.add(at, one)
        return None


_SEQUENCE_BITS = 48
_SEQUENCE_MASK = (1 << _SEQUENCE_BITS) - 1


class Expiries:
    """Ended jobs by the time at which they expire, as plain integers because there are many.

    `expires_at` returns when the job of a sequence expires, or None if it never will. Jobs that must not be purged for
    now are set aside, so that no search finds them again and again.
    """

    def __init__(self, expires_at: Callable[[int], int | None], find: Callable[[int], object]) -> None:
        """Make an index without jobs; `find` returns the job of a sequence, or None."""
        self._heap: list[int] = []
        self._unsorted: list[int] = []
        """Those that `sort` has to look at, because many have been deleted."""
        self._aside: list[int] = []
        """Those that are set aside, as a heap too."""
        self._kept_before = 0
        self._popped_until = 0
        """The latest time for which `pop` was called: it may have returned what expired until then."""
        self._expires_at = expires_at
        self._find = find
        self._left = 0

    def add(self, at: int, sequence: int) -> None:
        """Add a job that expires at that time. Later it may expire after that time, or never."""
        heappush(self._heap, at << _SEQUENCE_BITS | sequence)

    def add_again(self, at: int, sequence: int) -> None:
        """Add a job again that was added before, unless it must still be there."""
        if at <= self._popped_until:
            self.add(at, sequence)

    def left(self) -> None:
        """Note that a job was deleted."""
        self._left += 1
        if self._left > _FEW and self._left * 2 > len(self._heap) and not self._unsorted:
            self._heap, self._unsorted = self._unsorted, self._heap
            self._left = 0

    def sort(self, count: int) -> bool:
        """Sort in again some of the jobs, without those that were deleted. Return True if any is left to sort in."""
        unsorted = self._unsorted
        for entry in unsorted[-count:]:
            if self._find(entry & _SEQUENCE_MASK) is not None:
                heappush(self._heap, entry)
        del unsorted[-count:]
        return bool(unsorted)

    def keep_before(self, time: int) -> None:
        """Set the time before which ended jobs must be kept.

        If it is later than before, it is the present: then all jobs have ended before it, and all are set aside. If it
        is earlier, all come back; the caller sets aside each that it finds and must still keep.
        """
        if time == self._kept_before:
            return
        for entry in self._unsorted:
            heappush(self._heap, entry)
        self._unsorted = []
        few, many = sorted((self._heap, self._aside), key=len)
        for entry in few:
            heappush(many, entry)
        if time > self._kept_before:
            self._heap, self._aside = [], many
        else:
            self._heap, self._aside = many, []
        self._kept_before = time

    def set_aside(self, at: int, sequence: int) -> None:
        """Set a job aside that `pop` has returned."""
        heappush(self._aside, at << _SEQUENCE_BITS | sequence)

    def pop(self, now: int) -> int | None:
        """Remove and return the sequence of a job that has expired, or None if none has. Call it after `sort`."""
        self._popped_until = max(self._popped_until, now)
        while self._heap and self._heap[0] >> _SEQUENCE_BITS <= now:
            sequence = heappop(self._heap) & _SEQUENCE_MASK
            at = self._expires_at(sequence)
            if at is not None and at <= now:
                return sequence
            if at is not None:
                self.add(at, sequence)
        return None


_PARTS = 1 << 14
"""Number of parts of a digest index. With a million jobs a part has sixty entries, which are quickly searched."""
_KEPT = 8
_SEQUENCE_SIZE = 6
_ENTRY = _KEPT + _SEQUENCE_SIZE


class DigestIndex:
    """Sequences of jobs by keys of 16 bytes, such as ids.

    It keeps only half of each key, so a search may also find jobs with other keys.
    """

    def __init__(self) -> None:
        self._parts: list[bytearray | None] = [None] * _PARTS

    def add(self, key: bytes, sequence: int) -> None:
        """Add a job with this key."""
        number = hash(key) % _PARTS
        part = self._parts[number]
        if part is None:
            self._parts[number] = bytearray(key[_KEPT:] + sequence.to_bytes(_SEQUENCE_SIZE))
        else:
            part += key[_KEPT:] + sequence.to_bytes(_SEQUENCE_SIZE)

    def find(self, key: bytes) -> Sequence[int]:
        """Return the sequences of the jobs that may have this key: all that have it, and rarely another one."""
        part = self._parts[hash(key) % _PARTS]
        if part is None:
            return ()
        found = []
        kept = key[_KEPT:]
        at = part.find(kept)
        while at >= 0:
            if at % _ENTRY == 0:
                found.append(int.from_bytes(part[at + _KEPT : at + _ENTRY]))
            at = part.find(kept, at + 1)
        return found

    def discard(self, key: bytes, sequence: int) -> None:
        """Remove a job that was added with this key."""
        number = hash(key) % _PARTS
        part = self._parts[number]
        assert part is not None, "only a key that was added is discarded"
        entry = key[_KEPT:] + sequence.to_bytes(_SEQUENCE_SIZE)
        at = part.find(entry)
        while at > 0 and at % _ENTRY:
            at = part.find(entry, at + 1)
        assert at >= 0, "only a key that was added is discarded"
        part[at : at + _ENTRY] = part[-_ENTRY:]
        del part[-_ENTRY:]
        if not part:
            self._parts[number] = None

"""Ordered views of the table: heaps whose entries are checked when they come up, so that a change costs nothing."""

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

from composerd.models import JobState, Key
from composerd_fs.state.job import Row

T = TypeVar("T")

_CHUNK = 64

_SEQ_BITS = 48
_SEQ_MASK = (1 << _SEQ_BITS) - 1

_FEW = 64
"""Below so many entries a heap is not worth rebuilding."""


class ReadyIndex:
    """Ready jobs by key, the highest priority first, then the earliest place."""

    def __init__(self) -> None:
        self._heaps: dict[Key, list[tuple[int, int, Row]]] = {}
        self._stale: dict[Key, int] = {}

    def add(self, row: Row) -> None:
        """A job became ready."""
        heap = self._heaps.get(row.key)
        if heap is None:
            heap = self._heaps[row.key] = []
        heappush(heap, (-row.priority, row.place, row))

    def left(self, row: Row) -> None:
        """A job is not ready any more, and was not taken by `take`."""
        stale = self._stale[row.key] = self._stale.get(row.key, 0) + 1
        heap = self._heaps.get(row.key, [])
        if stale > _FEW and stale * 2 > len(heap):
            self._heaps[row.key] = fresh = [entry for entry in heap if _is_ready(entry)]
            heapify(fresh)
            del self._stale[row.key]

    def take(self, keys: tuple[Key, ...]) -> Row | None:
        """Take out the best job of some keys."""
        best: tuple[int, int, Row] | None = None
        for key in keys:
            top = self._top(key)
            if top is not None and (best is None or top < best):
                best = top
        if best is None:
            return None
        heappop(self._heaps[best[2].key])
        return best[2]

    def ahead(self, row: Row, limit: int) -> int:
        """How many jobs of a ready job's key go before it, up to `limit`."""
        mine = (-row.priority, row.place)
        count = 0
        for entry in self._heaps.get(row.key, ()):
            if entry[:2] < mine and _is_ready(entry):
                count += 1
                if count == limit:
                    break
        return count

    def _top(self, key: Key) -> tuple[int, int, Row] | None:
        heap = self._heaps.get(key)
        if heap is None:
            return None
        while heap:
            if _is_ready(heap[0]):
                return heap[0]
            heappop(heap)
        del self._heaps[key]
        self._stale.pop(key, None)
        return None


def _is_ready(entry: tuple[int, int, Row]) -> bool:
    row = entry[2]
    return row.state is JobState.READY and row.place == entry[1]


class Numbered:
    """Jobs by number, packed ones as bytes. Numbers are dense, so that lists of them take a tenth of what a dictionary would."""

    def __init__(self) -> None:
        self._chunks: dict[int, list[Row | bytes | None]] = {}
        self._left: dict[int, int] = {}
        """How many jobs a chunk has."""

    def __setitem__(self, seq: int, row: Row | bytes) -> None:
        """A job has this number, which no other has."""
        chunk, at = divmod(seq, _CHUNK)
        rows = self._chunks.get(chunk)
        if rows is None:
            rows = self._chunks[chunk] = [None] * _CHUNK
            self._left[chunk] = 0
        rows[at] = row
        self._left[chunk] += 1

    def __delitem__(self, seq: int) -> None:
        """The job of this number is gone."""
        chunk, at = divmod(seq, _CHUNK)
        self._chunks[chunk][at] = None
        self._left[chunk] -= 1
        if not self._left[chunk]:
            del self._chunks[chunk], self._left[chunk]

    def replace(self, seq: int, row: Row | bytes) -> None:
        """The job that has this number is kept in another form."""
        chunk, at = divmod(seq, _CHUNK)
        self._chunks[chunk][at] = row

    def get(self, seq: int) -> Row | bytes | None:
        """The job of this number, if there is one."""
        rows = self._chunks.get(seq // _CHUNK)
        return None if rows is None else rows[seq % _CHUNK]

    def chunks(self) -> list[int]:
        """The numbers of the runs of numbers that have jobs, in order; `chunk` gives each."""
        return sorted(self._chunks)

    def chunk(self, number: int) -> Iterator[tuple[int, Row | bytes]]:
        """The numbers of one run that jobs have, in order, and the jobs."""
        begin = number * _CHUNK
        return ((begin + at, row) for at, row in enumerate(self._chunks.get(number, ())) if row is not None)

    @staticmethod
    def chunk_of(seq: int) -> int:
        """In which run a number is."""
        return seq // _CHUNK


class Expiries:
    """Ended jobs by the time at which they expire, as plain integers: there are many. `due_at` says when a number's job does, if at all."""

    def __init__(self, due_at: Callable[[int], int | None]) -> None:
        self._heap: list[int] = []
        self._due_at = due_at
        self._left = 0

    def add(self, at: int, seq: int) -> None:
        """A job will expire; it may turn out later or never."""
        heappush(self._heap, at << _SEQ_BITS | seq)

    def left(self) -> None:
        """One of the jobs is gone."""
        self._left += 1
        if self._left > _FEW and self._left * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if self._due_at(entry & _SEQ_MASK) is not None]
            heapify(self._heap)
            self._left = 0

    def pop(self, now: int) -> int | None:
        """Take out the number of a job that has expired."""
        while self._heap and self._heap[0] >> _SEQ_BITS <= now:
            seq = heappop(self._heap) & _SEQ_MASK
            at = self._due_at(seq)
            if at is not None and at <= now:
                return seq
            if at is not None:
                self.add(at, seq)
        return None


class Timers(Generic[T]):
    """Things by the time at which they are due. `due_at` says when a thing is due now: None if never any more."""

    def __init__(self, due_at: Callable[[T], int | None]) -> None:
        self._heap: list[tuple[int, int, T]] = []
        self._due_at = due_at
        self._count = 0
        self._left = 0

    def add(self, at: int, thing: T) -> None:
        """A thing will be due; it may turn out later or never."""
        self._count += 1
        heappush(self._heap, (at, self._count, thing))

    def left(self) -> None:
        """One of the things is never due any more."""
        self._left += 1
        if self._left > _FEW and self._left * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if self._due_at(entry[2]) is not None]
            heapify(self._heap)
            self._left = 0

    def __iter__(self) -> Iterator[T]:
        """The things that may be due some time, in no order; one may come twice."""
        return (thing for _, _, thing in self._heap if self._due_at(thing) is not None)

    def next(self) -> int | None:
        """When the first is due, or a little earlier."""
        while self._heap and self._due_at(self._heap[0][2]) is None:
            heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop(self, now: int) -> T | None:
        """Take out a thing that is due."""
        while self._heap and self._heap[0][0] <= now:
            _, _, thing = heappop(self._heap)
            at = self._due_at(thing)
            if at is None:
                continue
            if at <= now:
                return thing
            self.add(at, thing)
        return None

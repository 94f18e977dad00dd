"""The workers that were seen lately, for drivers that keep them in memory. They are bounded in bytes, by client."""

import sys
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from uuid import UUID

import msgspec

from composerd.driver.clock import MICRO, Moment, to_time
from composerd.models import Worker, WorkerCursor, WorkerPage
from composerd.shares import Shares

MAX_BYTES = 64 * 1024 * 1024
"""The most bytes that the workers take. A client may have at most half of what the others leave free."""

MAX_PAGE_BYTES = 1024 * 1024
"""The size of the workers of a page, in bytes, from which on no further worker is added."""

OWNED = 3600 * MICRO
"""Time in microseconds for which a worker that is not seen belongs to its client; then to the next that names it."""

_EACH = 768
"""Bytes of one worker without its types, measured, with the entries in which it is found."""

_LEAST = 32 * 1024
"""Bytes that a client may always have if they are free: one worker with the most and longest types."""


class _Seen(NamedTuple):
    """A worker, and when it was seen, in microseconds of the time that passes: the wall clock may jump."""

    worker: Worker
    elapsed: int


class Workers:
    """The workers, in the order in which they were last seen.

    Types that are equal in several workers of a client are stored once, and count once.
    """

    def __init__(self) -> None:
        self._workers: OrderedDict[UUID, _Seen] = OrderedDict()
        self._by_client: dict[str, OrderedDict[UUID, None]] = {}
        """The ids of each client's workers, in the order in which they were last seen."""
        self._types: dict[tuple[str, tuple[str, ...]], tuple[tuple[str, ...], int]] = {}
        """The types of workers by client, and how many workers have them."""
        self._bytes = Shares("workers", MAX_BYTES, least=_LEAST)
        self._latest = 0

    def seen(self, workers: Sequence[Worker], moment: Moment) -> None:
        """Remember that workers were seen; see `Driver.seen`."""
        for worker in workers:
            known = self._workers.get(worker.id)
            if known is None:
                self._add(worker, moment)
                continue
            before = known.worker
            described = worker if worker.types or worker.arch else before
            if worker.client and before.client and worker.client != before.client:
                if moment.elapsed - known.elapsed < OWNED:
                    continue
                described = msgspec.structs.replace(described, client=worker.client)
            else:
                described = msgspec.structs.replace(described, client=before.client or worker.client)
            if _same(described, before):
                self._place(msgspec.structs.replace(before, seen_at=to_time(moment.now)), moment)
            else:
                self._bytes.exchange(before.client, self._remove(before), 0)
                self._add(described, moment)

    def since(self, elapsed: int, ids: Sequence[UUID] | None = None) -> list[Worker]:
        """Return the workers that were seen since then, the latest first; only those of `ids`, if given."""
        known: Iterable[_Seen]
        if ids is None:
            known = reversed(self._workers.values())
        else:
            known = sorted(filter(None, map(self._workers.get, ids)), key=lambda one: one.elapsed, reverse=True)
        found: list[Worker] = []
        for one in known:
            if one.elapsed < elapsed:
                break
            found.append(one.worker)
        return found

    def page(self, elapsed: int, after: WorkerCursor | None, limit: int) -> WorkerPage:
        """Return a page of the workers that were seen since then; see `Driver.worker_page`."""
        found: list[Worker] = []
        size = 0
        last: _Seen | None = None
        for one in reversed(self._workers.values()):
            if one.elapsed < elapsed:
                break
            if after is not None and one.elapsed >= after.seen:
                continue
            if last is not None and (len(found) == limit or size >= MAX_PAGE_BYTES):
                return WorkerPage(tuple(found), WorkerCursor(last.elapsed, last.worker.id))
            found.append(one.worker)
            size += _EACH + _size(one.worker.types)
            last = one
        return WorkerPage(tuple(found), None)

    def _add(self, worker: Worker, moment: Moment) -> None:
        """Add a worker that is not known. The client's own workers make room for it; without room it is left out."""
        described = worker.client, worker.types
        shared, count = self._types.get(described, (worker.types, 0))
        self._types[described] = shared, count + 1
        if self._make_room(worker.client, _EACH if count else _EACH + _size(shared)):
            self._place(msgspec.structs.replace(worker, types=shared, seen_at=to_time(moment.now)), moment)
        else:
            self._drop_types(worker)

    def _make_room(self, client: str, amount: int) -> bool:
        """Take bytes for a client, and forget workers of its own for that as necessary. Return False without room."""
        freed = 0
        while self._bytes.room(client) < amount - freed:
            own = self._by_client.get(client)
            if own is None:
                self._bytes.exchange(client, freed, 0)
                return False
            freed += self._remove(self._workers[next(iter(own))].worker)
        self._bytes.exchange(client, freed, amount)
        return True

    def _place(self, worker: Worker, moment: Moment) -> None:
        """Put a worker where the worker is that was seen last. No two are at the same moment."""
        self._latest = max(moment.elapsed, self._latest + 1)
        self._workers[worker.id] = _Seen(worker, self._latest)
        self._workers.move_to_end(worker.id)
        own = self._by_client.setdefault(worker.client, OrderedDict())
        own[worker.id] = None
        own.move_to_end(worker.id)

    def _remove(self, worker: Worker) -> int:
        """Remove a worker, and return how many bytes of its client become free."""
        del self._workers[worker.id]
        own = self._by_client[worker.client]
        del own[worker.id]
        if not own:
            del self._by_client[worker.client]
        return _EACH + self._drop_types(worker)

    def _drop_types(self, worker: Worker) -> int:
        """Note that one worker less has these types, and return how many bytes that makes free."""
        described = worker.client, worker.types
        shared, count = self._types[described]
        if count > 1:
            self._types[described] = shared, count - 1
            return 0
        del self._types[described]
        return _size(shared)


def _same(one: Worker, other: Worker) -> bool:
    """Return True if two workers are described in the same way, and belong to the same client."""
    return (one.arch, one.types, one.channel, one.client) == (other.arch, other.types, other.channel, other.client)


def _size(types: tuple[str, ...]) -> int:
    """Return how many bytes types take in memory."""
    return sys.getsizeof(types) + sum(map(sys.getsizeof, types))

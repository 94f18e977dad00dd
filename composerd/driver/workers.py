"""The workers that were seen lately, for drivers that keep them in memory. They are bounded in bytes, by client."""

import heapq
import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple
from uuid import UUID

import msgspec

from composerd.driver.clock import MICRO, Moment, microseconds, to_time
from composerd.models import Worker, WorkerCursor, WorkerPage
from composerd.shares import Shares

MAX_BYTES = 64 * 1024 * 1024
"""The most bytes that the workers take. A client may have at most half of what the others leave free."""

MAX_PAGE_BYTES = 1024 * 1024
"""The size of the workers of a page, in bytes, from which on no further worker is added."""

OWNED = 3600 * MICRO
"""Time in microseconds for which a worker that is not seen belongs to its client; then to the next that names it."""

_EACH = 1600
"""Bytes of one worker without its texts, measured, with the entries in which it is found, and those of a client and a
channel that have no other worker: whoever makes up workers may make up their identities too."""

_LEAST = 40 * 1024
"""Bytes that a client may always have if they are free: one worker with the most and longest types."""

_NEVER = -(2**63)
"""A time before all others, at which a worker was described of which there was only a sign of life."""


class _Seen(NamedTuple):
    """A worker, with times in microseconds of the time that passes: the wall clock may jump."""

    worker: Worker
    elapsed: int
    """The time when it was seen."""
    sent: int
    """The time when it sent what is known of it, or signed off."""
    signed_off: bool
    """True if it has signed off; it is kept so that no earlier news of it lists it again."""


class Workers:
    """The workers, in the order in which they were last seen.

    Types that are equal in several workers of a client are stored once, and count once.
    """

    def __init__(self) -> None:
        self._workers: OrderedDict[UUID, _Seen] = OrderedDict()
        self._by_client: dict[str, OrderedDict[UUID, None]] = {}
        """The ids of each client's workers, in the order in which they were last seen."""
        self._by_channel: dict[str | None, OrderedDict[UUID, None]] = {}
        """The ids of the workers of each channel in that order; None has those that described none."""
        self._types: dict[tuple[str, tuple[str, ...]], tuple[tuple[str, ...], int]] = {}
        """The types of workers by client, and how many workers have them."""
        self._bytes = Shares("workers", MAX_BYTES, least=_LEAST)
        self._latest = 0

    def seen(self, workers: Sequence[Worker], moment: Moment) -> None:
        """Remember that workers were seen; see `Driver.seen`."""
        for worker in workers:
            known = self._workers.get(worker.id)
            sent = moment.elapsed - microseconds(worker.age) if _says_something(worker) else _NEVER
            if known is None:
                self._add(worker, moment, sent)
                continue
            before = known.worker
            foreign = _belongs_to_another(before, worker)
            if known.signed_off:
                if foreign or ((worker.arch or worker.types) and sent > known.sent):
                    self._forget(before)
                    self._add(worker, moment, sent)
                continue
            if foreign and moment.elapsed - known.elapsed < OWNED:
                continue
            described = before
            if sent >= known.sent:
                described = _described(before, worker)
            sent = max(sent, known.sent)
            described = msgspec.structs.replace(described, client=worker.client or before.client)
            if _same(described, before):
                self._place(msgspec.structs.replace(before, seen_at=to_time(moment.now)), moment, sent)
            else:
                self._forget(before)
                self._add(described, moment, sent)

    def sign_off(self, workers: Sequence[Worker], moment: Moment) -> None:
        """Show workers no longer; see `Driver.sign_off`."""
        for worker in workers:
            client = worker.client
            known = self._workers.get(worker.id)
            if known is not None:
                if _belongs_to_another(known.worker, worker):
                    continue
                client = client or known.worker.client
                self._forget(known.worker)
            self._add(Worker(worker.id, "", client=client), moment, moment.elapsed, signed_off=True)

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
            if not one.signed_off:
                found.append(one.worker)
        return found

    def page(self, elapsed: int, after: WorkerCursor | None, limit: int, channel: str | None = None) -> WorkerPage:
        """Return a page of the workers that were seen since then; see `Driver.worker_page`."""
        found: list[Worker] = []
        size = 0
        last: _Seen | None = None
        for one in self._latest_first(channel):
            if one.elapsed < elapsed:
                break
            if one.signed_off or (after is not None and one.elapsed >= after.seen):
                continue
            if last is not None and (len(found) == limit or size >= MAX_PAGE_BYTES):
                return WorkerPage(tuple(found), WorkerCursor(last.elapsed, last.worker.id))
            found.append(one.worker)
            size += _own_size(one.worker) + _size(one.worker.types)
            last = one
        return WorkerPage(tuple(found), None)

    def _latest_first(self, channel: str | None) -> Iterator[_Seen]:
        """Yield the workers, the latest first; with a channel, those that may be in it."""
        if channel is None:
            return reversed(self._workers.values())
        lists = [reversed(self._by_channel[one]) for one in (channel, None) if one in self._by_channel]
        seen = ((self._workers[id] for id in ids) for ids in lists)
        return heapq.merge(*seen, key=lambda one: one.elapsed, reverse=True)

    def _add(self, worker: Worker, moment: Moment, sent: int, *, signed_off: bool = False) -> None:
        """Add a worker that is not known. The client's own workers make room for it; without room it is left out."""
        described = worker.client, worker.types
        shared, count = self._types.get(described, (worker.types, 0))
        self._types[described] = shared, count + 1
        own = _own_size(worker)
        if self._make_room(worker.client, own if count else own + _size(shared)):
            seen_at = to_time(moment.now)
            problem = worker.problem or None
            added = msgspec.structs.replace(worker, types=shared, seen_at=seen_at, problem=problem, age=0.0)
            self._place(added, moment, sent, signed_off=signed_off)
        else:
            self._drop_types(worker)

    def _forget(self, worker: Worker) -> None:
        """Remove a worker, whose bytes its client may use again."""
        self._bytes.exchange(worker.client, self._remove(worker), 0)

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

    def _place(self, worker: Worker, moment: Moment, sent: int, *, signed_off: bool = False) -> None:
        """Put a worker where the worker is that was seen last. No two are at the same moment."""
        self._latest = max(moment.elapsed, self._latest + 1)
        self._workers[worker.id] = _Seen(worker, self._latest, sent, signed_off)
        self._workers.move_to_end(worker.id)
        own = self._by_client.setdefault(worker.client, OrderedDict())
        own[worker.id] = None
        own.move_to_end(worker.id)
        if not signed_off:
            channel = self._by_channel.setdefault(_channel(worker), OrderedDict())
            channel[worker.id] = None
            channel.move_to_end(worker.id)

    def _remove(self, worker: Worker) -> int:
        """Remove a worker, and return how many bytes of its client become free."""
        del self._workers[worker.id]
        own = self._by_client[worker.client]
        del own[worker.id]
        if not own:
            del self._by_client[worker.client]
        channel = self._by_channel.get(_channel(worker), own)
        channel.pop(worker.id, None)
        if not channel:
            self._by_channel.pop(_channel(worker), None)
        return _own_size(worker) + self._drop_types(worker)

    def _drop_types(self, worker: Worker) -> int:
        """Note that one worker less has these types, and return how many bytes that makes free."""
        described = worker.client, worker.types
        shared, count = self._types[described]
        if count > 1:
            self._types[described] = shared, count - 1
            return 0
        del self._types[described]
        return _size(shared)


def _says_something(worker: Worker) -> bool:
    """Return True if a contact says something of its worker, and is not only a sign of life."""
    return bool(worker.arch or worker.types) or worker.problem is not None


def _channel(worker: Worker) -> str | None:
    """Return the channel in which a worker has described itself; None if it has not."""
    return worker.channel if worker.arch or worker.types else None


def _belongs_to_another(known: Worker, worker: Worker) -> bool:
    """Return True if a contact names a worker that belongs to another client."""
    return bool(worker.client and known.client) and worker.client != known.client


def _described(before: Worker, worker: Worker) -> Worker:
    """Return a worker with what its contact says of it."""
    if worker.arch or worker.types:
        return worker
    if worker.problem is None:
        return before
    return msgspec.structs.replace(before, problem=worker.problem)


def _same(one: Worker, other: Worker) -> bool:
    """Return True if two workers are described in the same way, and belong to the same client."""
    return _description(one) == _description(other)


def _description(worker: Worker) -> tuple[object, ...]:
    return worker.arch, worker.types, worker.channel, worker.client, worker.problem or None


def _own_size(worker: Worker) -> int:
    """Return how many bytes a worker takes in memory without its types."""
    return _EACH + sum(map(sys.getsizeof, (worker.client, worker.channel, worker.problem or "")))


def _size(types: tuple[str, ...]) -> int:
    """Return how many bytes types take in memory."""
    return sys.getsizeof(types) + sum(map(sys.getsizeof, types))

"""The workers that were seen lately. They are remembered in memory only."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from uuid import UUID

import msgspec

from composerd.driver.clock import Moment, to_time
from composerd.models import Worker

MAX_WORKERS = 100_000
"""Largest number of workers that are remembered. The one that was seen longest ago is forgotten first."""


class _Seen(NamedTuple):
    """A worker, and when it was seen, in microseconds of the time that passes: the wall clock may jump."""

    worker: Worker
    elapsed: int


class Workers:
    """The workers, in the order in which they were last seen."""

    def __init__(self) -> None:
        self._workers: OrderedDict[UUID, _Seen] = OrderedDict()

    def seen(self, workers: Sequence[Worker], moment: Moment) -> None:
        """Remember that workers were seen; see `Driver.seen`."""
        for worker in workers:
            known = self._workers.get(worker.id)
            described = worker if worker.types or worker.arch or known is None else known.worker
            described = msgspec.structs.replace(described, seen_at=to_time(moment.now))
            self._workers[worker.id] = _Seen(described, moment.elapsed)
            self._workers.move_to_end(worker.id)
        while len(self._workers) > MAX_WORKERS:
            self._workers.popitem(last=False)

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

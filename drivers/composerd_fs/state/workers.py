"""The workers that were seen lately. They are remembered in memory only."""

from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from composerd.models import Worker

MAX_WORKERS = 100_000
"""Largest number of workers that are remembered. The one that was seen longest ago is forgotten first."""


class Workers:
    """The workers, in the order in which they were last seen."""

    def __init__(self) -> None:
        self._workers: OrderedDict[UUID, Worker] = OrderedDict()

    def seen(self, workers: Sequence[Worker], now: datetime) -> None:
        """Remember that workers were seen; see `Driver.seen`."""
        for worker in workers:
            known = worker if worker.types or worker.arch else self._workers.get(worker.id, worker)
            self._workers[worker.id] = msgspec.structs.replace(known, seen_at=now)
            self._workers.move_to_end(worker.id)
        while len(self._workers) > MAX_WORKERS:
            self._workers.popitem(last=False)

    def since(self, moment: datetime, ids: Sequence[UUID] | None = None) -> list[Worker]:
        """Return the workers that were seen since a moment, the latest first; only those of `ids`, if given."""
        found: list[tuple[datetime, Worker]] = []
        known = reversed(self._workers.values()) if ids is None else filter(None, map(self._workers.get, ids))
        for worker in known:
            if worker.seen_at is not None and worker.seen_at >= moment:
                found.append((worker.seen_at, worker))
            elif ids is None:
                break  # all others were seen earlier
        return [worker for _, worker in sorted(found, key=lambda one: one[0], reverse=True)]

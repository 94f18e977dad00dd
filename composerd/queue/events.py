"""Who waits for something to happen to a job: woken by the queue's own writes and by news from other servers."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from uuid import UUID


class Watch:
    """One watcher of one job."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Something happened."""
        self._event.set()

    async def changed(self, timeout: float) -> bool:
        """Wait until something has happened since the last look, `timeout` seconds at the most; whether it did."""
        try:
            async with asyncio.timeout(timeout):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


class Events:
    """The watchers, by job."""

    def __init__(self) -> None:
        self._watches: dict[UUID, set[Watch]] = {}

    def __len__(self) -> int:
        return sum(len(watches) for watches in self._watches.values())

    @contextmanager
    def watch(self, job_id: UUID) -> Iterator[Watch]:
        """Watch a job. Look at it after this begins, so that nothing falls in between."""
        watch = Watch()
        watches = self._watches.setdefault(job_id, set())
        watches.add(watch)
        try:
            yield watch
        finally:
            watches.discard(watch)
            if not watches and self._watches.get(job_id) is watches:
                del self._watches[job_id]

    def publish(self, job_ids: Iterable[UUID]) -> None:
        """Wake who watches these jobs."""
        for job_id in job_ids:
            for watch in self._watches.get(job_id, ()):
                watch.notify()

    def publish_all(self) -> None:
        """Wake everybody: news was lost, or the server drains."""
        self.publish(list(self._watches))

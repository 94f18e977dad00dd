"""Watches of jobs: requests that wait for a change of a job, woken by this server's writes and by other servers."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from uuid import UUID

from composerd.gate import Gate


class Watch:
    """One watch of one job. It remembers a change that comes while nobody waits in `changed`."""

    __slots__ = ("_client", "_event", "_gate", "over")

    def __init__(self, gate: Gate, client: str) -> None:
        self._gate = gate
        self._client = client
        self._event = asyncio.Event()
        self.over = False
        """True once the wait has to end, although its time is not over."""

    def end_early(self) -> None:
        """Wake the caller for the last time: another client needs its place."""
        self.over = True
        self._event.set()

    def notify(self) -> None:
        """Wake the caller that waits in `changed`: a few of a client at a time."""
        self._gate.call(self._client, self._event.set)

    async def changed(self, timeout: float) -> bool:
        """Wait until the job may have changed since the last call; return False if `timeout` seconds passed first."""
        late = False

        def wake() -> None:
            nonlocal late
            late = not self._event.is_set()
            self._event.set()

        alarm = asyncio.get_running_loop().call_later(timeout, self._gate.call, self._client, wake)
        try:
            await self._event.wait()
        finally:
            alarm.cancel()
        self._event.clear()
        return not late


class Events:
    """The watches, by job.

    A watch only says that a job may have changed: the request that waits reads the job again.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._watches: dict[UUID, set[Watch]] = {}

    @contextmanager
    def watch(self, job_id: UUID, client: str = "") -> Iterator[Watch]:
        """Watch a job for a client, for the length of a block.

        Read the job inside of the block, so that no change is missed between the read and the wait.
        """
        watch = Watch(self._gate, client)
        watches = self._watches.setdefault(job_id, set())
        watches.add(watch)
        try:
            yield watch
        finally:
            watches.discard(watch)
            if not watches and self._watches.get(job_id) is watches:
                del self._watches[job_id]

    def publish(self, job_ids: Iterable[UUID]) -> None:
        """Wake the watches of jobs that have changed."""
        for job_id in job_ids:
            for watch in self._watches.get(job_id, ()):
                watch.notify()

    def publish_all(self) -> None:
        """Wake every watch, because news was lost or the server stops."""
        self.publish(list(self._watches))

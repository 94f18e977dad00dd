"""Releases jobs that were claimed for a request and could not be delivered."""

import asyncio
import logging
from typing import Any
from uuid import UUID

from composerd.errors import ComposerdError
from composerd.models import Touch
from composerd.queue.writes import Writes

log = logging.getLogger(__name__)


class Undelivered:
    """Releases jobs that could not be delivered, uncounted, without letting anybody wait for the storage.

    If that fails, it is logged, and the job is requeued when its lease or its handover expires.
    """

    def __init__(self, writes: Writes) -> None:
        self._writes = writes
        self.releasing: dict[UUID, asyncio.Task[None]] = {}
        """The tokens of jobs that are being released unless their workers have called."""

    def release(self, token: UUID, *, named: bool = False) -> None:
        """Release a job.

        `named` is True if the request had an id: then its worker may have got the job by a repetition of the request,
        and the job is not released if the worker has called.
        """
        if not named:
            self._writes.release.write(token).add_done_callback(_log_failure)
        elif token not in self.releasing:
            task = self.releasing[token] = asyncio.create_task(self._release_unconfirmed(token))
            task.add_done_callback(_log_failure)
            task.add_done_callback(lambda _: self.releasing.pop(token))

    async def released(self, token: UUID) -> None:
        """Wait until the job of a request with an id is released, if it is being released."""
        if (task := self.releasing.get(token)) is not None:
            await asyncio.wait([task])

    async def close(self) -> None:
        """Wait until the jobs of all requests with an id are released, or that has failed."""
        while self.releasing:
            await asyncio.wait(list(self.releasing.values()))

    async def _release_unconfirmed(self, token: UUID) -> None:
        attempt = await self._writes.touch.write(Touch(token, confirm=False))
        if not attempt.confirmed:
            await self._writes.release.write(token)


def _log_failure(released: "asyncio.Future[Any]") -> None:
    if released.cancelled() or (error := released.exception()) is None:
        return
    if not (isinstance(error, ComposerdError) and error.logged):
        log.warning("releasing an undelivered job failed; it is requeued when its lease expires: %s", error)

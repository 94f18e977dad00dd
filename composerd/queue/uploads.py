"""The part of the queue for uploads: the files of an attempt, attaching one, and ending with the attempt."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

from composerd.driver import Driver
from composerd.errors import ComposerdError
from composerd.models import Artifact, Attached, Attachment, Attempt, AttemptState, Touch
from composerd.queue.events import Events
from composerd.queue.refusals import check_running
from composerd.queue.writes import Writes
from composerd.tasks import stop

LOOK_EVERY = 5.0
"""Interval in seconds at which an attempt is read again although no news of it has come: news may be lost."""


class Uploads:
    """The files of running attempts in the storage."""

    def __init__(self, driver: Driver, writes: Writes, events: Events) -> None:
        self._driver = driver
        self._writes = writes
        self._events = events

    async def attached(self, job_id: UUID) -> Sequence[Artifact]:
        """Return the files that are attached to the running attempt of a job."""
        return (await self._driver.artifacts([job_id]))[0]

    async def attach(self, attachment: Attachment) -> Attached:
        """Attach an uploaded file to a running attempt, unless it would exceed a limit, which the answer names.

        Raises what `check_running` raises for any other attempt.
        """
        attached: Attached = await self._writes.attach.write(attachment)
        check_running(attached.attempt)
        return attached

    @asynccontextmanager
    async def while_running(self, token: UUID, job_id: UUID, client: str = "") -> AsyncIterator[None]:
        """Run a block for as long as an attempt runs. The lease is not renewed.

        When the attempt is over, what the block awaits is canceled, and `check_running` raises the error for its state.
        """
        block = asyncio.timeout(None)
        over: list[Attempt] = []

        async def follow() -> None:
            with self._events.watch(job_id, client) as watch:
                while True:
                    try:
                        attempt = await self._writes.touch.write(Touch(token, confirm=False))
                    except ComposerdError:
                        pass  # the storage does not answer, which says nothing about the attempt
                    else:
                        if attempt.state is not AttemptState.RUNNING:
                            over.append(attempt)
                            block.reschedule(asyncio.get_running_loop().time())
                            return
                    await watch.changed(LOOK_EVERY)

        following = asyncio.create_task(follow(), name="attempt")
        try:
            async with block:
                yield
        except TimeoutError:
            for attempt in over:
                check_running(attempt)
            raise
        finally:
            await stop(following)

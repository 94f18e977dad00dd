"""Blocks of code that end with an attempt, however that ends."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from composerd.errors import ComposerdError
from composerd.models import Attempt, AttemptState
from composerd.queue.events import Watch
from composerd.queue.refusals import check_running
from composerd.tasks import stop

LOOK_EVERY = 5.0
"""Interval in seconds at which an attempt is read again although no news of it has come: news may be lost."""


@asynccontextmanager
async def while_running(read: Callable[[], Awaitable[Attempt]], watch: Watch) -> AsyncIterator[None]:
    """Run a block for as long as an attempt runs.

    When the attempt is over, what the block awaits is canceled, and `check_running` raises the error for the state of
    the attempt. `read` returns the attempt without renewing its lease, and `watch` is a watch of its job.
    """
    block = asyncio.timeout(None)
    over: list[Attempt] = []

    async def follow() -> None:
        while True:
            try:
                attempt = await read()
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

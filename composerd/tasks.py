"""Stops background tasks."""

import asyncio
from typing import Any

CANCEL_AGAIN_AFTER = 1.0
"""Seconds until a task that is still running is canceled again."""


async def stop(*tasks: "asyncio.Task[Any]") -> None:
    """Cancel tasks, and return once all of them have ended; their results and errors are ignored.

    A task that does not end is canceled again, because a cancellation can be lost: `asyncio.wait_for` of Python 3.11
    loses one that arrives together with the result that it waits for.
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN_AFTER)

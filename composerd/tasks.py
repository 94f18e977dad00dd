"""Tasks in the background: how they end."""

import asyncio
from typing import Any

AGAIN = 1.0
"""How long until a task that goes on is canceled again, in seconds."""


async def stop(*tasks: "asyncio.Task[Any]") -> None:
    """Cancel tasks and wait for their ends, whatever these are.

    More than once, should one of them go on: a cancellation can be lost, as `asyncio.wait_for` of Python 3.11 loses one
    that comes together with what it waits for.
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=AGAIN)

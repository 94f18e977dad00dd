"""Starting a storage that may not answer yet: the server listens without it and keeps trying."""

import asyncio
import logging
from collections.abc import Callable

from composerd.driver import Driver
from composerd.driver.outage import is_outage
from composerd.errors import Unavailable

log = logging.getLogger(__name__)

START_WITHIN = 3.0
"""Time in seconds that a shared storage may take to start before the server listens without it."""

RETRY_AFTER = 0.5
"""Pause in seconds before the start of a storage that did not answer is tried again."""


async def start_storage(driver: Driver, on_failure: Callable[[], None]) -> "asyncio.Task[None] | None":
    """Start the driver, and return None if it has started.

    A shared storage that does not answer yet must not keep the server from listening: then return a task that goes on
    starting it. Until it has started, requests that need the storage get error 28, and `/readyz` says so. Should it
    fail for good, the task calls `on_failure` and ends with the exception. Raises what `Driver.start` raises.
    """
    if not driver.capabilities.shared:
        await driver.start()
        return None
    first_try = asyncio.create_task(driver.start())
    await asyncio.wait([first_try], timeout=START_WITHIN)
    if first_try.done() and not is_outage(first_try.exception()):
        first_try.result()
        return None

    def check(done: "asyncio.Task[None]") -> None:
        if not done.cancelled() and done.exception() is not None:
            on_failure()

    task = asyncio.create_task(_keep_starting(driver, first_try), name="storage start")
    task.add_done_callback(check)
    return task


async def _keep_starting(driver: Driver, start: "asyncio.Task[None]") -> None:
    logged = ""
    if not start.done():
        log.warning("the storage is slow to start: requests that need it fail until it has started")
    while True:
        try:
            await start
        except Unavailable as exc:
            if not is_outage(exc):
                raise
            if str(exc) != logged:
                logged = str(exc)
                log.warning("the storage does not answer; retrying until it does: %s", logged)
        else:
            log.warning("the storage has started: requests that need it are served now")
            return
        await asyncio.sleep(RETRY_AFTER)
        start = asyncio.create_task(driver.start())

"""News of the other servers on a shared storage, and what happens while it is not available."""

import asyncio
import logging
from collections.abc import Callable
from typing import NoReturn

from composerd.driver.guard import Guard
from composerd.errors import ComposerdError
from composerd.models import News

log = logging.getLogger(__name__)

RETRY_AFTER = 0.5
"""The pause before the connection for news is opened again, in seconds."""


async def follow(driver: Guard, on_news: Callable[[News], None]) -> NoReturn:
    """Pass on the news of other servers until canceled.

    When the connection is lost, a recheck of everything stands for the news that was missed. If it cannot be opened
    again at once, that is logged, unless it is part of an outage that was logged.
    """
    failures = 0
    while True:
        try:
            async for news in driver.watch():
                failures = 0
                on_news(news)
        except ComposerdError as exc:
            failures += 1
            if failures == 2 and not driver.outage.lasts:
                log.warning(
                    "lost the notification connection; news of other servers is delayed until it is back: %s", exc
                )
        on_news(News(recheck=True))
        await asyncio.sleep(RETRY_AFTER)

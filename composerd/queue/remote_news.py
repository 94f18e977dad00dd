"""News of the other servers on a shared storage, and what happens while it is not available."""

import asyncio
import logging
from collections.abc import Callable
from typing import NoReturn

from composerd.driver import Driver
from composerd.errors import ComposerdError
from composerd.models import News

log = logging.getLogger(__name__)

RETRY_AFTER = 0.5
"""The pause before the connection for news is opened again, in seconds."""


async def follow(driver: Driver, on_news: Callable[[News], None]) -> NoReturn:
    """Pass on the news of other servers until canceled.

    When the connection is lost, a recheck of everything stands for the news that was missed. An outage is logged once.
    """
    connected = True
    while True:
        try:
            async for news in driver.watch():
                connected = True
                on_news(news)
        except ComposerdError as exc:
            if connected:
                log.warning(
                    "lost the notification connection; news of other servers is delayed until it is back: %s", exc
                )
            connected = False
        on_news(News(recheck=True))
        await asyncio.sleep(RETRY_AFTER)

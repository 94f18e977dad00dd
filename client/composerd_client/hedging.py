"""Asking again on a new connection while the first one is silent. The first answer counts."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from composerd_client.errors import ProxyAnswered, ServerUnreachable

log = logging.getLogger(__name__)

T = TypeVar("T")


async def first_answer(send: Callable[[bool], Coroutine[Any, Any, T]], again_after: Sequence[float]) -> T:
    """Send a request, and send it again after each of the pauses; return the first answer.

    `send` is called with True for each request but the first. A request that fails, or that a proxy answers, counts
    only if no other is left. The others are canceled, which closes their connections.
    """
    if not again_after:
        return await send(False)
    loop = asyncio.get_running_loop()
    began = loop.time()
    pauses = iter(again_after)
    first = asyncio.create_task(send(False))
    sent = {first}
    try:
        while True:
            done, left = await asyncio.wait(sent, timeout=next(pauses, None), return_when=asyncio.FIRST_COMPLETED)
            answered = [one for one in done if not isinstance(one.exception(), ServerUnreachable | ProxyAnswered)]
            if answered:
                if first in left:
                    log.info("a connection was silent for %.1f s, another one was answered", loop.time() - began)
                return answered[0].result()
            if not left:
                return done.pop().result()
            sent = left
            if not done:
                sent.add(asyncio.create_task(send(True)))
    finally:
        for one in sent:
            one.cancel()
        await asyncio.gather(*sent, return_exceptions=True)

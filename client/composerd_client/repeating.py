"""When a request is sent again: which failures may be over soon, and the pauses before the next attempt."""

import asyncio
import random
from collections.abc import Awaitable, Callable

from composerd_client.errors import ClientError, ProxyAnswered, RequestFailed, ServerUnreachable

FIRST_BACKOFF = 0.1
"""Seconds of the first pause before a request is repeated."""

LONGEST_BACKOFF = 10.0
"""Seconds of the longest pause before a request is repeated."""

REFUSED_FOR = 120.0
"""Seconds for which a proxy may refuse a request before the client gives up: the usual lease of a job."""

MOST_FAILURES = 6
"""Number of failures to send a body, one after the other, while composerd answers other requests."""

FOREVER = float("inf")

_SHORTEST_ROUND = 0.1
"""Seconds from one request that asks the server to wait to the next one, even if the server answers at once."""

_NOTHING_DONE = frozenset({503, 507})
"""Statuses of a composerd that is unavailable, stopping or full, and has not done anything."""

_ABOUT_THE_REQUEST = frozenset({411, 413, 414, 417, 431})
"""Statuses with which a proxy refuses a request because of its size or its headers, now and later."""


def may_pass(error: RequestFailed) -> bool:
    """Return True if the same request may get another answer later.

    A proxy that is restarted or cannot reach composerd may answer anything for a while: 404 without its routes, 405 or
    501 from a page for maintenance, 403, 408 or 429 when it is busy, or a page with status 200.
    """
    if isinstance(error, ProxyAnswered):
        return error.status not in _ABOUT_THE_REQUEST
    return error.status >= 500


def nothing_done(error: RequestFailed) -> bool:
    """Return True if composerd itself says that it has not done anything; a proxy does not know."""
    return error.status in _NOTHING_DONE and not isinstance(error, ProxyAnswered)


class Backoff:
    """Pauses between attempts to reach a server.

    Each pause is longer than the one before, and partly random, so that many clients do not return at the same moment.
    `patience` is the number of seconds after which it gives up. It gives up earlier if nothing but refusals of a proxy
    (4xx, 501) arrive for `refused_for` seconds.
    """

    def __init__(self, patience: float = FOREVER, refused_for: float = REFUSED_FOR) -> None:
        self._deadline = asyncio.get_running_loop().time() + patience
        self._refused_for = refused_for
        self._refused_since: float | None = None
        self._pause = FIRST_BACKOFF

    async def failed(self, error: ClientError, tell: Callable[[ClientError], None] | None = None) -> None:
        """Call `tell`, and wait before the next attempt; raise `error` instead if that would exceed the patience."""
        now = asyncio.get_running_loop().time()
        pause = self._pause * random.uniform(0.5, 1.0)
        deadline = self._deadline
        if isinstance(error, ProxyAnswered) and (400 <= error.status < 500 or error.status == 501):
            self._refused_since = now if self._refused_since is None else self._refused_since
            deadline = min(deadline, self._refused_since + self._refused_for)
        else:
            self._refused_since = None
        if now + pause > deadline:
            raise error
        if tell is not None:
            tell(error)
        await asyncio.sleep(pause)
        self._pause = min(self._pause * 2, LONGEST_BACKOFF)


class BodyBackoff(Backoff):
    """Pauses between attempts to send a body that something in between, or composerd, may never accept.

    A proxy may answer 502 or close the connection because composerd, or the proxy itself, has refused the request
    before its end. Nothing says so, but other requests are answered. So it gives up after some failures in a row, if
    `answers` says after each of them that composerd answers.
    """

    def __init__(self, answers: Callable[[], Awaitable[bool]]) -> None:
        super().__init__()
        self._answers = answers
        self._failures = 0

    async def failed(self, error: ClientError, tell: Callable[[ClientError], None] | None = None) -> None:
        """Call `tell`, and wait before the next attempt; raise an error instead if there should be none."""
        if isinstance(error, ProxyAnswered | ServerUnreachable) and await self._answers():
            self._failures += 1
        else:
            self._failures = 0
        if self._failures == MOST_FAILURES:
            what = error.reason.partition(": ")[0] if isinstance(error, ProxyAnswered) else str(error)
            why = f"{what}, {MOST_FAILURES} times in a row: composerd answers other requests, so it or a proxy refuses "
            why += "this one, probably as too large"
            if isinstance(error, ProxyAnswered):
                raise ProxyAnswered(error.status, why, error.proxy) from error
            raise ServerUnreachable(why) from error
        await super().failed(error, tell)


class Rounds:
    """Keeps a loop from asking without a pause, if the server does not wait as it is asked to."""

    def __init__(self) -> None:
        self._next = 0.0

    async def begin(self) -> None:
        """Wait until the beginning of the latest round is a moment ago."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._next - loop.time()))
        self._next = loop.time() + _SHORTEST_ROUND

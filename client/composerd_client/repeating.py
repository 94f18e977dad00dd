"""When a request is sent again: which failures may be over soon, and the pauses before the next attempt."""

import asyncio
import random
from collections.abc import Awaitable, Callable

from composerd_client.errors import ClientError, ProxyAnswered, RequestFailed, ServerUnreachable, TokenRefused

FIRST_BACKOFF = 0.1
"""Seconds of the first pause before a request is repeated."""

LONGEST_BACKOFF = 10.0
"""Seconds of the longest pause before a request is repeated."""

MOST_FAILURES = 6
"""Number of failures to send a body, one after the other, while composerd answers other requests."""

REFUSED_FOR = 60.0
"""Seconds for which such failures have to last before the body counts as refused."""

FOREVER = float("inf")

_SHORTEST_ROUND = 0.1
"""Seconds from one request that asks the server to wait to the next one, even if the server answers at once."""

_NOT_LET_IN = frozenset({16, 29, 30})
"""Numbers of the errors of a composerd that wants to know better who the client is, or does not let it do this."""

_QUOTA_USED_UP = 45
"""Number of the error for a quota that has room again later."""

_NOTHING_DONE = frozenset({28, 31, _QUOTA_USED_UP}) | _NOT_LET_IN
"""Numbers of the errors of a composerd that has not done anything: unavailable, stopping or full, or not for this
client."""

_LONGEST_TOLD = 60.0
"""Seconds of the longest pause that a server can ask for."""

_ABOUT_THE_REQUEST = frozenset({411, 413, 414, 417, 431})
"""Statuses with which a proxy refuses a request because of its body or its headers, now and later."""


def may_pass(error: RequestFailed, body: object = b"") -> bool:
    """Return True if the same request, with this body or None, may get another answer later.

    A proxy that is restarted or cannot reach composerd may answer anything for a while: 404 without its routes, 405 or
    501 from a page for maintenance, 403, 408 or 429 when it is busy, or a page with status 200.
    """
    if isinstance(error, ProxyAnswered):
        return body is None or error.status not in _ABOUT_THE_REQUEST
    return error.status >= 500 or error.number == _QUOTA_USED_UP


def not_let_in(error: ClientError) -> bool:
    """Return True if composerd refuses who the client is, its role or its tenant, or if there is no token for it."""
    return isinstance(error, TokenRefused) or (isinstance(error, RequestFailed) and error.number in _NOT_LET_IN)


def nothing_done(error: ClientError) -> bool:
    """Return True if composerd itself says that it has not done anything, or got no request; a proxy does not know."""
    return isinstance(error, TokenRefused) or (isinstance(error, RequestFailed) and error.number in _NOTHING_DONE)


class Backoff:
    """Pauses between attempts to reach a server.

    Each pause is longer than the one before, and partly random, so that many clients do not return at the same moment.
    Until a quota has room again, the pause is the one that the server asks for (`Retry-After`). `patience` is the
    number of seconds after which it gives up, and `longest` a limit for the pauses below the usual one.
    """

    def __init__(self, patience: float = FOREVER, *, longest: float = FOREVER) -> None:
        self._deadline = asyncio.get_running_loop().time() + patience
        self._longest = min(longest, LONGEST_BACKOFF)
        self._pause = min(FIRST_BACKOFF, longest)

    async def failed(self, error: ClientError, tell: Callable[[ClientError], None] | None = None) -> None:
        """Call `tell`, and wait before the next attempt; raise `error` instead if that would exceed the patience."""
        pause = self._pause * random.uniform(0.5, 1.0)
        if isinstance(error, RequestFailed) and error.number == _QUOTA_USED_UP:
            pause += min(error.retry_after, _LONGEST_TOLD)
        if asyncio.get_running_loop().time() + pause > self._deadline:
            raise error
        if tell is not None:
            tell(error)
        await asyncio.sleep(pause)
        self._pause = min(self._pause * 2, self._longest)


class BodyBackoff(Backoff):
    """Pauses between attempts to send a body that something in between, or composerd, may never accept.

    A proxy may answer 502 or close the connection because composerd, or the proxy itself, has refused the request
    before its end. Nothing says so, but other requests are answered. So it gives up after some failures in a row that
    have lasted for a while, if `answers` says after each of them that composerd answers.
    """

    def __init__(self, answers: Callable[[], Awaitable[bool]]) -> None:
        super().__init__()
        self._answers = answers
        self._failures = 0
        self._since = 0.0

    async def failed(self, error: ClientError, tell: Callable[[ClientError], None] | None = None) -> None:
        """Call `tell`, and wait before the next attempt; raise an error instead if there should be none."""
        now = asyncio.get_running_loop().time()
        if isinstance(error, ProxyAnswered | ServerUnreachable) and await self._answers():
            self._since = self._since if self._failures else now
            self._failures += 1
        else:
            self._failures = 0
        if self._failures >= MOST_FAILURES and now - self._since >= REFUSED_FOR:
            what = error.reason.partition(": ")[0] if isinstance(error, ProxyAnswered) else str(error)
            why = f"{what}, {self._failures} times in a row: composerd answers other requests, "
            why += "so it or a proxy refuses this one, probably as too large"
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

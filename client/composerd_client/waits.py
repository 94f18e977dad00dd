"""Lengths of the waits that the server is asked for, which are shorter if something in between ends long ones."""

import asyncio
import logging

from composerd_client.errors import ClientError, ProxyAnswered, ServerUnreachable

log = logging.getLogger(__name__)

_SHORTEST = 2.0
"""Seconds of the shortest wait that is asked for because longer ones were ended."""

_PART = 0.8
"""The part of the time after which a wait was ended that is asked for from then on."""

_SHORT_FOR = 3600.0
"""Seconds after which a long wait is tried again."""

_NOT_ABOUT_TIME = frozenset({502, 503})
"""Statuses of a proxy that has lost the server or has none: whether that was a limit shows only if it comes again."""


class Waits:
    """The longest waits that what is between this client and its server allows.

    Some proxies end a request that waits: Envoy after 15 s and h2o after 30 s, if nothing else is configured.
    """

    def __init__(self) -> None:
        self._longest = float("inf")
        self._until = 0.0
        self._suspected = 0.0
        """The seconds after which a wait was ended in a way that need not be a limit; 0 if none was."""
        self._suspected_at = 0.0

    def allowed(self, wait: float) -> float:
        """Return the seconds to ask for, where `wait` are wanted."""
        if asyncio.get_running_loop().time() > self._until:
            self._longest = float("inf")
        return min(wait, self._longest)

    def answered(self) -> None:
        """Note that the server has answered after a wait."""
        self._suspected = 0.0

    def ended(self, asked: float, seconds: float, error: ClientError) -> bool:
        """Note that a wait was ended by an error after so many seconds.

        Return True if shorter waits are asked for from now on, so that the request can be sent again at once.
        """
        waited = isinstance(error, ProxyAnswered) or (isinstance(error, ServerUnreachable) and error.sent)
        if not waited or not 1.0 <= seconds <= asked + 1.0:
            return False
        now = asyncio.get_running_loop().time()
        if not isinstance(error, ProxyAnswered) or error.status in _NOT_ABOUT_TIME:
            if self._suspected and now - seconds < self._suspected_at:
                return False  # this wait and the other were ended together
            before, self._suspected, self._suspected_at = self._suspected, seconds, now
            if abs(before - seconds) > 0.1 * seconds:
                return False  # perhaps the server itself has ended
        shorter = max(_SHORTEST, _PART * seconds)
        if shorter >= asked:
            return False
        if self._longest <= shorter:
            return True  # another request has shown it already
        self._longest = shorter
        self._until = now + _SHORT_FOR
        log.warning(
            "a wait of %.0f s was ended after %.1f s, asking for %.1f s at most from now on: %s",
            asked,
            seconds,
            shorter,
            error,
        )
        return True

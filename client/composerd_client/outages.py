"""Log lines about requests without an answer of composerd: at most one a minute, and one when there is one again."""

import asyncio
import logging
from types import TracebackType
from typing import Self

from composerd_client.errors import ClientError, ProxyAnswered, RequestFailed

log = logging.getLogger(__name__)

_SILENT_FOR = 60.0
"""Seconds after a line in which it is not repeated."""


class Outages:
    """The outages of one server, as its clients in this process see them."""

    def __init__(self) -> None:
        self._said: dict[str, float] = {}
        """When a line was last logged, by what failed, and by the error while it lasts."""

    def of(self, doing: str) -> "Outage":
        """Return a context for requests that are repeated until they succeed. `doing` says for what they are."""
        return Outage(self, doing)

    def may_say(self, *what: str) -> bool:
        """Return True if a line about any of this was not logged for a minute, and take it for logged now."""
        now = asyncio.get_running_loop().time()
        self._said = {one: at for one, at in self._said.items() if at > now - _SILENT_FOR}
        if any(one in self._said for one in what):
            return False
        self._said.update(dict.fromkeys(what, now))
        return True

    def forget(self, what: str) -> None:
        """Take a line for not logged."""
        self._said.pop(what, None)


class Outage:
    """The time in which one request fails again and again. Use it as a context manager."""

    def __init__(self, outages: Outages, doing: str) -> None:
        self._outages = outages
        self._doing = doing
        self._since: float | None = None
        self._error = ""
        """The error that was logged last; empty if none was."""

    def failed(self, error: ClientError) -> None:
        """Log that the request has failed and is repeated."""
        if self._since is None:
            self._since = asyncio.get_running_loop().time()
        if self._outages.may_say(self._doing, str(error)):
            self._error = str(error)
            log.warning("cannot %s, trying again: %s", self._doing, error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _type: type[BaseException] | None, exc: BaseException | None, _tb: TracebackType | None) -> None:
        if self._since is None or not self._error:
            return
        self._outages.forget(self._error)
        if exc is None or (isinstance(exc, RequestFailed) and not isinstance(exc, ProxyAnswered)):
            seconds = asyncio.get_running_loop().time() - self._since
            log.info("the server answers again, %.1f s after the first failure to %s", seconds, self._doing)

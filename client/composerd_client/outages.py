"""Log lines about requests without an answer of composerd: at most one a minute, and one when there is one again."""

import asyncio
import logging
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from composerd_client.errors import ClientError, ProxyAnswered, RequestFailed, ServerUnreachable
from composerd_protocol.escaping import without_tokens

log = logging.getLogger(__name__)

_SILENT_FOR = 60.0
"""Seconds after a line in which it is not repeated."""

_UNREACHABLE = ""
"""Stands for all errors of connections to a server."""


@dataclass(slots=True)
class _Lasting:
    """An error that requests meet again and again."""

    doing: str
    """The purpose of the request in the first line about it."""
    since: float
    latest: float
    requests: int = 0
    """The number of requests that have met it and go on."""
    said: float | None = None
    """The time when it was logged last; None if it was not."""


class Outages:
    """The outages of one server, as the requests of one client see them."""

    def __init__(self) -> None:
        self._lasting: dict[str, _Lasting] = {}
        """The errors that last, by their text."""
        self._said: dict[str, float] = {}
        """The time of the latest line about requests with a purpose, by the purpose."""

    def of(self, doing: str) -> "Outage":
        """Return a context for a request that is repeated until it succeeds. `doing` says what it is for."""
        return Outage(self, doing)

    def failed(self, doing: str, error: str, text: str, *, new: bool) -> None:
        """Log that a request has failed, unless this error or a failure of such a request was just logged.

        `text` describes the error. `new` says that the request has not met this error before.
        """
        now = asyncio.get_running_loop().time()
        lasting = self._lasting.get(error)
        if lasting is None or lasting.latest + _SILENT_FOR < now:
            lasting = self._lasting[error] = _Lasting(doing, now, now)
            self._lasting = {text: one for text, one in self._lasting.items() if one.latest + _SILENT_FOR >= now}
        lasting.latest = now
        lasting.requests = max(lasting.requests + new, 1)  # another request may have ended what this one still meets
        if (lasting.said is None or lasting.said + _SILENT_FOR <= now) and self.may_say(doing):
            if lasting.said is None:
                lasting.doing = doing
            lasting.said = now
            log.warning("cannot %s, trying again: %s", doing, text)

    def ended(self, errors: set[str], *, answered: bool) -> None:
        """Note the end of a request that has met these errors.

        If it is answered, log that those errors are over that have been logged, and errors whose requests have all
        been given up.
        """
        for error in errors:
            if (lasting := self._lasting.get(error)) is not None:
                lasting.requests -= 1
        if not answered or not self._lasting:
            return
        for error, lasting in list(self._lasting.items()):
            if error in errors or lasting.requests <= 0:
                del self._lasting[error]
                if lasting.said is not None:
                    seconds = asyncio.get_running_loop().time() - lasting.since
                    log.info("the server answers again, %.1f s after the first failure to %s", seconds, lasting.doing)

    def may_say(self, doing: str) -> bool:
        """Return True if nothing about such a request was logged for a minute, and take it for logged now."""
        now = asyncio.get_running_loop().time()
        self._said = {one: at for one, at in self._said.items() if at + _SILENT_FOR > now}
        return self._said.setdefault(doing, now) == now


class Outage:
    """The failures of one request until it succeeds. Use it as a context manager."""

    def __init__(self, outages: Outages, doing: str) -> None:
        self._outages = outages
        self._doing = doing
        self._errors: set[str] = set()

    def failed(self, error: ClientError) -> None:
        """Note that the request has failed and is repeated."""
        text = str(error)
        # A server that ends refuses connections a moment after it has closed those that it had: it is the same outage.
        key = _UNREACHABLE if type(error) is ServerUnreachable else text
        self._outages.failed(without_tokens(self._doing), key, text, new=key not in self._errors)
        self._errors.add(key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _type: type[BaseException] | None, exc: BaseException | None, _tb: TracebackType | None) -> None:
        of_composerd = isinstance(exc, RequestFailed) and not isinstance(exc, ProxyAnswered)
        self._outages.ended(self._errors, answered=exc is None or of_composerd)

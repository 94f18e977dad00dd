"""Slowing down those who try wrong credentials, and logging them."""

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from contextvars import Context

log = logging.getLogger(__name__)

AT_ONCE = 3
"""The wrong attempts of one client that are answered at once: somebody has mistaken one token for another."""

SHORTEST = 0.25
"""Seconds until the answer to the next one; each one after it takes twice as long as the one before."""

LONGEST = 4.0
"""The most seconds until an answer. A server that stops waits for longer by default."""

LONGEST_OF_A_CHECK = 1.0
"""The most seconds until an answer to a health check. A load balancer with an old token must not give up the server."""

FORGET_EVERY = 5.0
"""Seconds after which one wrong attempt of a client is forgotten, and then another one."""

MOST_REMEMBERED = 10
"""The most wrong attempts of one client that are remembered."""

MOST_CLIENTS = 10_000
"""The most clients that are remembered; then the one that has tried nothing for longest is forgotten."""

MOST_HELD_OF_A_CLIENT = 100
"""The most answers to one client that are held back at one time."""

MOST_HELD = 1_000
"""The most answers that are held back at one time."""

MOST_LINES_OF_A_CLIENT = 20
"""The most attempts of one client that have lines of their own within `WINDOW`; the others are counted."""

MOST_LINES = 1_000
"""The most attempts that have lines of their own within `WINDOW`."""

WINDOW = 60.0
"""Time in seconds in which lines are counted."""


class _Record:
    """The wrong attempts of one client."""

    __slots__ = ("attempts", "held", "latest", "reason", "unlogged")

    def __init__(self, now: float) -> None:
        self.attempts = 0.0
        """The number of those that are remembered."""
        self.latest = now
        self.held = 0
        self.unlogged = 0
        """The number of those in this minute that have no line."""
        self.reason = ""
        """The reason why the latest one is wrong."""


class WrongAttempts:
    """Holds the answers to wrong credentials back, for longer with each attempt of the same client.

    Credentials are verified in any case. So right ones are served as usual, also if they come from the same address.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._records: OrderedDict[str, _Record] = OrderedDict()
        """The records by client; the one whose latest attempt is longest ago comes first."""
        self._held = 0
        self._lines: Counter[str] = Counter()
        """The number of lines in this minute, by client."""
        self._timer: asyncio.TimerHandle | None = None

    def note(self, client: str, reason: str) -> None:
        """Log a wrong attempt whose answer cannot be held back, and remember it."""
        self._log(client, self._record(client), reason)

    async def hold(self, client: str, reason: str, longest: float = LONGEST) -> bool:
        """Log a wrong attempt, remember it, and return when it may be answered, after `longest` seconds at the latest.

        Returns False if it may be answered only because too many answers are held back: its connection has to be
        closed then, so that the next attempt takes longer.
        """
        record = self._record(client)
        self._log(client, record, reason)
        delay = min(self._delay(record), longest)
        if not delay:
            return True
        if record.held >= MOST_HELD_OF_A_CLIENT or self._held >= MOST_HELD:
            return False
        record.held += 1
        self._held += 1
        try:
            await asyncio.sleep(delay)
        finally:
            record.held -= 1
            self._held -= 1
        return True

    def close(self) -> None:
        """Log what is not logged yet."""
        if self._timer is not None:
            self._timer.cancel()
            self._next_minute()

    def _record(self, client: str) -> _Record:
        """Return the record of a client, with one attempt more."""
        now = self._clock()
        record = self._records.pop(client, None) or _Record(now)
        forgotten = (now - record.latest) / FORGET_EVERY
        record.attempts = min(max(record.attempts - forgotten, 0.0) + 1, MOST_REMEMBERED)
        record.latest = now
        self._records[client] = record
        if len(self._records) > MOST_CLIENTS:
            self._records.popitem(last=False)
        return record

    def _delay(self, record: _Record) -> float:
        """Return the time in seconds until an attempt is answered."""
        beyond = round(record.attempts) - AT_ONCE
        return min(SHORTEST * 2 ** (beyond - 1), LONGEST) if beyond > 0 else 0.0

    def _log(self, client: str, record: _Record, reason: str) -> None:
        """Log the first attempts of a client within a minute, and count the others."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(WINDOW, self._next_minute, context=Context())  # it is about no request
        if self._lines[client] >= MOST_LINES_OF_A_CLIENT or self._lines.total() >= MOST_LINES:
            record.unlogged += 1
            record.reason = reason
            return
        self._lines[client] += 1
        log.warning("refused the credentials of a request from %s: %s", client, reason)

    def _next_minute(self) -> None:
        """Log how many attempts there were in this minute besides those that were logged, and begin another one."""
        clients = attempts = 0
        for client, record in self._records.items():
            if not record.unlogged:
                continue
            if self._lines[client]:
                log.warning(
                    "refused the credentials of %d more requests from %s within a minute; the latest: %s",
                    record.unlogged,
                    client,
                    record.reason,
                )
            else:
                clients += 1
                attempts += record.unlogged
            record.unlogged = 0
        if clients:
            log.warning(
                "refused the credentials of %d requests from %d other clients within a minute", attempts, clients
            )
        self._lines.clear()
        self._timer = None

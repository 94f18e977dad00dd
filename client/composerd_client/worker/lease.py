"""The times that follow from the lease of a job, which the server tells with the job."""

from itertools import accumulate

from composerd_protocol.units import parse_duration

_UNTOLD = 60.0
"""Seconds of the lease if an older server does not tell it: less than the usual 120 s, because it may be shorter."""

_SHORTEST = 1.0
"""Seconds of the shortest lease that a worker believes."""

_LONGEST_WAIT = 20.0
"""Seconds that a heartbeat waits at most: less than the idle timeout of common proxies."""

_LONGEST_SILENCE = 10.0
"""Seconds by which an answer may be late, however long the lease is, before a new connection is tried."""

_CALL_AGAIN_AFTER = 2.0
"""Seconds after which a confirm is sent again: the server waits for it for 10 s by default, and does not tell."""

_RESULT_RATE = 1024**2
"""Bytes of a result that the server, and a proxy that keeps it at first, store in a second at least."""


class Lease:
    """The lease of an attempt. A silent connection must be noticed, and replaced, well before its end.

    With a lease of 120 s a heartbeat waits for 20 s, and is sent again on a new connection after 30 s without an
    answer, and then after 40, 60 and 100 s.
    """

    def __init__(self, text: str = "") -> None:
        """Take a duration as the server writes it. One that is empty or invalid is the lease of an older server."""
        try:
            told = parse_duration(text)
        except ValueError:
            told = _UNTOLD
        self.seconds = max(told, _SHORTEST)
        self.wait = min(_LONGEST_WAIT, self.seconds / 4)
        """Seconds that a heartbeat asks the server to wait; the server renews the lease before and after the wait."""
        self._silence = min(_LONGEST_SILENCE, self.seconds / 12)

    @property
    def longest_pause(self) -> float:
        """The longest pause between two heartbeats that fail, so that a lease outlasts an outage that is shorter."""
        return self._silence

    @property
    def heartbeat_again_after(self) -> list[float]:
        """The pauses after which a heartbeat without an answer is sent again, each time on a new connection."""
        return self._pauses(self.wait + self._silence)

    @property
    def call_again_after(self) -> list[float]:
        """The pauses for a request that does not wait, and that has to arrive within seconds: a confirm, a release."""
        return self._pauses(min(_CALL_AGAIN_AFTER, self._silence))

    def result_within(self, size: int) -> float:
        """Return the seconds that the answer to a result may take at first, before it is sent on a new connection."""
        return max(self._silence * 3, _CALL_AGAIN_AFTER) + size / _RESULT_RATE

    def _pauses(self, first: float) -> list[float]:
        """Return pauses that grow, so that a slow server is not asked too often, and end before the lease does."""
        pauses = [first, *(self._silence * 2**number for number in range(8))]
        return [pause for pause, at in zip(pauses, accumulate(pauses), strict=True) if at < self.seconds]

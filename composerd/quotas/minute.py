"""A limit on how often something happens within a minute."""

from collections import deque

WINDOW = 60
"""Number of seconds within which the limit holds."""


class Minute:
    """Counts what has happened within the last minute, to the second.

    A caller that adds only while `look` is below a limit never exceeds that limit within any 60 seconds. The memory is
    that of 61 numbers, whatever the limit is.
    """

    def __init__(self) -> None:
        self.count = 0
        """Number of things that have happened in the last 60 s, and in the second before."""
        self._seconds: deque[list[int]] = deque()
        """The seconds in which something has happened, and how often; the oldest comes first."""

    def look(self, now: float) -> int:
        """Forget what was earlier, and return the count."""
        seconds = self._seconds
        while seconds and seconds[0][0] < int(now) - WINDOW:
            self.count -= seconds.popleft()[1]
        return self.count

    def add(self, now: float) -> None:
        """Count one more."""
        self.count += 1
        second = int(now)
        if self._seconds and self._seconds[-1][0] == second:
            self._seconds[-1][1] += 1
        else:
            self._seconds.append([second, 1])

    def room_in(self, now: float, limit: int) -> float:
        """Return the seconds until fewer than `limit`, which is at least 1, have happened within a minute."""
        left = self.look(now)
        for second, count in self._seconds:
            if left < limit:
                break
            left -= count
            until = second + WINDOW + 1 - now
            if left < limit:
                return until
        return 0.0

"""Where claims begin to look for ready jobs of a key. Hints only, in memory; what they are for is said in the docs of the driver."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from composerd.models import Key
from composerd_postgres.news.changes import Position

FORGET_AFTER = 1.0
"""How long a position is relied on before all is looked at again, in seconds."""

FIRST: Position = (-(2**31) + 1, 0)
"""Before everything."""


class Flight:
    """One claim on its way: what became ready meanwhile."""

    def __init__(self) -> None:
        self.lowest: dict[Key, Position] = {}
        self.forgotten = False


class Heads:
    """What stood before a position of a key was taken already.

    Without it every claim walks over the index entries of all the jobs that were taken since the last vacuum, which a
    transaction that somebody holds open keeps from removing them. A position must not be too late: what becomes ready
    before it makes it void, and it is forgotten now and then, should a notification have been lost or a claim been
    rolled back.
    """

    def __init__(self) -> None:
        self._known: dict[Key, tuple[Position, float]] = {}
        self._flights: set[Flight] = set()

    def get(self, key: Key, now: float) -> Position:
        """Where to begin."""
        known = self._known.get(key)
        if known is None:
            return FIRST
        position, until = known
        if now >= until:
            del self._known[key]
            return FIRST
        return position

    @contextmanager
    def flight(self) -> Iterator[Flight]:
        """A claim is made inside of this."""
        flight = Flight()
        self._flights.add(flight)
        try:
            yield flight
        finally:
            self._flights.discard(flight)

    def taken(self, flight: Flight, key: Key, position: Position, now: float) -> None:
        """A claim took the job at this position, and all ready ones of the key before it."""
        lowest = flight.lowest.get(key)
        if flight.forgotten or (lowest is not None and lowest < position):
            return  # something became ready before it meanwhile, and the claim may not have seen it
        known = self._known.get(key)
        self._known[key] = (position, now + FORGET_AFTER if known is None else known[1])

    def became_ready(self, first: Mapping[Key, Position]) -> None:
        """Jobs became ready, the first of each key at this position."""
        for key, position in first.items():
            known = self._known.get(key)
            if known is not None and position < known[0]:
                del self._known[key]
            for flight in self._flights:
                flight.lowest[key] = min(position, flight.lowest.get(key, position))

    def forget(self) -> None:
        """Rely on nothing."""
        self._known.clear()
        for flight in self._flights:
            flight.forgotten = True

"""The requests that wait: how many there are, by client, and which of them ends early when there are too many."""

from collections import OrderedDict
from collections.abc import Callable
from heapq import heapify, heappop, heappush, heapreplace

import msgspec

from composerd.errors import Unavailable


class Wait(msgspec.Struct, eq=False):
    """One request that waits."""

    client: str
    units: int
    """The number of waits that it counts as: a request for a job of many types takes more memory."""
    end_early: Callable[[], None]
    """Called at most once, when the wait has to make room; its request is then answered as at the end of the wait."""


class Waits:
    """Counts waits, of which one client may have all until another comes.

    When there is no room, a client that has at least two fewer than the one that has most displaces that one's oldest
    waits, which are near their end anyway. With a smaller difference it does not, or both would go on displacing each
    other.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.count = 0
        """The number of requests that wait, including those that were displaced and have not been answered yet."""
        self._used = 0
        self._held: dict[str, int] = {}
        self._by_client: dict[str, OrderedDict[int, Wait]] = {}
        """The waits of each client by their identity, oldest first."""
        self._most: list[tuple[int, str]] | None = None
        """A heap with at least one entry for each client, that is no smaller than what it holds; None if not needed."""

    def begin(self, client: str, end_early: Callable[[], None], units: int = 1) -> Wait:
        """Count a wait until `end` is called for it. Raises `Unavailable` if there is no room."""
        if (lacking := self._used + units - self.limit) > 0:
            self._make_room(client, units, lacking)
        wait = Wait(client, units, end_early)
        waits = self._by_client.get(client)
        if waits is None:
            waits = self._by_client[client] = OrderedDict()
        waits[id(wait)] = wait
        self._held[client] = held = self._held.get(client, 0) + units
        self._used += units
        self.count += 1
        if self._most is not None:
            if len(self._most) > 2 * len(self._held) + 64:
                self._most = None
            else:
                heappush(self._most, (-held, client))
        return wait

    def end(self, wait: Wait) -> None:
        """End a wait, whether it was displaced or not."""
        self.count -= 1
        if id(wait) in self._by_client.get(wait.client, ()):
            self._remove(wait)

    def _make_room(self, client: str, units: int, lacking: int) -> None:
        """Displace waits, unless the client that has most would then have fewer than this one."""
        most = self._with_most()
        if most is None or self._held.get(client, 0) + units > self._held[most] - lacking:
            raise Unavailable("too many waiting requests", limit=self.limit)
        while self._used + units > self.limit:
            most = self._with_most()
            assert most is not None, "there is somebody who has enough"
            wait = next(iter(self._by_client[most].values()))
            self._remove(wait)
            wait.end_early()

    def _remove(self, wait: Wait) -> None:
        waits = self._by_client[wait.client]
        del waits[id(wait)]
        self._used -= wait.units
        if waits:
            self._held[wait.client] -= wait.units
        else:
            del self._by_client[wait.client], self._held[wait.client]

    def _with_most(self) -> str | None:
        """Return the client that holds most; None if nobody waits."""
        heap = self._most
        if heap is None:
            heap = self._most = [(-held, client) for client, held in self._held.items()]
            heapify(heap)
        while heap:
            entry, client = heap[0]
            held = self._held.get(client, 0)
            if held == -entry:
                return client
            if held:
                heapreplace(heap, (-held, client))
            else:
                heappop(heap)
        return None

"""The waiters for one key, in the order in which they may claim."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterator

import msgspec

from composerd.models import Claim, Claimed

Answer = asyncio.Future[Claimed | None]

LONG = 30.0
"""Time in seconds from which on a request comes before all newer ones of its client, and for which a client comes last
that has not answered."""


class Waiter(msgspec.Struct, eq=False):
    """One request that waits for a job."""

    claim: Claim
    client: str
    """The client that waits, in whose account the args of its job count."""
    answer: Answer
    since: float = 0.0
    """The time at which it began to wait, in seconds."""
    age: int = 0
    """The waiter's number in the list: the lowest is the oldest. It stays the same until the waiter is answered."""
    claiming: bool = False
    """True while a round that includes its claim is under way."""
    claimed: bool = False
    """True once a claim for it was answered, or was not needed: every other waiter gets one, however short its wait."""
    asleep: bool = False
    """True while it waits for news: no job of its keys was ready, and each that became ready since then is counted."""
    unknown: bool = False
    """True after a claim whose outcome is unknown, until it was repeated, with the same token."""
    named: bool = False
    """True if its token is derived from the id of its request, so that an earlier request may have used it."""
    vain: bool = False
    """True if it is known that there is no job of its keys, so that it need not claim unless its token has a job."""
    owns: bool = False
    """True if its token has a running attempt, so that its claim begins none."""
    counted: bool = False
    """True while its claim counts as a running job of its channel."""
    expired: bool = False
    """True once its time is up: the outcome of the claim under way, or of its first claim, is then its answer."""

    @property
    def channel(self) -> str:
        """The channel of the jobs that it waits for."""
        return self.claim.keys[0].channel


_Own = OrderedDict[int, Waiter]
"""The waiters of one client by age, the oldest first."""


class Line:
    """The waiters for one key. The clients take turns, and each client gets at most one job in a turn.

    The order:

    - In a turn, the client that asked last comes first: it is most surely there. A client that begins to wait joins the
      next turn, so no client gets two jobs before another one that waits has had its turn.
    - Of one client, a request that has waited for `LONG` seconds comes before all newer ones, and the one that has
      waited longest is the first. Then comes the newest request. So no request is passed over for longer than that by
      requests of its own client.
    - A client that did not answer a handover comes after all others until it asks again, or for `LONG` seconds.

    Adding, removing and finding the next waiter take the same time, however many wait.
    """

    __slots__ = ("_due", "_last", "_served", "_until", "asleep", "checked")

    def __init__(self) -> None:
        self.checked = 0
        """The number of the latest check in which the key was heated."""
        self.asleep = 0
        """Number of waiters that are asleep."""
        self._due: OrderedDict[str, _Own] = OrderedDict()
        """The clients that have not had their turn yet."""
        self._served: OrderedDict[str, _Own] = OrderedDict()
        """The clients that wait for the next turn."""
        self._last: OrderedDict[str, _Own] = OrderedDict()
        """The clients that come last; the one that does so for the longest comes first."""
        self._until: dict[str, float] = {}
        """The times until which these clients come last."""

    def __bool__(self) -> bool:
        """Return True if somebody waits."""
        return bool(self._due or self._served or self._last)

    def add(self, waiter: Waiter) -> None:
        """Add the newest waiter."""
        client = waiter.client
        if (own := self._due.get(client)) is not None:
            self._due.move_to_end(client, last=False)
        else:
            if (own := self._served.get(client)) is None:
                own = self._served[client] = (self._last and self._pardon(client)) or OrderedDict()
            self._served.move_to_end(client, last=False)
        own[waiter.age] = waiter

    def remove(self, waiter: Waiter) -> None:
        """Remove a waiter."""
        client = waiter.client
        for clients in (self._due, self._served, self._last):
            if (own := clients.get(client)) is not None:
                del own[waiter.age]
                if not own:
                    del clients[client]
                    if clients is self._last:
                        del self._until[client]
                return

    def served(self, client: str) -> None:
        """Note that a client got a job: its next turn comes after those of all others."""
        own = self._due.pop(client, None)
        if own is not None:
            self._served[client] = own
        elif client in self._served:
            self._served.move_to_end(client)

    def doubt(self, client: str, now: float) -> None:
        """Let a client that has not answered a handover come last."""
        own = self._due.pop(client, None) or self._served.pop(client, None)
        if own is not None:
            self._last[client] = own
            self._until[client] = now + LONG

    def in_order(self, now: float) -> Iterator[Waiter]:
        """Yield the waiters in the order in which they may claim; the line must not change meanwhile."""
        while self._last and self._until[client := next(iter(self._last))] <= now:
            if (own := self._pardon(client)) is not None:
                self._served[client] = own
        if not self._due:
            self._due, self._served = self._served, self._due
        yield from _in_turns(now, self._due, self._served)
        yield from _in_turns(now, self._last)

    def _pardon(self, client: str) -> _Own | None:
        """Remove a client from those that come last, and return its waiters, if it is one of them."""
        self._until.pop(client, None)
        return self._last.pop(client, None)


def _in_turns(now: float, *groups: OrderedDict[str, _Own]) -> Iterator[Waiter]:
    """Yield the waiters of clients: one of each, in the order of the groups, then the next of each, and so on."""
    later: deque[Iterator[Waiter]] = deque()
    for clients in groups:
        for own in clients.values():
            line = _of_client(own, now)
            yield next(line)
            later.append(line)
    while later:
        line = later.popleft()
        for waiter in line:
            yield waiter
            later.append(line)
            break


def _of_client(own: _Own, now: float) -> Iterator[Waiter]:
    """Yield the waiters of one client: those that have waited long, the oldest first, then the newest first."""
    long_since = now - LONG
    for waiter in own.values():
        if waiter.since > long_since:
            break
        yield waiter
    for waiter in reversed(own.values()):
        if waiter.since <= long_since:
            break
        yield waiter

"""The waiters, by the keys they wait for, and the decision which of them claim next. No I/O, no tasks, no clock.

Waking is level-triggered. A key is *hot* from the moment a job of it becomes ready until either as many jobs of it were
handed out as became ready, or a claim that covers the key, and was made after that moment, found nothing. While a key
is hot, the oldest waiters for it join the next round of claims. So a waiter that was woken for one key and got a job of
another leaves the first key hot for the next waiter.

Clients take turns at a key, and of each client the oldest waiter comes first. So a client that asks with thousands of
requests gets no more jobs of a key than another one that asks with a few, as long as that one waits.

No waiter sleeps while there is a ready job for it:

- A waiter sleeps only after a claim of its own found nothing. Every job of its keys that is ready now became ready
  after that claim, and was counted.
- A job that was handed out is subtracted from the count only if the key was not heated again since the claim was made,
  because the claim may not have seen the later job.

So the count is never below the number of ready jobs. If it is one too high, one claim finds nothing, and cools the key.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter

import msgspec

from composerd.models import Claim, Claimed, Key

Answer = asyncio.Future[Claimed | None]


class Waiter(msgspec.Struct, eq=False):
    """One request that waits for a job."""

    claim: Claim
    client: str
    """The client that waits, in whose account the args of its job count."""
    answer: Answer
    age: int = 0
    """The waiter's number in the list: the lowest is the oldest. It stays the same until the waiter is answered."""
    claiming: bool = False
    """True while a round that includes its claim is under way."""
    claimed: bool = False
    """True once a claim for it was answered. Every waiter gets one claim, however short its wait."""
    unknown: bool = False
    """True after a claim whose outcome is unknown, until it was repeated, with the same token."""
    expired: bool = False
    """True once its time is up: the outcome of the claim under way, or of its first claim, is then its answer."""


class _Heat(msgspec.Struct):
    """Number of ready jobs of a key, as far as known, and the round in which the last of them became ready."""

    count: int = 0
    round: int = 0


KEYS_IN_ROUND = 10_000
"""Number of keys of the waiters of a round from which on no further waiter joins it."""

KEYS_CHECKED = 1_000
"""Number of keys that are looked at in one round because news may have been lost."""

_AGE = attrgetter("age")


class Line:
    """The waiters for one key: the clients take turns, and of each client the oldest waiter comes first."""

    __slots__ = ("checked", "clients")

    def __init__(self) -> None:
        self.checked = 0
        """The number of the latest check in which the key was heated."""
        self.clients: OrderedDict[str, OrderedDict[int, Waiter]] = OrderedDict()
        """The waiters by client and age; the client whose turn is next comes first."""

    def add(self, waiter: Waiter) -> None:
        """Add a waiter. A client that had none comes after all others."""
        own = self.clients.get(waiter.client)
        if own is None:
            own = self.clients[waiter.client] = OrderedDict()
        own[waiter.age] = waiter

    def remove(self, waiter: Waiter) -> None:
        """Remove a waiter."""
        own = self.clients[waiter.client]
        del own[waiter.age]
        if not own:
            del self.clients[waiter.client]

    def served(self, client: str) -> None:
        """Note that a client got a job: its next turn comes after those of all others."""
        if client in self.clients:
            self.clients.move_to_end(client)

    def in_turns(self) -> Iterator[Waiter]:
        """Yield the waiters in the order in which they may claim; the line must not change meanwhile."""
        later: deque[Iterator[Waiter]] = deque()
        for own in self.clients.values():
            line = iter(own.values())
            yield next(line)
            later.append(line)
        while later:
            line = later.popleft()
            for waiter in line:
                yield waiter
                later.append(line)
                break


class WaitList:
    """The waiters by key and age, and the keys that are hot."""

    def __init__(self) -> None:
        self._waiters: dict[int, Waiter] = {}
        self._by_key: dict[Key, Line] = {}
        self._fresh: OrderedDict[int, Waiter] = OrderedDict()
        """Waiters that claim in the next round, whatever is hot."""
        self._hot: OrderedDict[Key, _Heat] = OrderedDict()
        self._unchecked: deque[Waiter] = deque()
        """Waiters whose keys the check that is under way has not heated yet."""
        self._check = 0
        self._check_again = False
        self._ages = 0
        self._round = 0

    def __len__(self) -> int:
        """Return the number of waiters."""
        return len(self._waiters)

    def everyone(self) -> list[Waiter]:
        """Return the waiters, oldest first."""
        return list(self._waiters.values())

    def add(self, waiter: Waiter) -> None:
        """Add a waiter; its first claim joins the next round, whatever is hot."""
        self._ages = waiter.age = age = self._ages + 1
        self._waiters[age] = waiter
        self._fresh[age] = waiter
        for key in waiter.claim.keys:
            line = self._by_key.get(key)
            if line is None:
                line = self._by_key[key] = Line()
            line.add(waiter)

    def remove(self, waiter: Waiter) -> None:
        """Remove a waiter that was answered or has gone. Removing it again does nothing."""
        age = waiter.age
        if self._waiters.pop(age, None) is None:
            return
        self._fresh.pop(age, None)
        for key in waiter.claim.keys:
            line = self._by_key[key]
            line.remove(waiter)
            if not line.clients:
                del self._by_key[key]
                self._hot.pop(key, None)  # the next waiter for it claims anyway

    def heat(self, ready: Mapping[Key, int]) -> None:
        """Count jobs that became ready."""
        for key, count in ready.items():
            if key not in self._by_key:
                continue
            heat = self._hot.get(key)
            if heat is None:
                heat = self._hot[key] = _Heat()
            heat.count += count
            heat.round = self._round

    def heat_all(self) -> None:
        """Let one waiter of each key that is not hot claim, in case news of a ready job was lost.

        There may be very many keys, so `pick` heats some of them at a time.
        """
        if self._unchecked:
            self._check_again = True
        else:
            self._check += 1
            self._unchecked.extend(self._waiters.values())

    @property
    def checking(self) -> bool:
        """True if there are keys left to be heated: `pick` may return nobody, and somebody the next time."""
        return bool(self._unchecked)

    def pick(self, limit: int) -> Sequence[Waiter]:
        """Begin a round: return the waiters that claim in it, at most `limit`, oldest first. `end_round` ends it.

        There are fewer if they have many keys. The cost depends on the waiters that are picked and on their keys, not
        on the number of waiters.
        """
        if self._unchecked:
            self._heat_some()
        picked: dict[int, Waiter] = {}
        keys = 0
        while self._fresh and len(picked) < limit and keys < KEYS_IN_ROUND:
            age, waiter = self._fresh.popitem(last=False)
            picked[age] = waiter
            keys += len(waiter.claim.keys)
        for _ in range(len(self._hot)):
            if len(picked) >= limit or keys >= KEYS_IN_ROUND:
                break
            key = next(iter(self._hot))
            room = min(self._hot[key].count, limit - len(picked))
            self._hot.move_to_end(key)  # so that a key with many jobs does not crowd out the others
            for waiter in self._by_key[key].in_turns():
                if room == 0 or keys >= KEYS_IN_ROUND:
                    break
                if waiter.age not in picked:
                    picked[waiter.age] = waiter
                    keys += len(waiter.claim.keys)
                    room -= 1
        self._round += 1
        for waiter in picked.values():
            waiter.claiming = True
        return sorted(picked.values(), key=_AGE)

    def end_round(self, waiters: Sequence[Waiter], outcomes: Sequence[Claimed | None]) -> None:
        """Take in the outcomes of claims of the round, and remove the waiters that got a job or whose time is up."""
        for waiter, claimed in zip(waiters, outcomes, strict=True):
            waiter.claiming = False
            waiter.claimed = True
            if claimed is not None:
                self._cool(claimed.key, 1)
                if (line := self._by_key.get(claimed.key)) is not None:
                    line.served(waiter.client)
            else:
                for key in waiter.claim.keys:
                    self._cool(key, None)
            if claimed is not None or waiter.expired:
                self.remove(waiter)

    def retry(self, waiters: Sequence[Waiter]) -> None:
        """Put waiters of the round whose claims were not answered at the head of the next round."""
        for waiter in reversed(waiters):
            waiter.claiming = False
            if waiter.age in self._waiters:
                self._fresh[waiter.age] = waiter
                self._fresh.move_to_end(waiter.age, last=False)

    def _heat_some(self) -> None:
        """Heat keys of waiters that the check has not come to yet."""
        keys = 0
        while self._unchecked and keys < KEYS_CHECKED:
            waiter = self._unchecked.popleft()
            keys += 1
            if waiter.age not in self._waiters:
                continue
            for key in waiter.claim.keys:
                line = self._by_key[key]
                if line.checked != self._check:
                    line.checked = self._check
                    if key not in self._hot:
                        self._hot[key] = _Heat(1, self._round)
            keys += len(waiter.claim.keys)
        if not self._unchecked and self._check_again:
            self._check_again = False
            self.heat_all()

    def _cool(self, key: Key, handed_out: int | None) -> None:
        """Subtract jobs that were handed out; None means that none are left."""
        heat = self._hot.get(key)
        if heat is None or heat.round >= self._round:
            return  # heated since this round began: its claims may not have seen that job
        if handed_out is not None and heat.count > handed_out:
            heat.count -= handed_out
        else:
            del self._hot[key]

"""The waiters, by the keys they wait for, and the decision which of them claim next. No I/O, no tasks, no clock.

Waking is level-triggered. A key is *hot* from the moment a job of it becomes ready until either as many jobs of it were
handed out as became ready, or a claim that covers the key, and was made after that moment, found nothing. While a key
is hot, the oldest waiters for it join the next round of claims. So a waiter that was woken for one key and got a job of
another leaves the first key hot for the next waiter.

No waiter sleeps while there is a ready job for it:

- A waiter sleeps only after a claim of its own found nothing. Every job of its keys that is ready now became ready
  after that claim, and was counted.
- A job that was handed out is subtracted from the count only if the key was not heated again since the claim was made,
  because the claim may not have seen the later job.

So the count is never below the number of ready jobs. If it is one too high, one claim finds nothing, and cools the key.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from operator import attrgetter

import msgspec

from composerd.models import Claim, Claimed, Key

Answer = asyncio.Future[Claimed | None]


class Waiter(msgspec.Struct, eq=False):
    """One request that waits for a job."""

    claim: Claim
    age: int
    """The waiter's number: the lowest is the oldest. It stays the same until the waiter is answered."""
    answer: Answer
    client: str = ""
    """The client that waits, in whose account the args of its job count."""
    claiming: bool = False
    """True while a round that includes its claim is under way."""
    claimed: bool = False
    """True once a claim for it was answered. Every waiter gets one claim, however short its wait."""
    expired: bool = False
    """True once its time is up: the outcome of the claim under way, or of its first claim, is then its answer."""


class _Heat(msgspec.Struct):
    """Number of ready jobs of a key, as far as known, and the round in which the last of them became ready."""

    count: int = 0
    round: int = 0


_AGE = attrgetter("age")


class WaitList:
    """The waiters by key and age, and the keys that are hot."""

    def __init__(self) -> None:
        self._waiters: dict[int, Waiter] = {}
        self._by_key: dict[Key, OrderedDict[int, Waiter]] = {}
        self._fresh: OrderedDict[int, Waiter] = OrderedDict()
        """Waiters that claim in the next round, whatever is hot."""
        self._hot: OrderedDict[Key, _Heat] = OrderedDict()
        self._ages = 0
        self._round = 0

    def __len__(self) -> int:
        """Return the number of waiters."""
        return len(self._waiters)

    def everyone(self) -> list[Waiter]:
        """Return the waiters, oldest first."""
        return list(self._waiters.values())

    def add(self, claim: Claim, answer: Answer, client: str = "") -> Waiter:
        """Add a waiter; its first claim joins the next round, whatever is hot."""
        self._ages = age = self._ages + 1
        waiter = Waiter(claim, age, answer, client)
        self._waiters[age] = waiter
        self._fresh[age] = waiter
        for key in claim.keys:
            line = self._by_key.get(key)
            if line is None:
                line = self._by_key[key] = OrderedDict()
            line[age] = waiter
        return waiter

    def remove(self, waiter: Waiter) -> None:
        """Remove a waiter that was answered or has gone. Removing it again does nothing."""
        age = waiter.age
        if self._waiters.pop(age, None) is None:
            return
        self._fresh.pop(age, None)
        for key in waiter.claim.keys:
            line = self._by_key[key]
            del line[age]
            if not line:
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
        """Let one waiter of each key that is not hot claim, in case news of a ready job was lost."""
        self.heat({key: 1 for key in self._by_key if key not in self._hot})

    def pick(self, limit: int) -> Sequence[Waiter]:
        """Begin a round: return the waiters that claim in it, at most `limit`, oldest first. `end_round` ends it.

        The cost depends on the waiters that are picked and on the hot keys, not on the number of waiters.
        """
        picked: dict[int, Waiter] = {}
        while self._fresh and len(picked) < limit:
            age, waiter = self._fresh.popitem(last=False)
            picked[age] = waiter
        for key in list(self._hot):
            room = min(self._hot[key].count, limit - len(picked))
            if limit <= len(picked):
                break
            self._hot.move_to_end(key)  # so that a key with many jobs does not crowd out the others
            for age, waiter in self._by_key[key].items():
                if room == 0:
                    break
                if age not in picked:
                    picked[age] = waiter
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

    def _cool(self, key: Key, handed_out: int | None) -> None:
        """Subtract jobs that were handed out; None means that none are left."""
        heat = self._hot.get(key)
        if heat is None or heat.round >= self._round:
            return  # heated since this round began: its claims may not have seen that job
        if handed_out is not None and heat.count > handed_out:
            heat.count -= handed_out
        else:
            del self._hot[key]

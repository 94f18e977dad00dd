"""Who waits for which keys, and who is to be woken next: the dispatcher's decisions, without I/O, tasks or clocks.

Waking is level-triggered. A key is *hot* from the moment a job of it became ready until as many jobs of it were handed
out, or until a claim that covers the key and was made after that moment came back with nothing. While it is hot, the
oldest waiters that fit join the next claim. So a waiter that was woken for one key and got a job of another leaves the
first key hot for the next waiter, and nobody sleeps beside work:

A waiter sleeps only after a claim of its own found nothing, so every job of its keys that is ready now became ready
after that claim, and was counted. A handed-out job is taken off the count only if the key was not heated again since
the claim was made (the claim may not have seen that job). So the count is never below the number of ready jobs; one
above it costs a claim in vain, which cools the key.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from composerd.models import Claim, Claimed, Key

Answer = asyncio.Future[Claimed | None]


class Waiter:
    """One open question for a job."""

    __slots__ = ("age", "answer", "asked", "claim", "claiming", "expired")

    def __init__(self, claim: Claim, age: int, answer: Answer) -> None:
        self.claim = claim
        self.age = age
        """Its place in line; kept until it is answered."""
        self.answer = answer
        self.claiming = False
        """A claim for it is on the way."""
        self.asked = False
        """A claim for it has been answered; everybody gets one, however short the wait."""
        self.expired = False
        """Its time is up: the outcome of the claim on its way, or of its first, is its answer."""


class _Heat:
    """How many jobs of a key are known to be ready, and the round in which the last of them became so."""

    __slots__ = ("count", "round")

    def __init__(self) -> None:
        self.count = 0
        self.round = 0


class WaitList:
    """The waiters by key and age, and the keys that are hot."""

    def __init__(self) -> None:
        self._waiters: dict[int, Waiter] = {}
        self._by_key: dict[Key, OrderedDict[int, Waiter]] = {}
        self._fresh: OrderedDict[int, Waiter] = OrderedDict()
        self._hot: OrderedDict[Key, _Heat] = OrderedDict()
        self._ages = 0
        self._round = 0

    def __len__(self) -> int:
        return len(self._waiters)

    def everyone(self) -> list[Waiter]:
        """The waiters, oldest first."""
        return list(self._waiters.values())

    def add(self, claim: Claim, answer: Answer) -> Waiter:
        """Take in a new waiter; its first claim is made with the next round, whatever is hot."""
        self._ages += 1
        waiter = Waiter(claim, self._ages, answer)
        self._waiters[waiter.age] = waiter
        self._fresh[waiter.age] = waiter
        for key in claim.keys:
            line = self._by_key.get(key)
            if line is None:
                line = self._by_key[key] = OrderedDict()
            line[waiter.age] = waiter
        return waiter

    def remove(self, waiter: Waiter) -> None:
        """Let a waiter go: answered, or gone. Fine to repeat."""
        if self._waiters.pop(waiter.age, None) is None:
            return
        self._fresh.pop(waiter.age, None)
        for key in waiter.claim.keys:
            line = self._by_key[key]
            del line[waiter.age]
            if not line:
                del self._by_key[key]
                self._hot.pop(key, None)  # whoever comes next claims by itself

    def heat(self, ready: Mapping[Key, int]) -> None:
        """Learn that jobs became ready."""
        for key, count in ready.items():
            if key not in self._by_key:
                continue
            heat = self._hot.get(key)
            if heat is None:
                heat = self._hot[key] = _Heat()
            heat.count += count
            heat.round = self._round

    def heat_all(self) -> None:
        """Treat the store as the truth: let one waiter of each key that is not hot look again."""
        self.heat({key: 1 for key in self._by_key if key not in self._hot})

    def pick(self, limit: int) -> Sequence[Waiter]:
        """Choose whose claims go into the next round, oldest first; `settle` ends the round.

        The cost is that of those chosen and of the hot keys, not of those who wait.
        """
        chosen: dict[int, Waiter] = {}
        while self._fresh and len(chosen) < limit:
            age, waiter = self._fresh.popitem(last=False)
            chosen[age] = waiter
        for key in list(self._hot):
            room = min(self._hot[key].count, limit - len(chosen))
            if limit <= len(chosen):
                break
            self._hot.move_to_end(key)  # so that a key of many jobs does not crowd out the others
            for age, waiter in self._by_key[key].items():
                if room == 0:
                    break
                if age not in chosen:
                    chosen[age] = waiter
                    room -= 1
        self._round += 1
        for waiter in chosen.values():
            waiter.claiming = True
        return sorted(chosen.values(), key=lambda waiter: waiter.age)

    def settle(self, waiters: Sequence[Waiter], outcomes: Sequence[Claimed | None]) -> None:
        """Learn what claims of the round came back with; waiters that got a job, or whose time is up, are not kept."""
        for waiter, claimed in zip(waiters, outcomes, strict=True):
            waiter.claiming = False
            waiter.asked = True
            if claimed is not None:
                self._cool(claimed.key, 1)
            else:
                for key in waiter.claim.keys:
                    self._cool(key, None)
            if claimed is not None or waiter.expired:
                self.remove(waiter)

    def again(self, waiters: Sequence[Waiter]) -> None:
        """Put waiters whose claims were not answered at the head of the next round."""
        for waiter in reversed(waiters):
            waiter.claiming = False
            if waiter.age in self._waiters:
                self._fresh[waiter.age] = waiter
                self._fresh.move_to_end(waiter.age, last=False)

    def _cool(self, key: Key, count: int | None) -> None:
        heat = self._hot.get(key)
        if heat is None or heat.round >= self._round:
            return  # heated since this round was picked: its claims may not have seen that job
        if count is not None and heat.count > count:
            heat.count -= count
        else:
            del self._hot[key]

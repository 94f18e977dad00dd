"""Hints for claims: for each key the position before which there is no ready job. They are kept in memory only.

Every job that is taken leaves a dead entry in the index of ready jobs until vacuum removes it, which a long transaction
of anybody prevents. Without a hint each claim would have to skip all the dead entries since then.

A hint must never be too late. So it is dropped when a job becomes ready before it, and once a second in any case: a
notification may have been lost, or the claim that led to the hint may have been rolled back.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping

import msgspec

from composerd.models import Key
from composerd_postgres.news.changes import ReadyPosition

FORGET_AFTER = 1.0
"""Time in seconds that a hint is used."""

FIRST: ReadyPosition = (-(2**31) + 1, 0)
"""A position before all others."""


class RunningClaim(msgspec.Struct, eq=False):
    """A claim that is being made: where it begins, and what became ready since then."""

    begins: dict[Key, ReadyPosition]
    """For each key that it asks for, the position at which it begins to look."""
    became_ready: dict[Key, ReadyPosition] = {}
    """For each key the first position that became ready since; the claim may not have seen that job."""
    outdated: bool = False
    """True if everything was forgotten since."""


class ClaimHints:
    """The hints of all keys.

    They are only a help: without a hint, a claim begins at the first position and takes longer.
    """

    def __init__(self) -> None:
        self._hints: OrderedDict[Key, tuple[ReadyPosition, float]] = OrderedDict()
        """For each key the hint, and the time until which it is used; the one that ends first comes first."""
        self._running: list[RunningClaim] = []

    def begin(self, wanted: Iterable[Iterable[Key]], now: float) -> RunningClaim:
        """Return where a claim of these keys begins to look. Call `end` when it is done, even if it failed."""
        claim = RunningClaim({})
        for keys in wanted:
            for key in keys:
                position, until = self._hints.get(key, (FIRST, now))
                if now >= until:
                    self._hints.pop(key, None)
                    position = FIRST
                claim.begins[key] = position
        self._running.append(claim)
        return claim

    def end(self, claim: RunningClaim, taken: Mapping[Key, ReadyPosition], now: float) -> None:
        """Use what a claim found out: it took for each key all the ready jobs up to a position."""
        self._running.remove(claim)
        while self._hints and next(iter(self._hints.values()))[1] <= now:
            self._hints.popitem(last=False)
        if claim.outdated:
            return
        for key, position in taken.items():
            if claim.became_ready.get(key, position) >= position:
                _, until = self._hints.get(key, (FIRST, now + FORGET_AFTER))
                self._hints[key] = (position, until)

    def became_ready(self, first: Mapping[Key, ReadyPosition]) -> None:
        """Drop the hints that are too late, given for each key the first of the jobs that became ready."""
        for key, position in first.items():
            hint = self._hints.get(key)
            if hint is not None and position < hint[0]:
                del self._hints[key]
            for claim in self._running:
                claim.became_ready[key] = min(position, claim.became_ready.get(key, position))

    def forget(self) -> None:
        """Drop all hints, because anything may have become ready."""
        self._hints.clear()
        for claim in self._running:
            claim.outdated = True

"""The waiters, by the keys they wait for, and the decision which of them claim next. No I/O, no tasks, no clock.

Waking is level-triggered. A key is *hot* from the moment a job of it becomes ready until either as many jobs of it were
handed out as became ready, or a claim that covers the key, and was made after that moment, found nothing. While a key
is hot, the first waiters for it join the next round of claims. So a waiter that was woken for one key and got a job of
another leaves the first key hot for the next waiter.

Which waiters for a key are the first is decided in `line`: clients take turns, and of each client the newest request
comes first, unless another one has waited long. So a client that asks with thousands of requests gets no more jobs of a
key than another one that asks with a few, as long as that one waits.

No waiter sleeps while there is a ready job for it:

- A waiter sleeps only after a claim of its own found nothing. Every job of its keys that is ready now became ready
  after that claim, and was counted.
- Or it sleeps because others did for each of its keys when it arrived, so that what is ready now was counted too. A
  claim of its own could only take a job away from those whose turn it is, before the news of that job is heard.
- A job that was handed out is subtracted from the count only if the key was not heated again since the claim was made,
  because the claim may not have seen the later job.

So the count is never below the number of ready jobs. If it is one too high, one claim finds nothing, and cools the key.

A channel may have room for some running jobs only. Of its waiters no more claim in a round than it has room for. While
it has none, its hot keys are held back (`held_back`) with their counts, so that no round looks at them. A waiter that
has just arrived then sleeps although it has not claimed, and its keys stay hot until a claim finds nothing.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence

from composerd.models import Claimed, Key
from composerd.queue.held_back import MANY, UNREAD, Heat, HeldBack, Rooms
from composerd.queue.line import Line, Waiter

KEYS_IN_ROUND = 10_000
"""Number of keys of the waiters of a round from which on no further waiter joins it."""

KEYS_CHECKED = 1_000
"""Number of keys that are looked at in one round because news may have been lost."""


class WaitList:
    """The waiters by key and age, and the keys that are hot."""

    def __init__(self, held_back: HeldBack | None = None, room: Callable[[str], int | None] | None = None) -> None:
        """Create an empty list. `room` returns how many more jobs of a channel may run, see `Rooms`."""
        self.held_back = HeldBack() if held_back is None else held_back
        self._room = room
        self._over: list[Waiter] = []
        """Waiters whose time was up when they would have claimed, but for which there was no room."""
        self._waiters: dict[int, Waiter] = {}
        self._by_key: dict[Key, Line] = {}
        self._fresh: OrderedDict[int, Waiter] = OrderedDict()
        """Waiters that claim in the next round, whatever is hot."""
        self._hot: OrderedDict[Key, Heat] = OrderedDict()
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
        """Add a waiter; its first claim joins the next round, unless it is known already that there is no job for it.

        A named waiter joins the next round in any case, because it may have a job already.
        """
        self._ages = waiter.age = age = self._ages + 1
        self._waiters[age] = waiter
        vain = True
        for key in waiter.claim.keys:
            line = self._by_key.get(key)
            if line is None:
                line = self._by_key[key] = Line()
            vain = vain and line.asleep > 0 and key not in self._hot
            line.add(waiter)
        if vain and not waiter.named:
            waiter.claimed = True
            self._sleep(waiter)
        else:
            waiter.vain = vain
            self._fresh[age] = waiter

    def remove(self, waiter: Waiter) -> None:
        """Remove a waiter that was answered or has gone. Removing it again does nothing."""
        age = waiter.age
        if self._waiters.pop(age, None) is None:
            return
        self._fresh.pop(age, None)
        self._wake(waiter)
        if self._room is not None:
            self.held_back.forget(waiter)
        for key in waiter.claim.keys:
            line = self._by_key[key]
            line.remove(waiter)
            if not line:
                del self._by_key[key]
                self._hot.pop(key, None)  # the next waiter for it claims anyway
                if self._room is not None:
                    self.held_back.forget_key(key)

    def heat(self, ready: Mapping[Key, int]) -> None:
        """Count jobs that became ready."""
        for key, count in ready.items():
            if key not in self._by_key:
                continue
            heat = self._hot.get(key)
            if heat is None:
                heat = self._hot[key] = Heat()
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
        return bool(self._unchecked or self.held_back.letting_go)

    def let_go(self, channel: str) -> None:
        """Note that the room of a channel is known now, or that there is some again."""
        for age, waiter in self.held_back.let_go(channel).items():
            self._fresh[age] = waiter

    def pick(self, limit: int, now: float) -> Sequence[Waiter]:
        """Begin a round: return the waiters that claim in it, at most `limit`, in their order. `end_round` ends it.

        First come the waiters of keys that are hot, then those that have just arrived and that no hot key has picked.
        There are fewer if they have many keys. The cost depends on the waiters that are picked and on their keys, not
        on the number of waiters.
        """
        if self._unchecked:
            self._heat_some()
        rooms = None if self._room is None else Rooms(self._room)
        if rooms is not None and self.held_back.letting_go:
            self._heat_released(rooms)
        fresh: dict[int, Waiter] = {}
        keys = 0
        while self._fresh and len(fresh) < limit and keys < KEYS_IN_ROUND:
            age, waiter = self._fresh.popitem(last=False)
            fresh[age] = waiter
            keys += len(waiter.claim.keys)
        picked = self._pick_hot(fresh, keys, limit, now, rooms)
        for waiter in fresh.values():
            waiter.vain = waiter.vain and not any(key in self._hot for key in waiter.claim.keys)
        picked.update(fresh if rooms is None else self._within(rooms, fresh))
        self._round += 1
        for waiter in picked.values():
            waiter.claiming = True
            self._wake(waiter)
        return list(picked.values())

    def take_over(self) -> Sequence[Waiter]:
        """Return the waiters whose time was up when there was no room for their claims; they are returned once."""
        over, self._over = self._over, []
        return over

    def _pick_hot(
        self, fresh: dict[int, Waiter], keys: int, limit: int, now: float, rooms: Rooms | None
    ) -> dict[int, Waiter]:
        """Return the first waiters of keys that are hot, which `fresh` has no longer; those in `fresh` have `keys`."""
        picked: dict[int, Waiter] = {}
        for _ in range(len(self._hot)):
            if len(fresh) + len(picked) >= limit or keys >= KEYS_IN_ROUND:
                break
            key = next(iter(self._hot))
            room = self._hot[key].count if rooms is None else self._room_of(key, rooms)
            if room is None:
                continue
            self._hot.move_to_end(key)  # so that a key with many jobs does not crowd out the others
            for waiter in self._by_key[key].in_order(now):
                if room == 0 or len(fresh) + len(picked) >= limit or keys >= KEYS_IN_ROUND:
                    break
                age = waiter.age
                if age in picked:
                    continue
                if fresh.pop(age, None) is None:
                    keys += len(waiter.claim.keys)
                picked[age] = waiter
                waiter.vain = False
                room -= 1
                if rooms is not None:
                    rooms.take(key.channel)
        return picked

    def _room_of(self, key: Key, rooms: Rooms) -> int | None:
        """Return how many waiters of a hot key may claim; hold the key back and return None if there is no room."""
        left = rooms.left(key.channel)
        if left <= 0:
            self.held_back.hold(key, self._hot.pop(key))
            return None
        return min(left, self._hot[key].count)

    def _within(self, rooms: Rooms, fresh: Mapping[int, Waiter]) -> dict[int, Waiter]:
        """Return the waiters that claim although no hot key has picked them, and hold back those without room."""
        within = {}
        for age, waiter in fresh.items():
            channel = waiter.channel
            left = rooms.left(channel)
            if left > 0 and not (waiter.vain or waiter.owns):
                rooms.take(channel)
            elif left == UNREAD:
                self.held_back.hold_unread(waiter)
                continue
            elif left == 0 and not (waiter.vain or waiter.owns):
                for key in waiter.claim.keys:
                    self._hot.pop(key, None)
                    self.held_back.hold(key, Heat(MANY, self._round))
                if not waiter.named:
                    waiter.claimed = True
                    self._sleep(waiter)
                    if waiter.expired:
                        self._over.append(waiter)
                    continue
                waiter.vain = True  # its token may have a job already
            within[age] = waiter
        return within

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
                    if self._room is not None and not waiter.vain:
                        self.held_back.cool(key, self._round)
            if claimed is not None or waiter.expired:
                self.remove(waiter)
            elif waiter.age in self._waiters:
                self._sleep(waiter)

    def doubt(self, client: str, key: Key, now: float) -> None:
        """Let a client that has not answered a handover of a job of a key come last there."""
        if (line := self._by_key.get(key)) is not None:
            line.doubt(client, now)

    def retry(self, waiters: Sequence[Waiter]) -> None:
        """Put waiters of the round whose claims were not answered at the head of the next round."""
        for waiter in reversed(waiters):
            waiter.claiming = waiter.vain = False
            if waiter.age in self._waiters:
                self._fresh[waiter.age] = waiter
                self._fresh.move_to_end(waiter.age, last=False)

    def _sleep(self, waiter: Waiter) -> None:
        waiter.asleep = True
        for key in waiter.claim.keys:
            self._by_key[key].asleep += 1

    def _wake(self, waiter: Waiter) -> None:
        if waiter.asleep:
            waiter.asleep = False
            for key in waiter.claim.keys:
                self._by_key[key].asleep -= 1

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
                        self._hot[key] = Heat(1, self._round)
            keys += len(waiter.claim.keys)
        if not self._unchecked and self._check_again:
            self._check_again = False
            self.heat_all()

    def _heat_released(self, rooms: Rooms) -> None:
        """Heat keys that were held back."""
        for key, released in self.held_back.release(rooms):
            heat = self._hot.get(key)
            if heat is None:
                heat = self._hot[key] = Heat()
            heat.count += released.count
            heat.round = self._round

    def _cool(self, key: Key, handed_out: int | None) -> None:
        """Subtract jobs that were handed out; None means that none are left."""
        heat = self._hot.get(key)
        if heat is None or heat.round >= self._round:
            return  # heated since this round began: its claims may not have seen that job
        if handed_out is not None and heat.count > handed_out:
            heat.count -= handed_out
        else:
            del self._hot[key]

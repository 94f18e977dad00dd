"""Hot keys and waiters that are held back because their channels may run no more jobs. No I/O."""

from collections import OrderedDict
from collections.abc import Callable

import msgspec

from composerd.models import Key
from composerd.queue.line import Waiter

UNREAD = -1
"""The room of a channel as long as the storage has not said how many jobs of it run."""

MANY = 1 << 40
"""The count of a key of which nobody knows how many jobs are ready: it is hot until a claim finds nothing."""

UNLIMITED = 1 << 40
"""The room of a channel without a quota."""

KEYS_LET_GO = 16
"""The most keys of a channel that are let go in one round, if there is no room for more claims than that."""


class Heat(msgspec.Struct):
    """Number of ready jobs of a key, as far as known, and the round in which the last of them became ready."""

    count: int = 0
    round: int = 0


class Rooms:
    """The claims that may still be made for each channel in one round."""

    def __init__(self, room: Callable[[str], int | None]) -> None:
        """Ask `room` once for each channel; it returns None for one without a quota, and may return `UNREAD`."""
        self._room = room
        self._left: dict[str, int] = {}

    def left(self, channel: str) -> int:
        """Return how many more claims may be made for a channel."""
        left = self._left.get(channel)
        if left is None:
            room = self._room(channel)
            left = self._left[channel] = UNLIMITED if room is None else room
        return left

    def take(self, channel: str) -> None:
        """Count a claim."""
        self._left[channel] -= 1


class HeldBack:
    """The hot keys of channels without room, and the waiters of channels whose room is not known yet."""

    def __init__(self) -> None:
        self.unread: dict[str, dict[int, Waiter]] = {}
        """Waiters that wait for the storage to say how much room there is, by channel and age."""
        self.letting_go: dict[str, None] = {}
        """Channels with room, whose keys are let go some at a time."""
        self.latest: set[str] = set()
        """Channels of which something was held back in the latest round."""
        self._keys: dict[str, OrderedDict[Key, Heat]] = {}

    def __bool__(self) -> bool:
        """Return True if anything is held back."""
        return bool(self._keys or self.unread)

    def holds(self, channel: str) -> bool:
        """Return True if anything of a channel is held back."""
        return channel in self._keys or channel in self.unread

    def hold(self, key: Key, heat: Heat) -> None:
        """Hold back a hot key of a channel without room."""
        self.letting_go.pop(key.channel, None)
        self.latest.add(key.channel)
        keys = self._keys.setdefault(key.channel, OrderedDict())
        if (held := keys.get(key)) is None:
            keys[key] = heat
        else:
            held.count += heat.count
            held.round = max(held.round, heat.round)

    def cool(self, key: Key, round: int) -> None:
        """Forget a key of which a claim in a round has found nothing, unless a job became ready since then."""
        if (keys := self._keys.get(key.channel)) is not None and (held := keys.get(key)) and held.round < round:
            self.forget_key(key)

    def hold_unread(self, waiter: Waiter) -> None:
        """Hold back a waiter of a channel whose room is not known."""
        self.latest.add(waiter.channel)
        self.unread.setdefault(waiter.channel, {})[waiter.age] = waiter

    def forget(self, waiter: Waiter) -> None:
        """Forget a waiter that was answered or has gone."""
        channel = waiter.channel
        if (waiters := self.unread.get(channel)) is not None:
            waiters.pop(waiter.age, None)
            if not waiters:
                del self.unread[channel]

    def forget_key(self, key: Key) -> None:
        """Forget a key for which nobody waits any more."""
        if (keys := self._keys.get(key.channel)) is not None:
            keys.pop(key, None)
            self._tidy(key.channel)

    def release(self, rooms: "Rooms") -> list[tuple[Key, Heat]]:
        """Return some keys of channels that are let go; they are not held back any more.

        Each may have a job, so there need not be more than there is room for.
        """
        released = []
        for channel in list(self.letting_go):
            keys = self._keys[channel]
            most = min(max(rooms.left(channel), KEYS_LET_GO), len(keys))
            released += [keys.popitem(last=False) for _ in range(most)]
            self._tidy(channel)
        return released

    def let_go(self, channel: str) -> dict[int, Waiter]:
        """Return the waiters of a channel whose room is known now, and let its keys go, some in each round."""
        if channel in self._keys:
            self.letting_go[channel] = None
        return self.unread.pop(channel, {})

    def _tidy(self, channel: str) -> None:
        if not self._keys[channel]:
            del self._keys[channel]
            self.letting_go.pop(channel, None)

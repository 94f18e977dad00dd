"""What a call changed that somebody may wait for: gathered as it is decided, told to the caller and to the other servers."""

from collections.abc import Iterable, Iterator
from typing import TypeVar
from uuid import UUID

import msgspec

from composerd.models import Key, News

MAX_NOTICE = 7900
"""The longest notification, in bytes; PostgreSQL takes up to 7,999."""

MAX_NOTICES = 16
"""How many notifications one transaction sends; what does not fit into them is "look at everything"."""

T = TypeVar("T")

Position = tuple[int, int]
"""Where a ready job stands among those of its key: the negated priority, then the place."""


class Changes:
    """The news of one call."""

    def __init__(self) -> None:
        self.ready: dict[Key, int] = {}
        self.first: dict[Key, Position] = {}
        """The first of the jobs of each key that became ready."""
        self.ended: list[UUID] = []
        self.returned: list[UUID] = []
        self.due_in: float | None = None
        self.recheck = False

    def became_ready(self, key: Key, position: Position) -> None:
        """A job of this key is ready, at this position."""
        self.ready[key] = self.ready.get(key, 0) + 1
        self.first[key] = min(position, self.first.get(key, position))

    def due(self, seconds: float) -> None:
        """`advance` has something to do then."""
        self.due_in = max(0.0, seconds if self.due_in is None else min(seconds, self.due_in))

    def add(self, other: "Changes") -> None:
        """Take in what another step changed."""
        for key, count in other.ready.items():
            self.ready[key] = self.ready.get(key, 0) + count
            self.first[key] = min(other.first[key], self.first.get(key, other.first[key]))
        self.ended += other.ended
        self.returned += other.returned
        self.recheck |= other.recheck
        if other.due_in is not None:
            self.due(other.due_in)

    def news(self) -> News:
        """As the contract has it."""
        return News(
            ready=self.ready,
            ended=tuple(self.ended),
            requeued=tuple(self.returned),
            due_in=self.due_in,
            recheck=self.recheck,
        )


class Notice(msgspec.Struct, array_like=True):
    """A notification to the other servers."""

    origin: str
    """Of which driver it is: that one knows already."""
    ready: list[tuple[str, str, str | None, int, int, int]] = []
    """Keys, how many, and the position of the first."""
    ended: list[UUID] = []
    returned: list[UUID] = []
    recheck: bool = False


def notices(origin: str, changes: Changes) -> list[str]:
    """Notifications that say what changed, each short enough; none if nothing did that concerns others."""
    ready = [(*key, count, *changes.first[key]) for key, count in changes.ready.items()]
    told = [
        *(Notice(origin, ready=part) for part in _parts(ready)),
        *(Notice(origin, ended=part) for part in _parts(changes.ended)),
        *(Notice(origin, returned=part) for part in _parts(changes.returned)),
    ]
    return [_encode(one) for one in (told if len(told) <= MAX_NOTICES else [Notice(origin, recheck=True)])]


def _parts(things: Iterable[T]) -> Iterator[list[T]]:
    """So many at a time as fit into a notification."""
    part: list[T] = []
    size = 0
    for one in things:
        length = len(msgspec.json.encode(one)) + 1
        if part and size + length > MAX_NOTICE - 100:
            yield part
            part, size = [], 0
        part.append(one)
        size += length
    if part:
        yield part


def read_notice(text: str) -> tuple[str, Changes]:
    """Who sent a notification, and what it says; one that cannot be read means: look at everything."""
    changes = Changes()
    try:
        notice = msgspec.json.decode(text, type=Notice)
    except msgspec.DecodeError:
        changes.recheck = True
        return "", changes
    for channel, type_, arch, count, rank, place in notice.ready:
        key = Key(channel, type_, arch)
        changes.ready[key] = count
        changes.first[key] = (rank, place)
    changes.ended = notice.ended
    changes.returned = notice.returned
    changes.recheck = notice.recheck
    return notice.origin, changes


def _encode(notice: Notice) -> str:
    return msgspec.json.encode(notice).decode()

"""Collects what a call changed, as news for its caller and as notifications for the other servers. No I/O."""

from collections.abc import Iterable, Iterator
from typing import TypeVar
from uuid import UUID

import msgspec

from composerd.models import Key, News

MAX_NOTICE = 7900
"""The longest notification, in bytes; PostgreSQL accepts up to 7,999."""

MAX_NOTICES = 16
"""The largest number of notifications of one transaction. Instead of more, one says that anything may have changed."""

T = TypeVar("T")

ReadyPosition = tuple[int, int]
"""The order of ready jobs of one key: the negated priority, then the position."""


class Changes:
    """Changes that one call has made."""

    def __init__(self) -> None:
        self.ready: dict[Key, int] = {}
        """For each key the number of its jobs that became ready."""
        self.first: dict[Key, ReadyPosition] = {}
        """The first of those jobs, for each key."""
        self.ended: list[UUID] = []
        self.requeued: list[UUID] = []
        self.unanswered: list[UUID] = []
        self.due_in: float | None = None
        self.recheck = False

    def became_ready(self, key: Key, position: ReadyPosition) -> None:
        """Add a job that became ready."""
        self.ready[key] = self.ready.get(key, 0) + 1
        self.first[key] = min(position, self.first.get(key, position))

    def due(self, seconds: float) -> None:
        """Ask for a call of `advance` after this time, or earlier if that was asked for already."""
        self.due_in = max(0.0, seconds if self.due_in is None else min(seconds, self.due_in))

    def add(self, other: "Changes") -> None:
        """Add the changes of another transaction."""
        for key, count in other.ready.items():
            self.ready[key] = self.ready.get(key, 0) + count
            self.first[key] = min(other.first[key], self.first.get(key, other.first[key]))
        self.ended += other.ended
        self.requeued += other.requeued
        self.unanswered += other.unanswered
        self.recheck |= other.recheck
        if other.due_in is not None:
            self.due(other.due_in)

    def news(self) -> News:
        """Return the changes as the contract describes them."""
        return News(
            ready=self.ready,
            ended=tuple(self.ended),
            requeued=tuple(self.requeued),
            due_in=self.due_in,
            recheck=self.recheck,
            unanswered=tuple(self.unanswered),
        )


class Notice(msgspec.Struct, array_like=True):
    """A notification, sent as a JSON array. The order of the fields is part of the format: older servers read it."""

    origin: str
    """The driver that sent it, which ignores it."""
    ready: list[tuple[str, str, str | None, int, int, int]] = []
    """For each key: channel, type, arch, the number of jobs, and the negated priority and the position of the first."""
    ended: list[UUID] = []
    requeued: list[UUID] = []
    recheck: bool = False
    unanswered: list[UUID] = []


def notices(origin: str, changes: Changes) -> list[str]:
    """Return the notifications that announce changes to other servers; none if they need not know."""
    ready = [(*key, count, *changes.first[key]) for key, count in changes.ready.items()]
    found = [
        *(Notice(origin, ready=part) for part in _parts(ready)),
        *(Notice(origin, ended=part) for part in _parts(changes.ended)),
        *(Notice(origin, requeued=part) for part in _parts(changes.requeued)),
        *(Notice(origin, unanswered=part) for part in _parts(changes.unanswered)),
    ]
    if len(found) > MAX_NOTICES:
        found = [Notice(origin, recheck=True)]
    return [msgspec.json.encode(one).decode() for one in found]


def _parts(things: Iterable[T]) -> Iterator[list[T]]:
    """Divide a list into parts that fit into one notification each."""
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
    """Return the origin of a notification and its changes; a re-check of everything if it cannot be read."""
    changes = Changes()
    try:
        notice = msgspec.json.decode(text, type=Notice)
    except msgspec.DecodeError:
        changes.recheck = True
        return "", changes
    for channel, type_, arch, count, rank, position in notice.ready:
        key = Key(channel, type_, arch)
        changes.ready[key] = count
        changes.first[key] = (rank, position)
    changes.ended = notice.ended
    changes.requeued = notice.requeued
    changes.recheck = notice.recheck
    changes.unanswered = notice.unanswered
    return notice.origin, changes


def channel_of(schema: str) -> str:
    """Return the notification channel of the servers that share a schema."""
    return f"composerd_{schema}"

"""Hashes of tokens: what a storage keeps that does not give tokens away to those who read it.

A hash is a UUID of version 8, and tokens are of version 4 (`composerd.ids`), so one is never taken for the other.
"""

from collections.abc import Awaitable, Callable, Sequence
from hashlib import sha256
from typing import TypeVar, cast
from uuid import UUID

from msgspec.structs import replace

from composerd.driver.contract import Driver
from composerd.driver.values import Batch
from composerd.models import Attached, Attachment, Attempt, AttemptState, Finished, News, Outcome, Touch, Verdict

_VERSION = 0xF << 76
_VARIANT = 0xC << 60
_MARKS = 8 << 76 | 8 << 60

Item = TypeVar("Item", bound=Touch | Attachment | Outcome | UUID)
Answer = TypeVar("Answer", bound=Attempt | Attached | Finished)


def hashed(token: UUID) -> UUID:
    """Return the hash of a token: the first 122 bits of its SHA-256, as a UUID of version 8."""
    digest = int.from_bytes(sha256(token.int.to_bytes(16)).digest()[:16])
    return UUID(int=digest & ~(_VERSION | _VARIANT) | _MARKS)


def is_hash(token: UUID) -> bool:
    """Return True if this is the hash of a token."""
    return token.int & (_VERSION | _VARIANT) == _MARKS


async def by_token(
    driver: Driver, method: Callable[[Sequence[Item]], Awaitable[Batch[Answer]]], items: Sequence[Item]
) -> Batch[Answer]:
    """Call a method of a driver whose items name tokens; look for the hashes of those that the driver does not know.

    A driver that keeps tokens has the hashes of some only, if their jobs were moved from a storage that keeps hashes.
    A caller that names a hash has read the storage and is not the worker: the answer is that the token is unknown.
    """
    if driver.capabilities.hashes_tokens:
        return await method(items)
    batch = await method([_with_hash(one) if is_hash(_token(one)) else one for one in items])
    unknown = [nth for nth, answer in enumerate(batch.items) if _is_unknown(answer)]
    if not unknown or len(batch.items) != len(items):
        return batch
    again = await method([_with_hash(items[nth]) for nth in unknown])
    answers = list(batch.items)
    for nth, answer in zip(unknown, again.items, strict=True):
        answers[nth] = answer
    return Batch(answers, _both(batch.news, again.news))


def _token(item: Touch | Attachment | Outcome | UUID) -> UUID:
    return item if isinstance(item, UUID) else item.token


def _with_hash(item: Item) -> Item:
    if isinstance(item, UUID):
        return cast(Item, hashed(item))
    return cast(Item, replace(item, token=hashed(item.token)))


def _is_unknown(answer: Attempt | Attached | Finished) -> bool:
    if isinstance(answer, Finished):
        return answer.verdict is Verdict.UNKNOWN
    attempt = answer.attempt if isinstance(answer, Attached) else answer
    return attempt.state is AttemptState.UNKNOWN


def _both(one: News, other: News) -> News:
    due = [news.due_in for news in (one, other) if news.due_in is not None]
    return News(
        ready={key: one.ready.get(key, 0) + other.ready.get(key, 0) for key in {**one.ready, **other.ready}},
        ended=one.ended + other.ended,
        requeued=one.requeued + other.requeued,
        unanswered=one.unanswered + other.unanswered,
        due_in=min(due, default=None),
        recheck=one.recheck or other.recheck,
    )

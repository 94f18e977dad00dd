"""Reads the payloads of jobs: small ones at once, and large ones in parts when they are needed.

A payload that has to be there and is not found is looked for again, and is never None. A driver never answers None for
such a payload. But what is between it and its database may answer from an older state, for example a proxy that sends a
statement to a standby which lags behind.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from uuid import UUID

import msgspec

from composerd.driver import Driver
from composerd.errors import JobNotFound, Unavailable
from composerd.models import Job, PayloadKind, PayloadRef
from composerd.queue.budgets import MEBIBYTE, SMALL

LOOK_AGAIN = (0.1, 0.4)
"""Pauses in seconds after which a result that was not found is read again."""

PART = MEBIBYTE
"""The most bytes of stored payloads that are read for one answer at one time."""


class Stored(msgspec.Struct, frozen=True):
    """A payload that is too large to be read before it is needed."""

    ref: PayloadRef
    size: int


Piece = bytes | Stored
"""A part of an answer: its bytes, or a payload that is still to be read."""


def size_of(piece: Piece) -> int:
    """Return the number of bytes of a piece."""
    return piece.size if isinstance(piece, Stored) else len(piece)


async def payload(driver: Driver, job: Job, kind: PayloadKind) -> Piece | None:
    """Return a job's args or result, byte for byte; None if it has none.

    Raises `JobNotFound` if the job was deleted meanwhile, and `Unavailable` if its result is not found.
    """
    ref = PayloadRef(job.id, kind)
    if kind is PayloadKind.ARGS or not job.state.has_result:
        (found,) = await driver.payloads_up_to([ref], SMALL)
        return Stored(ref, found) if isinstance(found, int) else found
    try:
        (result,) = await results(driver, [job.id])
    except Unavailable:
        if (await driver.listed([job.id]))[0] is None:
            raise JobNotFound(id=str(job.id)) from None
        raise
    return result


async def results(driver: Driver, job_ids: Sequence[UUID]) -> Sequence[Piece]:
    """Return the results of finished and failed jobs, in the order of the ids.

    Raises `Unavailable` if one is not found.
    """
    refs = [PayloadRef(job_id, PayloadKind.RESULT) for job_id in job_ids]
    found = await _found(driver, refs, SMALL)
    return [Stored(ref, one) if isinstance(one, int) else one for ref, one in zip(refs, found, strict=True)]


async def contents(driver: Driver, pieces: Sequence[Piece]) -> AsyncGenerator[bytes, None]:
    """Yield the bytes of pieces, reading stored ones when it is their turn, at most `PART` bytes at one time.

    Raises `Unavailable` if a payload is no longer found, because its job was deleted meanwhile.
    """
    group: list[Piece] = []
    size = 0
    for piece in pieces:
        if group and size + size_of(piece) > PART:
            yield await _joined(driver, group)
            group, size = [], 0
        if isinstance(piece, bytes) or piece.size <= PART:
            group.append(piece)
            size += size_of(piece)
            continue
        for begin in range(0, piece.size, PART):
            end = min(begin + PART, piece.size)
            part = await driver.payload_part(piece.ref, begin, end)
            if part is None or len(part) != end - begin:
                raise Unavailable(f"the {piece.ref.kind} of a job was deleted while it was read")
            yield part
    if group:
        yield await _joined(driver, group)


async def _joined(driver: Driver, pieces: Sequence[Piece]) -> bytes:
    """Return the bytes of pieces together."""
    stored = [piece for piece in pieces if isinstance(piece, Stored)]
    if not stored:
        return b"".join(piece for piece in pieces if isinstance(piece, bytes))
    found = await _found(driver, [piece.ref for piece in stored], sum(piece.size for piece in stored))
    if [len(one) if isinstance(one, bytes) else -1 for one in found] != [piece.size for piece in stored]:
        raise Unavailable("a payload has another size than before")
    read = iter(found)
    return b"".join(piece if isinstance(piece, bytes) else next(read) for piece in pieces)  # type: ignore[misc]


async def _found(driver: Driver, refs: Sequence[PayloadRef], limit: int) -> Sequence[bytes | int]:
    """Return payloads or their sizes, all of which have to exist. Raises `Unavailable` if one is not found."""
    pauses = iter(LOOK_AGAIN)
    while True:
        answers = await driver.payloads_up_to(refs, limit)
        found = [answer for answer in answers if answer is not None]
        if len(found) == len(answers):
            return found
        pause = next(pauses, None)
        if pause is None:
            raise Unavailable("the storage does not find the result of a job that has ended")
        await asyncio.sleep(pause)

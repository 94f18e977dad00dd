"""Payloads as they travel in statements and rows: in base64, which needs no quoting.

A large one is encoded and decoded in a thread, in pieces: Python runs nothing else while it handles one piece.
"""

import asyncio
import binascii
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import ParamSpec, TypeVar
from uuid import UUID

from composerd_postgres.db.literal import LARGE, Literal

T = TypeVar("T")
P = ParamSpec("P")

_PIECE = 3 * 65536
"""Bytes that are encoded at once; a multiple of 3, so that only the last piece has padding."""

_TEXT_PIECE = 77 * 3072
"""Characters that are decoded at once: whole lines of base64 as PostgreSQL writes them."""


async def encode_payloads(payloads: Sequence[tuple[UUID, bytes]]) -> Literal:
    """Return ids and payloads as JSON rows with the fields `id` and `body`."""
    return await off_loop(sum(len(body) for _, body in payloads), _encoded, payloads)


async def decode_payloads(texts: Sequence[str | None]) -> list[bytes | None]:
    """Return the payloads that a statement has returned in base64; None stays None."""
    return await off_loop(sum(len(text) for text in texts if text is not None), _all_decoded, texts)


async def off_loop(size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what `work` returns; call it in a thread if it handles that many bytes that it would take long."""
    if size <= LARGE:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)


def _encoded(payloads: Sequence[tuple[UUID, bytes]]) -> Literal:
    written = BytesIO()
    separator = b"'["
    for job_id, body in payloads:
        written.write(b'%s{"id":"%s","body":"' % (separator, str(job_id).encode()))
        for begin in range(0, len(body), _PIECE):
            written.write(binascii.b2a_base64(body[begin : begin + _PIECE], newline=False))
        written.write(b'"}')
        separator = b","
    written.write(b"]'")
    return Literal(written.getvalue())


def _all_decoded(texts: Sequence[str | None]) -> list[bytes | None]:
    return [None if text is None else _decoded(text) for text in texts]


def _decoded(text: str) -> bytes:
    if len(text) <= _TEXT_PIECE:
        return binascii.a2b_base64(text)
    body = BytesIO()
    for begin in range(0, len(text), _TEXT_PIECE):
        body.write(binascii.a2b_base64(text[begin : begin + _TEXT_PIECE]))
    return body.getvalue()

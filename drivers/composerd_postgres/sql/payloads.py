"""Payloads as they come in rows: in base64, which needs no quoting. How they go into the database is in `db/copying`.

A large one is decoded in a thread, in pieces: Python runs nothing else while it handles one piece.
"""

import asyncio
import binascii
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")

LARGE = 256 * 1024
"""Size in bytes above which a payload is handled in a thread."""

_TEXT_PIECE = 77 * 3072
"""Characters that are decoded at once: whole lines of base64 as PostgreSQL writes them."""


async def decode_payloads(texts: Sequence[str | None]) -> list[bytes | None]:
    """Return the payloads that a statement has returned in base64; None stays None."""
    return await off_loop(sum(len(text) for text in texts if text is not None), _all_decoded, texts)


async def off_loop(size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what `work` returns; call it in a thread if it handles that many bytes that it would take long."""
    if size <= LARGE:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)


def _all_decoded(texts: Sequence[str | None]) -> list[bytes | None]:
    return [None if text is None else _decoded(text) for text in texts]


def _decoded(text: str) -> bytes:
    if len(text) <= _TEXT_PIECE:
        return binascii.a2b_base64(text)
    body = BytesIO()
    for begin in range(0, len(text), _TEXT_PIECE):
        body.write(binascii.a2b_base64(text[begin : begin + _TEXT_PIECE]))
    return body.getvalue()

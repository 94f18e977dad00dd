"""Ids and tokens: random UUIDs (version 4).

They are generated some hundreds at a time, because most of their cost is the system call for random bytes.
"""

import os
import re
from uuid import UUID

import msgspec

_AT_ONCE = 256

_pool: list[str] = []

os.register_at_fork(after_in_child=_pool.clear)

_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")


def parse_uuid(text: str) -> UUID | None:
    """Return the UUID that a text spells in the usual form, or None."""
    return msgspec.convert(text, UUID) if _UUID.fullmatch(text) else None


def new_id() -> UUID:
    """Return a random UUID, as hard to guess as `uuid.uuid4()`."""
    return msgspec.convert(_pool.pop() if _pool else new_id_text(), UUID)


def new_id_text() -> str:
    """Return a random UUID as text, with the version and variant bits of RFC 9562."""
    if not _pool:
        digits = os.urandom(16 * _AT_ONCE).hex()
        for begin in range(0, len(digits), 32):
            some = digits[begin : begin + 32]
            variant = "89ab"[int(some[16], 16) & 3]
            _pool.append(f"{some[:8]}-{some[8:12]}-4{some[13:16]}-{variant}{some[17:20]}-{some[20:]}")
    return _pool.pop()

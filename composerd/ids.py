"""Ids and tokens: random UUIDs (version 4), from a pool of random bytes, because asking the kernel for 16 at a time is most of their cost."""

import os
from uuid import UUID

_AT_ONCE = 16 * 256

_pool = memoryview(b"")


def new_id() -> UUID:
    """A random UUID, as unguessable as `uuid.uuid4()`. Not for use across a fork."""
    global _pool  # noqa: PLW0603  # one pool for the process
    if not _pool:
        _pool = memoryview(os.urandom(_AT_ONCE))
    some, _pool = _pool[:16], _pool[16:]
    return UUID(bytes=bytes(some), version=4)

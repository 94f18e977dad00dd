"""Kinds of `OSError` that files raise: no room on the disk, nothing left to open a file with, and everything else."""

import errno

from composerd.errors import ComposerdError, ResourcesExhausted, StorageFull, Unavailable

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def is_full(error: OSError) -> bool:
    """Return True if the disk is full, or a quota is used up."""
    return error.errno in _NO_ROOM


def is_exhausted(error: OSError) -> bool:
    """Return True if the process or the machine has no file descriptor or no memory left, which passes by itself."""
    return error.errno in _EXHAUSTED


def translated(error: OSError, problem: str) -> ComposerdError:
    """Return the error of composerd for a failed operation on files, `problem`. The caller raises it `from` `error`."""
    message = f"{problem}: {error.strerror or error}"
    if is_full(error):
        return StorageFull(message)
    return ResourcesExhausted(message) if is_exhausted(error) else Unavailable(message)

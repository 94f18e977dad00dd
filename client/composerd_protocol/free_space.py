"""The part of a file system that servers and workers leave free, unless they are told a size."""

_PART = 20
"""The reserve is one of so many parts (5%)."""

_MOST = 1024**3
"""The reserve is at most as large as this, in bytes."""


def default_reserve(size: int) -> int:
    """Return the bytes that stay free on a file system of this size: 5%, and at most 1 GiB."""
    return min(size // _PART, _MOST)

"""Storage URLs: those that name a path, for drivers that store jobs in the file system, and those with a password."""

import re
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from composerd.errors import StorageURLError

EXPOSED = (
    "a URL in the command line has a password, which every user of this machine can read: give the URL in the "
    "environment (as COMPOSERD_STORAGE) or a configuration file, or the password in a file that only you can read"
)
"""A warning."""


def path_of(url: str, what: str) -> Path:
    """Return the absolute path that a storage URL names.

    Args:
        url: `scheme:/path`, `scheme:relative/path` or `scheme:///path`.
        what: "file" or "directory", for the errors.

    Raises:
        StorageURLError: The URL has no path, or it has a host or options.
    """
    scheme, _, rest = url.partition(":")
    match = re.fullmatch(r"(?://(?P<host>[^/?#]*))?(?P<path>[^?#]*)(?P<query>[?#].*)?", rest)
    if match is None or not match["path"]:
        raise StorageURLError(f"{url!r} names no {what}: write {scheme}:/path/to/{what}")
    if match["host"]:
        raise StorageURLError(f"{url!r} names a host ({match['host']}): write {scheme}:/path/to/{what}")
    if match["query"]:
        raise StorageURLError(f"{url!r}: {scheme}: takes no options; remove {match['query']!r}")
    return Path(unquote(match["path"])).absolute()


def has_password(url: str) -> bool:
    """Return True if a URL contains a password, before its host or in an option whose name ends with `password`."""
    try:
        parts = urlsplit(url)
        named = [name for name, value in parse_qsl(parts.query) if value]
        return bool(parts.password) or any(name.endswith("password") for name in named)
    except ValueError:  # the driver says what is wrong
        return False

"""Storage URLs that name a path, for drivers that store jobs in the file system."""

import re
from pathlib import Path
from urllib.parse import unquote

from composerd.errors import StorageURLError


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

"""Storage URLs that name a place in the file system, for whatever driver keeps its jobs there."""

import re
from pathlib import Path
from urllib.parse import unquote

from composerd.errors import StorageURLError


def path_of(url: str, what: str) -> Path:
    """The path that a storage URL names: `scheme:/path`, `scheme:relative/path`, `scheme:///path`; `what` is a file or a directory.

    Raises `StorageURLError` for one without a path, with a host or with options.
    """
    scheme, _, rest = url.partition(":")
    match = re.fullmatch(r"(?://(?P<host>[^/?#]*))?(?P<path>[^?#]*)(?P<query>[?#].*)?", rest)
    if match is None or not match["path"]:
        raise StorageURLError(f"{url!r} names no {what}: write {scheme}:/path/to/{what}")
    if match["host"]:
        raise StorageURLError(f"{url!r} names a host ({match['host']}): write {scheme}:/path/to/{what}")
    if match["query"]:
        raise StorageURLError(f"{url!r}: {scheme}: takes no options, and there is {match['query']!r}")
    return Path(unquote(match["path"])).absolute()

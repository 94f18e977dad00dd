"""The conditions of a request for a file, in the order of RFC 9110 (section 13.2.2), and the part that it selects."""

import re
from datetime import UTC, datetime
from email.utils import format_datetime

import msgspec
from aiohttp import web

from composerd.http.errors import PreconditionFailed


class Validators(msgspec.Struct, frozen=True):
    """The values by which a client recognizes a version of a file."""

    tag: str
    """The value of the ETag, without quotes."""
    modified: datetime
    """The time of the last change, in whole seconds."""

    @classmethod
    def of(cls, tag: str, modified: datetime) -> "Validators":
        """Return the validators of a file that was last changed at a time.

        A time of the storage's clock may still be in the future on the server's; HTTP allows none.
        """
        return cls(tag, min(modified, datetime.now(UTC)).replace(microsecond=0))

    @property
    def headers(self) -> dict[str, str]:
        """The headers of an answer that tell them."""
        return {"ETag": f'"{self.tag}"', "Last-Modified": format_datetime(self.modified, usegmt=True)}


def check_preconditions(request: web.Request, file: Validators) -> None:
    """Raise `PreconditionFailed` if the request wants another version: by If-Match, or else by If-Unmodified-Since."""
    if (tags := request.if_match) is not None:
        if not any(one.value in (file.tag, "*") and not one.is_weak for one in tags):
            raise PreconditionFailed(field="If-Match", problem="the file has another ETag")
    elif (since := request.if_unmodified_since) is not None and file.modified > since:
        raise PreconditionFailed(field="If-Unmodified-Since", problem="the file is newer")


def unchanged(request: web.Request, file: Validators) -> bool:
    """Return True if the client has this version: by If-None-Match, or else by If-Modified-Since."""
    if (tags := request.if_none_match) is not None:
        return any(one.value in (file.tag, "*") for one in tags)
    return (since := request.if_modified_since) is not None and file.modified <= since


_RANGE = re.compile(r"bytes=(?:([0-9]{1,40})-([0-9]{1,40})?|-([0-9]{1,40}))", re.IGNORECASE)


def selected_range(request: web.Request, file: Validators, size: int) -> tuple[int, int] | None:
    """Return where the part that a GET selects begins and ends. If there is no such part, it is empty or reversed.

    Returns None for the whole file: also if If-Range names another version. RFC 9110 lets a server ignore a malformed
    Range and one of several parts, and requires it to ignore other units and other methods.
    """
    match = _RANGE.fullmatch(request.headers.get("Range", "").strip())
    if match is None or request.method != "GET":
        return None
    version = request.headers.get("If-Range", f'"{file.tag}"')
    if version != f'"{file.tag}"' and request.if_range != file.modified:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        return max(size - int(suffix), 0), size
    if last is None:
        return int(first), size
    return None if int(last) < int(first) else (int(first), min(int(last) + 1, size))

"""Telling composerd's answers from pages of proxies, answers of caches, and answers to other requests."""

from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

REQUEST_ID_HEADER = "X-Operation-Id"
"""The header that every answer of composerd has, with a value of its own."""

UNDECODABLE = (msgspec.DecodeError, RecursionError, ValueError)
"""Errors of msgspec for JSON that is invalid, nested too deeply, or has a number of too many digits."""

ANY_JSON = "any JSON"
"""The kind of args and results."""

_REMEMBERED = 1024
"""Number of answers whose request ids are remembered."""

_AGE_ALLOWED = 2.0
"""Seconds by which an answer may seem older than its request, because ages are in whole seconds."""


class Expected(NamedTuple):
    """The successful answers to a request."""

    kind: str
    """The kind of the JSON, or `ANY_JSON`; empty if the answer has no body. An answer 204 never has one."""
    statuses: tuple[int, ...] = (200,)
    id: str = ""
    """The id of what the request is about, such as a token; empty if the client does not know it yet."""
    path: str = ""
    """The end of the path that the answer names as its own."""
    check: Callable[[bytes], str | None] | None = None
    """Returns what is wrong with the body otherwise, or None. May raise the errors of msgspec for JSON."""

    def problem(self, status: int, headers: Mapping[str, str], body: bytes) -> str | None:
        """Return why this is not an answer to the request, or None if it is one."""
        if status not in self.statuses:
            return "composerd does not answer this request with this status"
        if status == 204 or not self.kind:
            return "it has a body, and composerd's answer has none" if body else None
        try:
            if self.kind == ANY_JSON:
                msgspec.json.decode(body, type=msgspec.Raw)
                return None if _has_json(headers) else "it is not JSON"
            head = _HEAD.decode(body)
            return self._difference(head) or (None if self.check is None else self.check(body))
        except UNDECODABLE as exc:
            return f"it is not JSON of composerd, or of a much newer version: {exc}"

    def _difference(self, head: "_Head") -> str | None:
        for expected, came in (
            (self.kind, head.kind == self.kind or head.kind),
            (self.id, head.id.lower() == self.id.lower() or head.id),
            (self.path, head.href.lower().endswith(self.path.lower()) or head.href),
        ):
            if expected and came is not True:
                return f"it has {str(came)[:80]!r} in place of {expected!r}"
        return None


def _has_json(headers: Mapping[str, str]) -> bool:
    return headers.get("Content-Type", "").partition(";")[0].strip().lower() == "application/json"


class _Head(msgspec.Struct):
    kind: str
    id: str
    href: str


_HEAD = msgspec.json.Decoder(_Head)


class Origin:
    """Tells answers that composerd has made for a request from those that a cache repeats."""

    def __init__(self) -> None:
        self._latest: deque[str] = deque(maxlen=_REMEMBERED)
        self._known: set[str] = set()

    def problem(self, headers: Mapping[str, str], seconds: float) -> str | None:
        """Return why an answer, which came after so many seconds, was not made for its request; None if it was.

        An answer without a request id is not composerd's at all, and its problem is empty.
        """
        request_id = headers.get(REQUEST_ID_HEADER, "")[:100]
        if not request_id:
            return ""
        age = headers.get("Age", "")
        if age.isdecimal() and len(age) < 10 and int(age) > seconds + _AGE_ALLOWED:
            return f"it answers from a cache (Age: {age}); let it store no answers"
        if request_id in self._known:
            return "it repeats an earlier answer of composerd; let it store no answers"
        if len(self._latest) == _REMEMBERED:
            self._known.discard(self._latest[0])
        self._latest.append(request_id)
        self._known.add(request_id)
        return None


def is_error(body: Mapping[str, object], request_id: str) -> bool:
    """Return True if a body is one of composerd's errors, and the answer to this request."""
    return body.get("kind") == "Error" and body.get("operation_id") == request_id

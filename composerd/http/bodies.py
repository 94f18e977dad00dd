"""Request bodies: JSON in UTF-8, of limited size and depth, decoded into typed values whose opaque parts stay bytes."""

import asyncio
import re
from itertools import accumulate
from typing import TypeVar

import msgspec
from aiohttp import web

from composerd.errors import BodyTooLarge, InvalidContent, MalformedJSON
from composerd.http.errors import UnsupportedMediaType
from composerd.http.request_context import reserved_bytes
from composerd.queue import Budget

MAX_DEPTH = 500
"""The deepest nesting that JSON may have."""

IN_A_THREAD = 1024 * 1024
"""Bodies of at least this size are decoded in a thread, so that the event loop can go on."""

SMALL = 16 * 1024
"""Bodies of requests and answers up to this size do not count in the budget: the limit of connections bounds them."""

_SLICE = 1024 * 1024

T = TypeVar("T")


async def read_json(request: web.Request, decoder: "msgspec.json.Decoder[T]", budget: Budget) -> T:
    """Read and decode the body of a request.

    A body that is not small counts in the budget until the request is answered. Raises `UnsupportedMediaType`,
    `BodyTooLarge`, `MalformedJSON`, `InvalidContent`, and `Unavailable` if the budget is used up.
    """
    content_type = request.headers.get("Content-Type", "")
    if content_type != "application/json":
        check_content_type(content_type)
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType(problem="the body must not be encoded")
    expected = request.content_length or 0
    if expected > SMALL:
        if expected > request.client_max_size:
            raise BodyTooLarge(limit=request.client_max_size)
        budget.take(expected)
        reserved_bytes.set(expected)
    try:
        body = await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise BodyTooLarge(limit=request.client_max_size) from None
    except web.RequestPayloadError as exc:
        raise MalformedJSON(problem=f"the body ended early: {exc}") from None
    if len(body) > max(SMALL, expected):  # a chunked body, whose size was not known before
        budget.take(len(body))
        reserved_bytes.set(len(body))
    if len(body) < IN_A_THREAD:
        return decode(body, decoder)
    return await asyncio.to_thread(decode, body, decoder)


def check_content_type(value: str) -> None:
    """Raise `UnsupportedMediaType` unless a Content-Type header means JSON in UTF-8."""
    media, *parameters = (part.strip() for part in value.lower().split(";"))
    if media != "application/json":
        raise UnsupportedMediaType
    for parameter in parameters:
        name, _, charset = parameter.partition("=")
        if parameter and (name.strip() != "charset" or charset.strip().strip('"') not in ("utf-8", "utf8")):
            raise UnsupportedMediaType


def decode(body: bytes, decoder: "msgspec.json.Decoder[T]") -> T:
    """Decode a body.

    Raises `MalformedJSON` if it is not JSON in UTF-8, `InvalidContent` if it is nested too deep or has the wrong shape.
    """
    try:
        str(body, "utf-8")
    except UnicodeDecodeError as exc:
        raise MalformedJSON(problem="must be UTF-8", at=exc.start) from None
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and too_deep(body):
        raise InvalidContent(problem=f"must not be nested deeper than {MAX_DEPTH}")
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as exc:
        _check_syntax(body)  # a syntax error anywhere is reported rather than a wrong shape
        raise shape_error(exc) from None
    except msgspec.DecodeError as exc:
        raise text_error(exc, body) from None


def too_deep(body: bytes) -> bool:
    """Return True if brackets outside of strings are nested deeper than `MAX_DEPTH`."""
    if escapes := body.count(b"\\"):
        body = _without_escapes(body, escapes)  # every quote that is left begins or ends a string
    marks = body.translate(_STEP, _NO_MARK)
    depth = 0
    inside = 0
    for begin in range(0, len(marks), _SLICE):  # in slices, so that the event loop's thread can run in between
        parts = marks[begin : begin + _SLICE].split(b'"')
        outside = b"".join(parts[inside::2])
        inside = (inside + len(parts) - 1) % 2
        level = depth
        for level in accumulate(memoryview(outside).cast("b"), initial=depth):
            if level > MAX_DEPTH:
                return True
        depth = level
    return False


def _without_escapes(body: bytes, escapes: int) -> bytes:
    r"""Return the body without its escapes `\"` and `\\`; other escapes may stay."""
    if escapes <= _FEW_ESCAPES:
        return _ESCAPE.sub(b"", body)  # costs more for each escape, but nearly nothing for the text in between
    return body.replace(b"\\\\", b"").replace(b'\\"', b"")


_BRACKETS = b"[{]}"
_STEP = bytes.maketrans(_BRACKETS, b"\x01\x01\xff\xff")  # +1 and -1 as signed bytes
_NO_MARK = bytes(set(range(256)) - set(_BRACKETS + b'"'))
_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_FEW_ESCAPES = 2000

_ANY: "msgspec.json.Decoder[msgspec.Raw]" = msgspec.json.Decoder(msgspec.Raw)


def _check_syntax(body: bytes) -> None:
    try:
        _ANY.decode(body)
    except msgspec.DecodeError as exc:
        raise text_error(exc, body) from None


_PATH = re.compile(r" - at `(key in )?\$\.?(.*)`$")
_MEMBER = re.compile(r"field `(.*)`$")
_BYTE = re.compile(r"\(byte (\d+)\)$")


def shape_error(error: msgspec.ValidationError) -> InvalidContent:
    """Translate msgspec's error about a value of the wrong shape."""
    text = str(error)
    match = _PATH.search(text)
    path = "" if match is None else match[2]
    problem = text if match is None else text[: match.start()]
    if member := _MEMBER.search(problem):  # the path names the object, the message the field of it
        path = f"{path}.{member[1]}" if path else member[1]
    return InvalidContent(field=path or "body", problem=problem)


_LONE = re.compile(rb"(?<!\\)(?:\\\\)*\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")
"""The first half of a surrogate pair without the second; msgspec's error about it has no position."""


def text_error(error: msgspec.DecodeError, body: bytes) -> MalformedJSON:
    """Translate msgspec's error about text that is not JSON, with its position, or the end if msgspec names none."""
    text = str(error)
    at = _BYTE.search(text)
    if at is not None:
        return MalformedJSON(problem=text[: at.start()].removeprefix("JSON is malformed: ").strip(), at=int(at[1]))
    if lone := _LONE.search(body):
        return MalformedJSON(problem="half of a surrogate pair", at=lone.end() - len(r"\ud800"))
    return MalformedJSON(problem=text, at=len(body))

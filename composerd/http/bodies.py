"""Bodies on their way in: bounded, UTF-8, JSON of a bounded depth, decoded into a typed value whose opaque parts stay as they are."""

import asyncio
import re
from itertools import accumulate
from typing import TypeVar

import msgspec
from aiohttp import web

from composerd.errors import BodyTooLarge, InvalidContent, MalformedJSON
from composerd.http.context import held
from composerd.http.errors import UnsupportedMediaType
from composerd.queue.budget import Budget

MAX_DEPTH = 500
"""How deep JSON may be nested."""

IN_A_THREAD = 1024 * 1024
"""A body from this size on is checked off the loop."""

SMALL = 16 * 1024
"""Bodies up to this size are not counted: the number of connections bounds them."""

_SLICE = 1024 * 1024

T = TypeVar("T")


async def read_json(request: web.Request, decoder: "msgspec.json.Decoder[T]", budget: Budget) -> T:
    """Read and decode a body. Raises `UnsupportedMediaType`, `BodyTooLarge`, `MalformedJSON`, `InvalidContent`, `Unavailable`."""
    check_content_type(request.headers.get("Content-Type", ""))
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType(problem="the body is encoded: send it as it is")
    body = await read(request, budget)
    if len(body) < IN_A_THREAD:
        return decode(body, decoder)
    return await asyncio.to_thread(decode, body, decoder)


async def read(request: web.Request, budget: Budget) -> bytes:
    """Read a body whole, within the application's `client_max_size`; the request holds its size of the budget until it is answered."""
    expected = request.content_length or 0
    if expected > SMALL:
        if expected > request.client_max_size:
            raise BodyTooLarge(limit=request.client_max_size)
        budget.take(expected)
        held.set(expected)
    try:
        body = await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise BodyTooLarge(limit=request.client_max_size) from None
    except web.RequestPayloadError as exc:
        raise MalformedJSON(problem=f"the body ended early: {exc}") from None
    if len(body) > max(SMALL, expected):  # sent in chunks, with no length to go by
        budget.take(len(body))
        held.set(len(body))
    return body


def check_content_type(value: str) -> None:
    """Raise `UnsupportedMediaType` unless it is JSON in UTF-8."""
    if value == "application/json":
        return
    media, *parameters = (part.strip() for part in value.lower().split(";"))
    if media != "application/json":
        raise UnsupportedMediaType
    for parameter in parameters:
        name, _, charset = parameter.partition("=")
        if parameter and (name.strip() != "charset" or charset.strip().strip('"') not in ("utf-8", "utf8")):
            raise UnsupportedMediaType


def decode(body: bytes, decoder: "msgspec.json.Decoder[T]") -> T:
    """Decode a body. Raises `MalformedJSON` for what is no JSON, `InvalidContent` for JSON too deep or of the wrong shape."""
    try:
        str(body, "utf-8")
    except UnicodeDecodeError as exc:
        raise MalformedJSON(problem="not UTF-8", at=exc.start) from None
    if too_deep(body):
        raise InvalidContent(problem=f"nested deeper than {MAX_DEPTH}")
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as exc:
        _well_formed(body)  # the shape may be wrong before the text is: then the text is what is said
        raise shape_error(exc) from None
    except msgspec.DecodeError as exc:
        raise text_error(exc, body) from None


def too_deep(body: bytes) -> bool:
    """Whether brackets outside strings are nested deeper than MAX_DEPTH."""
    marks = body.translate(_STEP, _NO_MARK)
    if marks.count(1) <= MAX_DEPTH:
        return False
    if escapes := body.count(b"\\"):
        marks = _unescaped(body, escapes).translate(_STEP, _NO_MARK)  # now every quote begins or ends a string
    depth = 0
    inside = 0
    for begin in range(0, len(marks), _SLICE):  # in slices: the loop's thread gets a turn in between
        parts = marks[begin : begin + _SLICE].split(b'"')
        outside = b"".join(parts[inside::2])
        inside = (inside + len(parts) - 1) % 2
        level = depth
        for level in accumulate(memoryview(outside).cast("b"), initial=depth):
            if level > MAX_DEPTH:
                return True
        depth = level
    return False


def _unescaped(body: bytes, escapes: int) -> bytes:
    """Without the escapes that have to do with quotes, if not without all."""
    if escapes <= _FEW_ESCAPES:
        return _ESCAPE.sub(b"", body)  # each costs more than below, the text between them nearly nothing
    return body.replace(b"\\\\", b"").replace(b'\\"', b"")


_BRACKETS = b"[{]}"
_STEP = bytes.maketrans(_BRACKETS, b"\x01\x01\xff\xff")  # +1 and -1 as signed bytes
_NO_MARK = bytes(set(range(256)) - set(_BRACKETS + b'"'))
_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_FEW_ESCAPES = 2000

_ANY: "msgspec.json.Decoder[msgspec.Raw]" = msgspec.json.Decoder(msgspec.Raw)


def _well_formed(body: bytes) -> None:
    try:
        _ANY.decode(body)
    except msgspec.DecodeError as exc:
        raise text_error(exc, body) from None


_PLACE = re.compile(r" - at `(key in )?\$\.?(.*)`$")
_MEMBER = re.compile(r"field `(.*)`$")
_BYTE = re.compile(r"\(byte (\d+)\)$")


def shape_error(error: msgspec.ValidationError) -> InvalidContent:
    """What msgspec says of a value of the wrong shape, in our words."""
    text = str(error)
    place = _PLACE.search(text)
    path = "" if place is None else place[2]
    problem = text if place is None else text[: place.start()]
    if member := _MEMBER.search(problem):  # the object is named, and what is meant is a field of it
        path = f"{path}.{member[1]}" if path else member[1]
    return InvalidContent(field=path or "body", problem=problem)


_LONE = re.compile(rb"(?<!\\)(?:\\\\)*\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")
"""The first half of a surrogate pair without the other: at the end of a string msgspec takes it for the end of the text."""


def text_error(error: msgspec.DecodeError, body: bytes) -> MalformedJSON:
    """What msgspec says of a text that is no JSON, and where: at its end, if not elsewhere."""
    text = str(error)
    at = _BYTE.search(text)
    if at is not None:
        return MalformedJSON(problem=text[: at.start()].removeprefix("JSON is malformed: ").strip(), at=int(at[1]))
    if lone := _LONE.search(body):
        return MalformedJSON(problem="half of a surrogate pair", at=lone.end() - len(r"\ud800"))
    return MalformedJSON(problem=text, at=len(body))

"""Request bodies: JSON in UTF-8, of limited size and depth, decoded into typed values whose opaque parts stay bytes."""

import asyncio
import re
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import TypeVar

import msgspec
from aiohttp import HttpVersion11, hdrs, web

from composerd.errors import BodyTooLarge, InvalidContent, MalformedJSON
from composerd.http.errors import LONGEST_TEXT, UnsupportedMediaType
from composerd.http.keys import IDENTIFIER, QUEUE, SETTINGS
from composerd.http.pace import Pace
from composerd.http.request_context import HeldBody, client, held_body, identity
from composerd.http.turns import heavy
from composerd.queue import SMALL, Account

MAX_DEPTH = 500
"""The deepest nesting that JSON may have."""

IN_A_THREAD = 256 * 1024
"""Bodies of at least this size are decoded in a thread, so that the event loop can go on."""

STILL_KNOWN = 1.0
"""Time in seconds that a body may take without its sender being identified again afterwards."""

_SLICE = 128 * 1024
"""Bytes of a large body that are looked at in one step; nothing else runs in Python during a step."""

A = TypeVar("A")
T = TypeVar("T")

Body = bytes | bytearray


async def read_json(
    request: web.Request,
    decoder: "msgspec.json.Decoder[T]",
    account: Account | None = None,
    check: Callable[[Body], None] | None = None,
) -> T:
    """Read and decode the body of a request: one of any size that counts in an account, or a small one.

    `check` looks at a body that is not small before it is decoded. Raises what `read_body` and `decode` raise, and
    `UnsupportedMediaType`.
    """
    check_headers(request)
    body = await read_body(request, account)
    await take_turn(request, body)
    return await decoded(body, decoder, check)


def check_headers(request: web.Request) -> None:
    """Raise `UnsupportedMediaType` unless the body of a request is JSON in UTF-8, as its headers say."""
    content_type = request.headers.get("Content-Type", "")
    if content_type != "application/json":
        check_content_type(content_type)
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise UnsupportedMediaType(content_encoding=encoding, problem="the body must not be encoded")


async def read_body(request: web.Request, account: Account | None = None) -> Body:
    """Return the body of a request.

    Without an account it must be small. In an account, what has arrived counts for the client until the request is
    answered. Raises `BodyTooLarge`, `MalformedJSON` if the body ends early, `TooSlow`, and `Unavailable` if the client
    has no room for so many bytes. If it took long, raises what `Identifier.check_again` does: otherwise somebody could
    keep requests in reserve for when the credentials are revoked.
    """
    limit = check_size(request, account)
    content = request.content
    try:
        if content.is_eof():  # everything has arrived together with the head
            body: Body = content.read_nowait()
            if len(body) > SMALL:
                _count(account, len(body), limit)
            return body
        await invite(request)
        settings = request.app[SETTINGS]
        clock = asyncio.get_running_loop().time
        began = clock()
        body = bytearray()  # grows without being copied, and is never there twice as a list of parts would be
        async with Pace(settings.body_timeout, settings.min_rate) as pace:
            while part := await content.readany():
                pace.moved(len(part))
                _count(account, len(body) + len(part), limit)
                body += part
    except web.RequestPayloadError as exc:
        raise MalformedJSON(problem=f"the body ended early: {exc}") from None
    if clock() - began > STILL_KNOWN:
        await request.app[IDENTIFIER].check_again(request, identity.get())
    return body


def check_size(request: web.Request, account: Account | None = None) -> int:
    """Return how large the body of a request may be. Raises what `read_body` raises if the announced one is larger."""
    limit = request.client_max_size if account is not None else min(SMALL, request.client_max_size)
    expected = request.content_length or 0
    if expected > limit:
        raise BodyTooLarge(limit=limit)
    if expected > SMALL and account is not None:
        account.check(client.get(), expected)
    return limit


def _count(account: Account | None, size: int, limit: int) -> None:
    """Count the bytes of a body that have arrived."""
    if size > limit:
        raise BodyTooLarge(limit=limit)
    if size <= SMALL or account is None:
        return
    held = held_body.get()
    if held is None:
        held = HeldBody(account, client.get())
        held_body.set(held)
    held.grow(size)


async def invite(request: web.BaseRequest) -> None:
    """Tell a client that waits for it (`Expect: 100-continue`) to send the body, after the head was checked."""
    if hdrs.EXPECT in request.headers and request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer itself has not begun


async def read_optional_json(request: web.Request, decoder: "msgspec.json.Decoder[T]") -> None:
    """Read a small body and check that it can be decoded; it may be missing or empty.

    Raises what `read_json` raises.
    """
    if not request.body_exists:
        return
    if request.content_length:
        check_headers(request)
    if body := await read_body(request):
        check_headers(request)
        decode(body, decoder)


async def discard_body(request: web.Request) -> None:
    """Read the body of a request that needs none, and ignore it. Raises what `read_body` raises for a small one."""
    if request.body_exists:
        await read_body(request)


async def take_turn(request: web.Request, body: Body) -> None:
    """Wait for a turn to decode and store a large body, unless there is one client only: it is faster with many."""
    if len(body) >= IN_A_THREAD and request.app[QUEUE].gate.contended:
        await heavy(request)


async def decoded(body: Body, decoder: "msgspec.json.Decoder[T]", check: Callable[[Body], None] | None = None) -> T:
    """Decode a body of any size; see `decode`."""
    if len(body) < IN_A_THREAD:
        return decode(body, decoder, check)
    return await asyncio.to_thread(decode, body, decoder, check)


async def off_loop(size: int, work: Callable[[A], T], item: A) -> T:
    """Return what `work` returns; call it in a thread if it handles so many bytes that it would take long."""
    return work(item) if size < IN_A_THREAD else await asyncio.to_thread(work, item)


def check_content_type(value: str) -> None:
    """Raise `UnsupportedMediaType` unless a Content-Type header means JSON in UTF-8."""
    media, *parameters = (part.strip() for part in value.lower().split(";"))
    if not media:
        raise UnsupportedMediaType(problem="there is no Content-Type")
    if media != "application/json":
        raise UnsupportedMediaType(content_type=value)
    for parameter in parameters:
        name, _, charset = parameter.partition("=")
        if parameter and (name.strip() != "charset" or charset.strip().strip('"') not in ("utf-8", "utf8")):
            raise UnsupportedMediaType(content_type=value)


def decode(body: Body, decoder: "msgspec.json.Decoder[T]", check: Callable[[Body], None] | None = None) -> T:
    """Decode a body, after `check` if it is not small.

    Raises `MalformedJSON` if it is not JSON in UTF-8, `InvalidContent` if it is nested too deep or has the wrong shape.
    """
    _check_utf8(body)
    if len(body) > MAX_DEPTH and _has_many_brackets(body) and too_deep(body):
        raise InvalidContent(problem=f"must not be nested deeper than {MAX_DEPTH}")
    try:
        if check is not None and len(body) > SMALL:
            check(body)
        return decoder.decode(body)
    except msgspec.ValidationError as exc:
        _check_syntax(body)  # a syntax error anywhere is reported rather than a wrong shape
        raise shape_error(exc) from None
    except msgspec.DecodeError as exc:
        raise text_error(exc, body) from None


def _check_utf8(body: Body) -> None:
    """Raise `MalformedJSON` if a body is not UTF-8. It is looked at in slices, so that no large text is made."""
    begin, size = 0, len(body)
    while begin < size:
        part: Body | memoryview = body
        end = size
        if size > _SLICE:
            end = min(begin + _SLICE, size)
            while end < size and body[end] & 0xC0 == 0x80:  # within a character
                end += 1
            part = memoryview(body)[begin:end]
        try:
            str(part, "utf-8")
        except UnicodeDecodeError as exc:
            raise MalformedJSON(problem="must be UTF-8", at=begin + exc.start) from None
        begin = end


def _has_many_brackets(body: Body) -> bool:
    count = 0
    for begin in range(0, len(body), _SLICE):
        count += body.count(b"[", begin, begin + _SLICE) + body.count(b"{", begin, begin + _SLICE)
        if count > MAX_DEPTH:
            return True
    return False


def too_deep(body: Body) -> bool:
    """Return True if brackets outside of strings are nested deeper than `MAX_DEPTH`."""
    depth = 0
    inside = 0
    for piece in _pieces(body):
        marks = _without_escapes(piece).translate(_STEP, _NO_MARK)  # every quote that is left begins or ends a string
        parts = marks.split(b'"')
        outside = b"".join(parts[inside::2])
        inside = (inside + len(parts) - 1) % 2
        if max(accumulate(memoryview(outside).cast("b"), initial=depth)) > MAX_DEPTH:
            return True
        depth += outside.count(b"\x01") - outside.count(b"\xff")
    return False


def _pieces(body: Body) -> Iterator[bytes]:
    """Yield a body in slices that end between escapes, so that the event loop's thread can run in between."""
    begin, size = 0, len(body)
    while begin < size:
        end = min(begin + _SLICE, size)
        piece = bytes(memoryview(body)[begin:end])
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2 and end < size:
            piece += body[end : end + 1]
        begin += len(piece)
        yield piece


def _without_escapes(piece: bytes) -> bytes:
    r"""Return a part of a body without its escapes `\"` and `\\`; other escapes may stay."""
    return piece.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in piece else piece


_BRACKETS = b"[{]}"
_STEP = bytes.maketrans(_BRACKETS, b"\x01\x01\xff\xff")  # +1 and -1 as signed bytes
_NO_MARK = bytes(set(range(256)) - set(_BRACKETS + b'"'))

_ANY: "msgspec.json.Decoder[msgspec.Raw]" = msgspec.json.Decoder(msgspec.Raw)


def _check_syntax(body: Body) -> None:
    try:
        _ANY.decode(body)
    except msgspec.DecodeError as exc:
        raise text_error(exc, body) from None


_PATH = re.compile(r" - at `(key in )?\$\.?(.*)`$", re.DOTALL)
_MEMBER = re.compile(r"field `(.*)`$", re.DOTALL)
_LONGEST_NAME = 50
_BYTE = re.compile(r"\(byte (\d+)\)$")


def shape_error(error: msgspec.ValidationError) -> InvalidContent:
    """Translate msgspec's error about a value of the wrong shape."""
    text = str(error)
    match = _PATH.search(text)
    path = "" if match is None else match[2]
    problem = text if match is None else text[: match.start()]
    if member := _MEMBER.search(problem):  # the path names the object, the message the field of it
        path = f"{path}.{member[1]}" if path else member[1]
        problem = f"{problem[: member.start(1)]}{member[1][:_LONGEST_NAME]}`"
    return InvalidContent(field=path[:LONGEST_TEXT] or "body", problem=problem[:LONGEST_TEXT])


_LONE = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")
"""The first half of a surrogate pair without the second; msgspec's error about it has no position."""


def _lone_half(body: Body) -> int | None:
    """Return the position of the first half of a surrogate pair that has no second half, or None."""
    for begin in range(0, len(body), _SLICE):
        for match in _LONE.finditer(body, begin, begin + _SLICE + 11):  # with room for one that begins in the slice
            before = at = match.start()
            if at >= begin + _SLICE:
                break
            while before and body[before - 1] == 0x5C:
                before -= 1
            if (at - before) % 2 == 0:  # the backslash is not escaped itself
                return at
    return None


def text_error(error: msgspec.DecodeError, body: Body) -> MalformedJSON:
    """Translate msgspec's error about text that is not JSON, with its position, or the end if msgspec names none."""
    text = str(error)
    at = _BYTE.search(text)
    if at is not None:
        return MalformedJSON(problem=text[: at.start()].removeprefix("JSON is malformed: ").strip(), at=int(at[1]))
    if (lone := _lone_half(body)) is not None:
        return MalformedJSON(problem="half of a surrogate pair", at=lone)
    return MalformedJSON(problem=text, at=len(body))

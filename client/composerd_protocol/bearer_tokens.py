"""The bearer tokens that composerd makes: `composerd_`, an id, a secret and a checksum, 54 characters in all.

The prefix lets scanners find a token where it must not be. The checksum tells one with a typing error from a wrong one,
without anybody who knows the right ones.
"""

import secrets
import string
import zlib
from typing import NamedTuple

PREFIX = "composerd_"

_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_ID = 8
_SECRET = 30  # 178 random bits
_CHECKSUM = 6  # the digits of 32 bits
LENGTH = len(PREFIX) + _ID + _SECRET + _CHECKSUM


class BearerToken(NamedTuple):
    """A token and the part of it that may be shown."""

    id: str
    text: str
    """The whole token, which is secret."""


def new_token() -> BearerToken:
    """Return a token that nobody has."""
    id, secret = ("".join(secrets.choice(_ALPHABET) for _ in range(length)) for length in (_ID, _SECRET))
    text = f"{PREFIX}{id}{secret}"
    return BearerToken(id, text + _checksum(text))


def parse_token(text: str) -> BearerToken:
    """Return a token that has its form.

    Raises `ValueError` for a typing error, with a sentence that does not quote the token.
    """
    if not text.startswith(PREFIX):
        raise ValueError(f"this is not a token of composerd, which begins with {PREFIX}")
    if len(text) != LENGTH:
        raise ValueError(f"the token has a typing error: it has {len(text)} characters and not {LENGTH}")
    if text[-_CHECKSUM:] != _checksum(text[:-_CHECKSUM]):
        raise ValueError("the token has a typing error: its checksum is wrong")
    return BearerToken(text[len(PREFIX) :][:_ID], text)


def _checksum(text: str) -> str:
    """Return the CRC-32 of a text, in base 62."""
    number = zlib.crc32(text.encode(errors="surrogateescape"))
    digits = ""
    for _ in range(_CHECKSUM):
        number, digit = divmod(number, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits

"""Cursors of listings: opaque texts that only this storage's servers can make, each for one listing and one reader."""

import base64
import binascii
import hashlib
from collections.abc import Awaitable, Callable

from aiohttp import web
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from composerd.errors import InvalidCursor

_LABEL = b"composerd: key of cursors\0"

_NUMBER = 8
"""The bytes of a place that is a number."""


class Cursors:
    """Turns places in listings into texts and back.

    A text is encrypted, because a place counts what exists for others too. The same place gets the same text from every
    server that knows the secret, before a restart and after it. A text is of no use for another listing, or for whoever
    sees another channel.
    """

    def __init__(self, secret: Callable[[], Awaitable[bytes]]) -> None:
        """Create it. `secret` reads the secret of the storage, which may not have started yet."""
        self._secret = secret
        self._known: AESSIV | None = None

    async def _cipher(self) -> AESSIV:
        if self._known is None:
            self._known = AESSIV(hashlib.sha512(_LABEL + await self._secret()).digest())
        return self._known

    async def text(self, place: bytes, listing: str, channel: str | None) -> str:
        """Return the text of a place. `channel` is the only one that the reader sees; None if it sees every channel."""
        cipher = await self._cipher()
        return _encoded(cipher.encrypt(place, _made_for(listing, channel)))

    async def place(self, text: str, listing: str, channel: str | None) -> bytes:
        """Return the place of a text. Raises `InvalidCursor` unless it was made for this listing and reader."""
        cipher = await self._cipher()
        try:
            sealed = base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
            # The decoder ignores unknown characters: only the exact spelling is a cursor.
            if _encoded(sealed) == text:
                return cipher.decrypt(sealed, _made_for(listing, channel))
        except (binascii.Error, UnicodeEncodeError, InvalidTag):
            pass
        raise InvalidCursor(field="cursor", problem="must be the `next` of an earlier page")

    async def text_of_number(self, number: int, listing: str, channel: str | None) -> str:
        """Return the text of a place that is a number."""
        return await self.text(number.to_bytes(_NUMBER), listing, channel)

    async def number(self, text: str, listing: str, channel: str | None) -> int:
        """Return the number that a text stands for. Raises what `place` raises."""
        return int.from_bytes(await self.place(text, listing, channel))


CURSORS: web.AppKey[Cursors] = web.AppKey("CURSORS", Cursors)


def _encoded(sealed: bytes) -> str:
    return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()


def _made_for(listing: str, channel: str | None) -> list[bytes]:
    """Return the data that has to be the same when a text is read: the listing, and what its reader sees."""
    return [listing.encode(), b"" if channel is None else b"channel:" + channel.encode()]

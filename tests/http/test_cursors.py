"""The cursors of listings: opaque, and made for one listing and one reader."""

import base64
from itertools import product

import pytest

from composerd.errors import InvalidCursor
from composerd.http.cursors import Cursors


def cursors(byte: bytes) -> Cursors:
    """Return the cursors of a storage whose secret repeats a byte."""

    async def secret() -> bytes:
        return byte * 32

    return Cursors(secret)


CURSORS = cursors(b"s")
EVERY = (None, "", "org-acme", "org-other")


@pytest.mark.parametrize(("listing", "channel"), [*product(("jobs", "workers"), EVERY)])
async def test_a_cursor_is_for_one_listing_and_one_reader(listing: str, channel: str | None) -> None:
    """A cursor has its place for the listing and the reader that it was made for, and for no other."""
    text = await CURSORS.text_of_number(17, listing, channel)
    assert await CURSORS.number(text, listing, channel) == 17
    for other in product(("jobs", "workers"), EVERY):
        if other != (listing, channel):
            with pytest.raises(InvalidCursor):
                await CURSORS.number(text, *other)


async def test_places_do_not_show() -> None:
    """Equal places have equal texts at every server of a storage, and texts of neighbours have nothing in common."""
    texts = [await CURSORS.text_of_number(number, "jobs", "org-acme") for number in range(1000)]
    assert texts == [await cursors(b"s").text_of_number(number, "jobs", "org-acme") for number in range(1000)]
    assert len({text[:8] for text in texts}) == len({text[-8:] for text in texts}) == 1000


async def test_cursors_of_another_storage_are_refused() -> None:
    """A cursor that another secret has made is as invalid as one that nobody has made."""
    with pytest.raises(InvalidCursor) as foreign:
        await CURSORS.number(await cursors(b"t").text_of_number(17, "jobs", None), "jobs", None)
    with pytest.raises(InvalidCursor) as garbage:
        await CURSORS.number("AAAA", "jobs", None)
    assert foreign.value.details == garbage.value.details


async def test_only_the_exact_spelling_is_a_cursor() -> None:
    """A text with one changed, added or missing character is no cursor, whatever the decoder makes of it."""
    text = await CURSORS.text(b"x" * 24, "workers", None)
    old = base64.urlsafe_b64encode((17).to_bytes(9)).decode()
    spelled = {text[:-1] + chr(ord(text[-1]) ^ 1), text[1:], text + "=", text + "\n", f"{text}é", "", old, "é", "A"}
    for wrong in spelled | {text[:at] + "." + text[at:] for at in range(len(text))}:
        with pytest.raises(InvalidCursor):
            await CURSORS.place(wrong, "workers", None)

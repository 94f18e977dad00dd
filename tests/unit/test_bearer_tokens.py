"""The form of bearer tokens: who finds one knows what it is, and a typing error is told from a wrong one."""

import re

import pytest

from composerd_protocol.bearer_tokens import new_token, parse_token

KNOWN = "composerd_LByR7PogABCDEFGHIJKLMNOPQRSTUVWXYZabcd"


def test_form() -> None:
    """A token is one word of 54 characters that begins with `composerd_`, and no two are alike."""
    tokens = [new_token() for _ in range(100)]
    assert all(re.fullmatch("composerd_[0-9A-Za-z]{44}", token.text) for token in tokens)
    assert len({token.text[18:48] for token in tokens}) == 100
    assert [parse_token(token.text) for token in tokens] == tokens


def test_checksum() -> None:
    """The checksum is the CRC-32 in base 62, here of 448338977, so that other programs can compute it."""
    assert parse_token(f"{KNOWN}0ULBRp").id == "LByR7Pog"


@pytest.mark.parametrize("place", range(10, 54))
def test_typing_errors(place: int) -> None:
    """A character that is wrong, missing or doubled is a typing error, which is told without the token."""
    text = new_token().text
    wrong = "1" if text[place] != "1" else "2"
    for typed in (
        text[:place] + wrong + text[place + 1 :],
        text[:place] + text[place + 1 :],
        text[:place] + text[place - 1 :],
    ):
        with pytest.raises(ValueError, match="the token has a typing error: ") as raised:
            parse_token(typed)
        assert typed[10:] not in str(raised.value)


@pytest.mark.parametrize("text", ["", "token", "Composerd_x", "ghp_0123456789", "eyJhbGciOiJub25lIn0.e30."])
def test_other_tokens(text: str) -> None:
    """A text without the prefix is no token of composerd."""
    with pytest.raises(ValueError, match="not a token of composerd"):
        parse_token(text)


@pytest.mark.parametrize("text", ["composerd_" + "é" * 44, "composerd_" + "\udcff" * 44, "composerd_" + "\0" * 44])
def test_what_no_token_has(text: str) -> None:
    """Characters that no token has are a typing error too."""
    with pytest.raises(ValueError, match="typing error"):
        parse_token(text)

"""Reading the Authorization header."""

import pytest

from composerd.http.identifying import bearer_token


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer abc", "abc"),
        ("bEARER   abc  ", "abc"),
        ("Bearer\tabc", "abc"),
        ("Bearer", ""),
        ("Bearer \xa0abc", "\xa0abc"),
        ("Basic YTpi", None),
        ("Bearers abc", None),
        ("", None),
    ],
)
def test_bearer_token(header: str, token: str | None) -> None:
    """A header with the scheme `Bearer` has a token, right or wrong; other schemes have none."""
    assert bearer_token(header) == token

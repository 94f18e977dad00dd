"""Listings, which the server answers in pages."""

from collections.abc import AsyncIterator, Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar

import msgspec

from composerd_client.answers import Expected
from composerd_client.connection import Connection, decoded
from composerd_client.values import Page

_LARGEST_PAGE = 1000
"""The most items that the server puts on one page."""

T = TypeVar("T")


async def listed(
    connection: Connection,
    path: str,
    kind: str,
    decoder: "msgspec.json.Decoder[Page[T]]",
    *,
    query: Mapping[str, str | Sequence[str]] = MappingProxyType({}),
    limit: int | None = None,
) -> AsyncIterator[T]:
    """Yield the items of all pages of a listing, at most `limit` of them."""
    asked = dict(query)
    left = limit
    while left is None or left > 0:
        asked["limit"] = str(min(left or _LARGEST_PAGE, _LARGEST_PAGE))
        answer = await connection.request("GET", path, Expected(kind, path=path), query=asked)
        page = decoded(answer.body, decoder)
        for item in page.items[:left]:
            yield item
        left = None if left is None else left - len(page.items)
        if page.next is None:
            return
        asked["cursor"] = page.next

"""Each client's share of a bounded resource."""

import pytest

from composerd.errors import Unavailable
from composerd.shares import Shares


def grab(shares: Shares, client: str) -> int:
    """Take as much as a client can get, one unit at a time, and return how much it holds."""
    while shares.room(client):
        shares.take(client)
    with pytest.raises(Unavailable):
        shares.take(client)
    return shares.of(client)


def test_one_client_gets_a_half_and_each_newcomer_finds_room() -> None:
    """Every client that takes all it can leaves room for the next one."""
    shares = Shares("connections", 1000)
    assert [grab(shares, str(number)) for number in range(4)] == [500, 250, 125, 62]
    assert grab(shares, "0") == 500
    shares.free("1", 250)
    assert shares.of("1") == 0
    assert grab(shares, "2") > 125


def test_the_limit_holds() -> None:
    """The clients together never hold more than the limit, even where each may have a least amount."""
    shares = Shares("bytes", 10, least=8)
    shares.take("a", 8)
    with pytest.raises(Unavailable, match="too many bytes"):
        shares.take("b", 8)
    shares.take("b", 2)
    assert shares.used == 10
    assert shares.room("c") == 0
    shares.free("a", 8)
    shares.free("b", 2)
    assert shares.used == 0


def test_the_last_unit_can_be_taken() -> None:
    """A limit of one serves one client."""
    shares = Shares("connections", 1)
    shares.take("a")
    with pytest.raises(Unavailable):
        shares.take("b")
    shares.free("a")
    shares.take("b")

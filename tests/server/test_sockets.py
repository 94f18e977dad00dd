"""Sockets that are bound and do not listen yet."""

import pytest

from composerd.server.sockets import ListenError, close_sockets, describe, duplicate, open_sockets


def test_an_address_that_is_not_listened_to_yet() -> None:
    """A second server cannot bind a bound address, before the first one listens, and with several processes."""
    first = open_sockets(["127.0.0.1:0"])
    address = describe(first[0]).removeprefix("http://")
    with pytest.raises(ListenError, match="in use"):
        open_sockets([address])
    share = duplicate(first[0])
    for _ in range(2):
        with pytest.raises(ListenError, match="in use"):
            open_sockets([address])
        close_sockets([share])
        share = duplicate(first[0])  # of a process that is started again
    close_sockets([share, *first])
    close_sockets(open_sockets([address]))

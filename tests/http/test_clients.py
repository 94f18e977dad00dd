"""Telling clients apart by their addresses and what trusted proxies say."""

from unittest import mock

import pytest
from aiohttp.test_utils import make_mocked_request

from composerd.http.clients import Clients


def client(peer: str, forwarded: tuple[str, ...] = (), trusted: tuple[str, ...] = ()) -> str:
    """Return the client of a request from a peer with these X-Forwarded-For headers."""
    transport = mock.Mock()
    transport.get_extra_info.side_effect = lambda name, default=None: (peer, 1) if name == "peername" else default
    request = make_mocked_request("GET", "/", transport=transport)
    headers = request.headers.copy()
    for one in forwarded:
        headers.add("X-Forwarded-For", one)
    return Clients(trusted).of(request.clone(headers=headers))


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1%eth0", "2001:db8::/64"),
        ("", "unix"),
    ],
)
def test_peer(peer: str, expected: str) -> None:
    """A client is the peer's IPv4 address, the /64 of its IPv6 address, or any peer on a unix socket."""
    assert client(peer) == expected


def test_a_peer_that_is_no_trusted_proxy_cannot_name_another() -> None:
    """X-Forwarded-For counts only from a trusted proxy."""
    assert client("192.0.2.1", ("198.51.100.7",)) == "192.0.2.1"
    assert client("192.0.2.1", ("198.51.100.7",), ("10.0.0.0/8",)) == "192.0.2.1"
    assert client("", ("198.51.100.7",), ("10.0.0.0/8",)) == "unix"


@pytest.mark.parametrize(
    ("forwarded", "expected"),
    [
        (("198.51.100.7",), "198.51.100.7"),
        (("203.0.113.9, 198.51.100.7",), "198.51.100.7"),
        (("203.0.113.9", "198.51.100.7"), "198.51.100.7"),
        (("198.51.100.7, 10.1.1.1",), "198.51.100.7"),
        (("198.51.100.7:1234",), "198.51.100.7"),
        (("[2001:db8::1]:1234",), "2001:db8::/64"),
        (("unknown",), "10.0.0.5"),
        (("198.51.100.7, unknown",), "10.0.0.5"),
        ((), "10.0.0.5"),
        (("",), "10.0.0.5"),
    ],
)
def test_behind_a_trusted_proxy(forwarded: tuple[str, ...], expected: str) -> None:
    """The client is the last address that a trusted proxy added and that is no trusted proxy itself."""
    assert client("10.0.0.5", forwarded, ("10.0.0.0/8",)) == expected


def test_behind_a_proxy_on_a_unix_socket() -> None:
    """The word `unix` trusts every peer on a unix socket."""
    assert client("", ("198.51.100.7",), ("unix",)) == "198.51.100.7"

"""Noticing that a client has gone before the event loop has read anything."""

import asyncio
import socket
from collections.abc import Iterator
from unittest import mock

import pytest
from aiohttp.test_utils import make_mocked_request

from composerd.http.delivery import gone


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Return the server's end and the client's end of a connection."""
    server, client = socket.socketpair()
    with server, client:
        yield server, client


def _gone(server: socket.socket) -> bool:
    transport = mock.Mock(spec=asyncio.Transport)
    transport.is_closing.return_value = False
    transport.get_extra_info.return_value = server
    return gone(make_mocked_request("POST", "/", transport=transport))


def test_a_client_that_is_there(pair: tuple[socket.socket, socket.socket]) -> None:
    """A connected client has not gone, whether it sends nothing or more than was read."""
    server, client = pair
    assert not _gone(server)
    client.send(b"x")
    assert not _gone(server)


def test_a_client_that_has_gone(pair: tuple[socket.socket, socket.socket]) -> None:
    """A client that has closed its connection has gone, also while data that it sent before is unread."""
    server, client = pair
    client.send(b"x")
    client.close()
    assert _gone(server)
    assert server.recv(1) == b"x"
    assert _gone(server)

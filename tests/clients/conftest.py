"""Servers with a relay before each, for clients in other languages."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from ..live.conftest import COMPOSER, JSON, WORKER, Serve, Server, no_process_left, send, serve, until_waiting
from .relay import Relay

__all__ = [
    "COMPOSER",
    "JSON",
    "WORKER",
    "Relay",
    "Serve",
    "ServeRelayed",
    "Server",
    "no_process_left",
    "relayed",
    "send",
    "serve",
    "until_waiting",
    "without_proxies",
]

ServeRelayed = Callable[..., Awaitable[tuple[Server, Relay]]]


def without_proxies() -> dict[str, str]:
    """Return the environment without proxies, which most clients would use for addresses of the tests too."""
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}


@pytest.fixture
async def relayed(serve: Serve) -> AsyncIterator[ServeRelayed]:
    """Return a function that starts a server with options and a relay before it, and returns both."""
    relays: list[Relay] = []

    async def start(*options: str) -> tuple[Server, Relay]:
        server = await serve(*options)
        relay = Relay(server.address)
        await relay.start()
        relays.append(relay)
        return server, relay

    yield start
    for relay in relays:
        await relay.close()

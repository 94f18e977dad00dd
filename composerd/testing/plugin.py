"""The pytest plugin: `pytest_plugins = ["composerd.testing.plugin"]` in a conftest.py gives the fixture `composerd_server`."""

from collections.abc import Iterator

import pytest

from composerd.testing.server import LiveServer


@pytest.fixture
def composerd_server() -> Iterator[LiveServer]:
    """A live composerd server on a free port, in memory, for one test."""
    with LiveServer() as server:
        yield server

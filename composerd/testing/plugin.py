"""The pytest plugin of the entry point `composerd`: the fixture `composerd_server`, and the kit's options and marker.

pytest loads it wherever composerd is installed, so it imports other modules only when they are used.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from composerd.testing.server import LiveServer

# Failing asserts of the kit show the values that they compared, like asserts in a test.
pytest.register_assert_rewrite("composerd.testing.kit")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options for the kit's random histories."""
    group = parser.getgroup("composerd", "composerd: the conformance kit for storage drivers")
    group.addoption(
        "--history-seconds",
        type=float,
        default=3.0,
        metavar="SECONDS",
        help="how long to try random histories on each driver (default: 3)",
    )
    group.addoption(
        "--history-steps",
        type=int,
        default=None,
        metavar="STEPS",
        help="try this number of random steps on each driver instead, regardless of the time",
    )
    group.addoption(
        "--history-seed",
        type=int,
        default=0,
        metavar="SEED",
        help="seed of the random histories (default: 0)",
    )
    group.addoption(
        "--history-as-found",
        action="store_true",
        help="show a failing history as it was found, without searching for a shorter one",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker `clause`."""
    config.addinivalue_line("markers", "clause(*ids): the clauses of the driver contract that the test checks")


@pytest.fixture
def composerd_server() -> "Iterator[LiveServer]":
    """Run a composerd server on a free port, with its storage in memory, for one test."""
    from composerd.testing.server import LiveServer  # noqa: PLC0415  # imports aiohttp

    with LiveServer() as server:
        yield server

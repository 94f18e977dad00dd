"""The pytest plugin, found through the entry point `composerd`: the fixture `composerd_server`, and what the kit needs of pytest.

It is loaded wherever composerd is installed, so it imports nothing until it is used.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from composerd.testing.server import LiveServer

# The asserts of the kit say what they compared, as those of a test do.
pytest.register_assert_rewrite("composerd.testing.kit")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the kit's random histories."""
    group = parser.getgroup("composerd", "composerd: the conformance kit for storage drivers")
    group.addoption(
        "--history-seconds",
        type=float,
        default=3.0,
        metavar="SECONDS",
        help="how long random histories are tried on each driver (default: 3)",
    )
    group.addoption(
        "--history-steps",
        type=int,
        default=None,
        metavar="STEPS",
        help="try that many random steps on each driver instead, however long it takes",
    )
    group.addoption(
        "--history-seed",
        type=int,
        default=0,
        metavar="SEED",
        help="another seed, other histories (default: 0)",
    )
    group.addoption(
        "--history-as-found",
        action="store_true",
        help="show a history that differs as it was found, without looking for the shortest",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Name the marker."""
    config.addinivalue_line("markers", "clause(*ids): the clauses of the driver contract that the test holds")


@pytest.fixture
def composerd_server() -> "Iterator[LiveServer]":
    """A live composerd server on a free port, in memory, for one test."""
    from composerd.testing.server import LiveServer  # noqa: PLC0415  # loads aiohttp

    with LiveServer() as server:
        yield server

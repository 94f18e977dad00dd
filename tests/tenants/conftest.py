"""Fixtures for tests of identities and tenants: a server for each driver, which the tests of a module share."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from composerd.testing.server import LiveServer

from ..conftest import NEWEST, PostgresServers
from .world import World, write_tokens


@pytest.fixture(scope="module", params=["fs", "postgresql"])
def world(
    request: pytest.FixtureRequest, postgres_servers: PostgresServers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """Start a server with two tenants on each driver, and fail if it has logged a traceback by the end."""
    directory: Path = tmp_path_factory.mktemp("tenants")
    storage = f"fs:{directory}/storage" if request.param == "fs" else postgres_servers.shared(NEWEST).fresh()
    tokens = write_tokens(directory / "tokens")
    options = ("--tokens", f"{directory}/tokens", "--artifacts", f"{directory}/artifacts")
    with LiveServer(storage, options) as server, closing(World(server, tokens)) as world:
        yield world
        assert "Traceback" not in server.log, server.log

"""An OpenID provider, and servers that take its tokens."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from ..live.conftest import COMPOSER, WORKER, Serve, Server, no_process_left, serve, until_waiting
from ..tokens import bearer
from .provider import Provider, running

__all__ = [
    "COMPOSER",
    "WORKER",
    "Serve",
    "Server",
    "bearer",
    "no_process_left",
    "oidc_modules",
    "provider",
    "serve",
    "until_waiting",
]

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def oidc_modules(npm_packages: Callable[..., Path], installed: Callable[[str, str, str], str]) -> Path:
    """Install `oidc-provider` and what it needs, and return the folder."""
    installed("nodejs", "node", "node")
    return npm_packages(HERE / "package.json", HERE / "provider.mjs")


@pytest.fixture
async def provider(oidc_modules: Path) -> AsyncIterator[Provider]:
    """Start a provider with the usual clients."""
    async with running(oidc_modules) as provider:
        yield provider

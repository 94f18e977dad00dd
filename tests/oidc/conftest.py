"""An OpenID provider, and servers that take its tokens."""

import shutil
import subprocess
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
def oidc_modules(tmp_path_factory: pytest.TempPathFactory, installed: Callable[[str, str, str], str]) -> Path:
    """Install `oidc-provider` and what it needs, and return the folder. No package may run a program meanwhile."""
    installed("nodejs", "node", "node")
    npm = installed("npm", "npm", "npm")
    folder = tmp_path_factory.mktemp("oidc")
    for name in ("package.json", "provider.mjs"):
        shutil.copy(HERE / name, folder)
    install = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error"]
    subprocess.run(install, cwd=folder, check=True)
    return folder


@pytest.fixture
async def provider(oidc_modules: Path) -> AsyncIterator[Provider]:
    """Start a provider with the usual clients."""
    async with running(oidc_modules) as provider:
        yield provider

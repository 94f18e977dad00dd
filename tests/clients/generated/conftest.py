"""Generators of clients and linters of OpenAPI documents, in the versions that are pinned here."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..conftest import Serve, Server, no_process_left, serve

__all__ = ["DOCUMENTS", "Serve", "Server", "no_process_left", "serve"]

HERE = Path(__file__).parent
PROGRAMS = HERE / "programs"
SPECS = HERE.parents[2] / "specs"
DOCUMENTS = {name: SPECS / f"{name}.openapi.json" for name in ("worker", "composer")}


@dataclass(frozen=True)
class Tools:
    """Directories of the programs that the tests run."""

    folder: Path
    programs: Path

    async def run(self, *command: str | Path, folder: Path | None = None, **environment: str) -> str:
        """Run a command, one of these or of the system, which must succeed, and return what it printed."""
        program = self.programs / command[0]
        process = await asyncio.create_subprocess_exec(
            program if program.exists() else command[0],
            *command[1:],
            cwd=folder or self.folder,
            env={**os.environ, "REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true", **environment},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out = (await process.communicate())[0].decode()
        assert process.returncode == 0, out
        return out


@pytest.fixture(scope="session")
def python_tools(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    """Install the packages for Python in an environment of their own, so that they need not agree with ours."""
    folder = tmp_path_factory.mktemp("packages")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    tools = Tools(folder, folder / "bin")
    subprocess.run(
        [tools.programs / "pip", "install", "--quiet", "--no-compile", "-r", HERE / "requirements.txt"], check=True
    )
    return tools


@pytest.fixture(scope="session")
def node_tools(npm_packages: Callable[..., Path]) -> Tools:
    """Install the packages for Node."""
    folder = npm_packages(HERE / "package.json")
    return Tools(folder, folder / "node_modules" / ".bin")

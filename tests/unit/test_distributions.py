"""The distribution of the client, beside that of the server."""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def _project(path: Path) -> dict[str, object]:
    project: dict[str, object] = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    return project


def test_the_server_needs_the_client_of_its_own_version() -> None:
    """Both distributions have the same version, and the server depends on exactly that of the client."""
    server, client = _project(ROOT / "pyproject.toml"), _project(ROOT / "client/pyproject.toml")
    assert server["version"] == client["version"]
    assert f"composerd-client=={client['version']}" in server["dependencies"]  # type: ignore[operator]


def test_the_client_depends_on_two_packages_that_the_server_needs_in_the_same_versions() -> None:
    """The client is light: aiohttp and msgspec, and nothing else."""
    server, client = _project(ROOT / "pyproject.toml"), _project(ROOT / "client/pyproject.toml")
    dependencies = client["dependencies"]
    assert isinstance(dependencies, list)
    assert [one.partition(">")[0] for one in dependencies] == ["aiohttp", "msgspec"]
    assert set(dependencies) < set(server["dependencies"])  # type: ignore[call-overload]


def test_the_client_has_its_own_copy_of_the_licence() -> None:
    """A distribution contains only files below its own directory."""
    assert (ROOT / "client/LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    for project in (_project(ROOT / "pyproject.toml"), _project(ROOT / "client/pyproject.toml")):
        assert project["license-files"] == ["LICENSE"]


def test_importing_the_client_imports_no_http_library() -> None:
    """Modules that take time are imported when they are used, and nothing of the server ever."""
    late = (
        "aiohttp",
        "composerd",
        "composerd_client.credentials.token_server",
        "composerd_protocol.profiles",
        "tomllib",
    )
    program = f"import sys, composerd_client; print([name for name in {late} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"

"""The installed drivers, and the reasons why one cannot be used, with distributions that pip has really installed."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from composerd.driver import CONTRACT_VERSION

DRIVER = """
from composerd.driver.simple import SimpleDriver

class Driver(SimpleDriver):
    contract = "1.0"
    name = "box"

    @classmethod
    def from_url(cls, url):
        raise AssertionError("it was opened")
"""

Install = Callable[..., None]


class Installed:
    """A directory where distributions are installed, and the command `composerd` that finds them beside ours."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.directory = scratch / "installed"

    def install(self, distribution: str, source: str, *schemes: str, version: str = "3.2") -> None:
        """Build a wheel of one module, and let pip install it."""
        module = distribution.replace("-", "_")
        about = f"{module}-{version}.dist-info"
        points = "".join(f"{scheme} = {module}:Driver\n" for scheme in schemes)
        files = {
            f"{module}.py": source,
            f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n",
            f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{about}/entry_points.txt": f"[composerd.drivers]\n{points}",
        }
        wheel = self.scratch / f"{module}-{version}-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for name, text in files.items():
                archive.writestr(name, text)
            archive.writestr(f"{about}/RECORD", "".join(f"{name},,\n" for name in [*files, f"{about}/RECORD"]))
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile"]
        subprocess.run([*pip, "--target", str(self.directory), str(wheel)], check=True)

    def composerd(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of composerd."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("COMPOSERD_")}
        return subprocess.run(
            [sys.executable, "-m", "composerd.cli.main", *arguments],
            env=clean | {"PYTHONPATH": str(self.directory)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def drivers(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Return what `composerd drivers` shows, by scheme and distribution."""
        shown = self.composerd("drivers", "--json")
        assert shown.returncode == 0, shown.stderr
        return {(one["scheme"], one["distribution"]): one for one in json.loads(shown.stdout)["items"]}

    def refused(self, url: str) -> str:
        """Return the error of a server for a storage URL that it cannot use."""
        shown = self.composerd("serve", "--listen", "127.0.0.1:0", "--storage", url)
        assert (shown.returncode, shown.stdout) == (2, "")
        assert shown.stderr.count("\n") == 1
        return shown.stderr


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    """Return a directory for distributions, with nothing in it yet."""
    return Installed(tmp_path)


def ours_load(shown: dict[tuple[str, str], dict[str, Any]]) -> bool:
    """Return True if the drivers that come with composerd can be used."""
    return [shown[scheme, "composerd"]["error"] for scheme in ("fs", "memory")] == [None, None]


def test_what_is_shown(installed: Installed) -> None:
    """Scheme, distribution, version, contract and capabilities are shown; a driver of another minor version loads."""
    installed.install("acme-box", DRIVER.replace("1.0", "1.7"), "box")
    shown = installed.drivers()
    assert shown["box", "acme-box"] == {
        "scheme": "box",
        "distribution": "acme-box",
        "version": "3.2",
        "contract": "1.7",
        "capabilities": {
            "durable": True,
            "shared": False,
            "max_submission": 10_000,
            "max_payload": 256 * 1024**2,
            "coalesces": False,
            "hashes_tokens": False,
            "compares_artifacts": True,
            "counts_usage": False,
        },
        "error": None,
    }
    assert ours_load(shown)
    listed = installed.composerd("drivers")
    assert "box\tacme-box 3.2\t1.7\tdurable\tloads\n" in listed.stdout


def test_two_that_claim_one_scheme(installed: Installed) -> None:
    """If two distributions claim one scheme, the error names both, and neither is used; others work."""
    installed.install("acme-box", DRIVER, "box", "crate")
    installed.install("zeta-box", DRIVER, "box")
    clash = "the storage scheme 'box' is claimed by acme-box and zeta-box: uninstall one"
    shown = installed.drivers()
    assert [shown["box", name]["error"] for name in ("acme-box", "zeta-box")] == [clash, clash]
    assert shown["crate", "acme-box"]["error"] is None
    assert ours_load(shown)
    assert clash in installed.refused("box:/x")


def test_one_that_claims_ours(installed: Installed) -> None:
    """A distribution that claims a scheme of composerd is refused, so it cannot replace our driver unnoticed."""
    installed.install("acme-box", DRIVER, "fs")
    assert "'fs' is claimed by acme-box and composerd" in installed.refused("fs:/nowhere")
    assert installed.composerd("storage", "info", "--storage", "memory:").returncode == 1


def test_another_major_contract(installed: Installed) -> None:
    """A driver written for another major version is refused with both versions, even if it lacks methods."""
    source = "from composerd.driver import Driver as Base\nclass Driver(Base):\n    contract = '2.0'"
    installed.install("acme-box", source, "box")
    error = f"the storage driver 'box' of acme-box was written for contract 2.0; this composerd has {CONTRACT_VERSION}"
    shown = installed.drivers()
    assert shown["box", "acme-box"]["error"] == error
    assert ours_load(shown)
    assert error in installed.refused("box:/x")


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("raise OSError('no such library: libbox.so')", "OSError: no such library: libbox.so"),
        ("import sys; sys.exit('not on this machine')", "SystemExit: not on this machine"),
        ("import box_client", "ModuleNotFoundError: No module named 'box_client'"),
        ("Other = 1", "AttributeError: module 'acme_box' has no attribute 'Driver'"),
    ],
    ids=["error", "exit", "missing", "nothing there"],
)
def test_one_that_cannot_be_imported(installed: Installed, source: str, error: str) -> None:
    """A driver that raises on import is shown with the reason, and the others still work."""
    installed.install("acme-box", source, "box")
    installed.install("zeta-crate", DRIVER, "crate")
    shown = installed.drivers()
    assert shown["box", "acme-box"]["error"] == error
    assert shown["box", "acme-box"]["contract"] is None
    assert shown["crate", "zeta-crate"]["error"] is None
    assert ours_load(shown)
    assert f"cannot load the storage driver 'box' of acme-box: {error}" in installed.refused("box:/x")


def test_what_is_no_driver(installed: Installed) -> None:
    """An entry point that is not a driver, and a driver that lacks methods, are refused by name."""
    installed.install("acme-box", "class Driver: pass", "box")
    assert "acme_box:Driver of acme-box is not a composerd.driver.Driver" in installed.refused("box:/x")
    installed.install(
        "zeta-crate", "from composerd.driver import Driver as B\nclass Driver(B):\n    contract = '1.0'", "crate"
    )
    error = installed.refused("crate:/x")
    assert "the storage driver 'crate' of zeta-crate lacks methods: advance, ahead, " in error


def test_an_unknown_scheme(installed: Installed) -> None:
    """The error of an unknown scheme names the schemes that exist, those of third parties too."""
    installed.install("acme-box", DRIVER, "box")
    error = installed.refused("crate:/x")
    assert "no storage driver for 'crate' is installed" in error
    assert "box" in error
    assert "memory" in error

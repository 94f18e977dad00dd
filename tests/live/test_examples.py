"""The examples of docs/examples: their own command lines start servers that work."""

import configparser
import shlex
from pathlib import Path

import pytest

from ..throwaway import Throwaway
from .test_cli import composerd, start

UNITS = Path(__file__).parents[2] / "docs" / "examples" / "systemd"


def service_of(unit: str) -> configparser.SectionProxy:
    """What a unit says of its service."""
    parser = configparser.ConfigParser(interpolation=None, comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[method-assign,assignment]  # the names are spelled with capitals
    parser.read(UNITS / unit)
    return parser["Service"]


@pytest.mark.parametrize("unit", sorted(path.name for path in UNITS.iterdir()))
async def test_a_unit_serves(unit: str, tmp_path: Path, newest_postgres: Throwaway) -> None:
    """The line of a unit, in a directory of the test's own, serves a job; SIGTERM ends it in time, without a failure."""
    service = service_of(unit)
    line = service["ExecStart"]
    for place in ("/var/lib/", "/srv/"):
        line = line.replace(place, f"{tmp_path}/")
    program, *arguments = shlex.split(line)
    assert Path(program).name == "composerd"
    at = arguments.index("--listen") + 1
    arguments[at] = "127.0.0.1:0"
    (tmp_path / "composerd").mkdir()
    environment = {"COMPOSERD_STORAGE": newest_postgres.fresh()} if "storage.env" in service["EnvironmentFile"] else {}
    process = await start(*arguments, server=None, **environment)
    assert process.stdout is not None
    try:
        url = (await process.stdout.readline()).decode().split()[-1]
        told = await composerd("submit", "build", "--server", url)
        assert told.code == 0, told.err
        shown = await composerd("status", told.out.strip(), "--server", url)
        assert shown.code == 0, shown.err
    finally:
        process.terminate()
        await process.communicate()
    assert process.returncode == 0


def test_what_a_unit_says_of_stopping() -> None:
    """A unit gives a server the time that it takes to drain, and more."""
    for unit in UNITS.iterdir():
        assert int(service_of(unit.name)["TimeoutStopSec"]) > 5
        assert int(service_of(unit.name)["LimitNOFILE"]) > 20_000

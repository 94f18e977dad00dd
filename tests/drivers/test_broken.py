"""Tests of the conformance kit itself: for each clause there is a driver that breaks it, and a test that notices."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from .broken import attempts, queries, storages, submissions, usage, workers  # noqa: F401  # importing them fills BROKEN
from .broken.registry import BROKEN, Broken
from .test_clauses import cited, clauses

pytestmark = pytest.mark.timeout(600)  # the first test waits for the whole kit on more than a hundred drivers

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "specs" / "driver-kit.md"

HISTORY_STEPS = 1000
"""The number of random steps that a correct driver has to pass.

The driver that only random histories catch has to fail within as many.
"""

Ended = Mapping[str, Mapping[str, str]]
"""The outcome of each test of each class: passed, skipped, failure or error. Parameters are left out."""


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """Run the kit on all drivers in one run of pytest and return how its tests ended."""
    report = tmp_path_factory.mktemp("broken") / "report.xml"
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    options = [f"--history-steps={HISTORY_STEPS}", "--history-as-found", "-W", "ignore", "--only-cited"]
    clean = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    run = subprocess.run(
        [*command, *options, str(HERE / "broken" / "kit_on_broken.py")],
        cwd=HERE.parents[1],
        env=clean,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 1, run.stdout[-3000:] + run.stderr[-3000:]
    found: dict[str, dict[str, str]] = {}
    for case in ET.parse(report).iter("testcase"):
        name = case.attrib["classname"].rpartition(".")[2]
        test = case.attrib["name"].partition("[")[0]
        how = next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")
        if found.setdefault(name, {}).get(test) not in ("failure", "error"):
            found[name][test] = how
    return found


def caught_by(ended: Ended, broken: Broken) -> list[str]:
    """Return the tests that caught a broken driver."""
    return sorted(test for test, how in ended[f"Test{broken.name}"].items() if how == "failure")


def test_a_driver_for_each_clause() -> None:
    """For each clause of the contract there is one driver that breaks it."""
    assert sorted(broken.clause for broken in BROKEN) == sorted(clauses())


def test_the_correct_drivers_pass(ended: Ended) -> None:
    """The drivers from which the broken ones are derived pass every test, so that a failure shows what was broken."""
    assert set(ended["TestCorrect"]) == set(cited())
    for name in ("TestCorrect", "TestCorrectShared"):
        assert {test: how for test, how in ended[name].items() if how not in ("passed", "skipped")} == {}


@pytest.mark.parametrize("broken", BROKEN, ids=[broken.clause for broken in BROKEN])
def test_a_broken_driver_is_caught(ended: Ended, broken: Broken) -> None:
    """A driver that breaks a clause fails a test that cites the clause."""
    tests = cited()
    assert all(broken.clause in tests[test] for test in ended[f"Test{broken.name}"])
    assert caught_by(ended, broken), f"no test caught {broken.name}: {broken.what}"
    assert "error" not in ended[f"Test{broken.name}"].values()


def test_the_page(ended: Ended, request: pytest.FixtureRequest) -> None:
    """specs/driver-kit.md lists which tests caught which driver; `--driver-kit-page` writes it."""
    if request.config.getoption("--driver-kit-page"):
        PAGE.write_text(page({broken.clause: caught_by(ended, broken) for broken in BROKEN}), encoding="utf-8")
    written = PAGE.read_text(encoding="utf-8")
    caught = {}
    for line in written.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 5 and cells[1] in clauses():
            caught[cells[1]] = [test.strip("` ") for test in cells[3].split("<br>")]
    assert written == page(caught)
    for broken in BROKEN:
        assert set(caught[broken.clause]) & set(caught_by(ended, broken))


def page(caught: Mapping[str, Sequence[str]]) -> str:
    """Return the page that lists the clauses, the drivers that break them, and the tests that catch these."""
    lines = [
        "# The conformance kit: which test catches which mistake",
        "",
        "This page is for developers of composerd.",
        f"The [contract of a storage driver](driver-contract.md) has {len(clauses())} clauses.",
        f"The kit (`composerd.testing.kit`) has {len(cited())} tests, each of which cites the clauses that it tests.",
        f"In `tests/drivers/broken/` there are {len(BROKEN)} drivers that are broken on purpose, one for each clause.",
        "Each of them fails a test that cites its clause.",
        "The correct drivers from which they are derived pass all tests.",
        "",
        "`pytest tests/drivers/test_broken.py --driver-kit-page` writes this page.",
        "Without the option it checks the page.",
        "",
        "| clause | the broken driver | caught by |",
        "|---|---|---|",
    ]
    drivers = {broken.clause: broken for broken in BROKEN}
    for clause in clauses():
        what = drivers[clause].what.rstrip(".")
        what = what[0].lower() + what[1:]
        tests = "<br>".join(f"`{test}`" for test in caught.get(clause, ()))
        lines.append(f"| {clause} | `{drivers[clause].name}` {what} | {tests} |")
    return "\n".join(lines) + "\n"

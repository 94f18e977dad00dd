"""The kit is tested itself: for each clause there is a driver that breaks it, and a test that cites the clause finds that out."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from .broken import attempts, queries, storages, submissions  # noqa: F401  # they fill the list
from .broken.registry import BROKEN, Broken
from .test_clauses import cited, clauses

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "specs" / "driver-kit.md"

HISTORY_STEPS = 1000
"""How many random steps the driver that is right has to pass, and the one that only they find out may pass at most."""

Ended = Mapping[str, Mapping[str, str]]
"""For each class, how each of its tests ended: passed, skipped, failed or error; parameters left out."""


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """What became of the kit on all of them, in one run of pytest that ends as soon as each was found out."""
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
    """The tests that found a driver out."""
    return sorted(test for test, how in ended[f"Test{broken.name}"].items() if how == "failure")


def test_a_driver_for_each_clause() -> None:
    """For each clause of the contract there is one driver that breaks it."""
    assert sorted(broken.clause for broken in BROKEN) == sorted(clauses())


def test_those_that_are_right_pass(ended: Ended) -> None:
    """The drivers that the broken ones are made of pass every test: what is found is what was broken."""
    assert set(ended["TestRight"]) == set(cited())
    for name in ("TestRight", "TestRightShared"):
        assert {test: how for test, how in ended[name].items() if how not in ("passed", "skipped")} == {}


@pytest.mark.parametrize("broken", BROKEN, ids=[broken.clause for broken in BROKEN])
def test_it_is_caught(ended: Ended, broken: Broken) -> None:
    """A driver that breaks a clause fails a test that cites it."""
    tests = cited()
    assert all(broken.clause in tests[test] for test in ended[f"Test{broken.name}"])
    assert caught_by(ended, broken), f"{broken.name} {broken.what}: nobody noticed"
    assert "error" not in ended[f"Test{broken.name}"].values()


def test_the_page(ended: Ended, request: pytest.FixtureRequest) -> None:
    """specs/driver-kit.md has the numbers and the table; `--driver-kit-page` writes it."""
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
    """The page of clauses, of the drivers that break them, and of the tests that find them out."""
    lines = [
        "# The conformance kit: what it holds, and what proves it",
        "",
        f"The [contract of a storage driver](driver-contract.md) has {len(clauses())} clauses; the kit",
        f"(`composerd.testing.kit`) has {len(cited())} tests, each of which cites the clauses that it holds.",
        f"{len(BROKEN)} drivers are broken on purpose, one a clause (`tests/drivers/broken/`). Each fails a test that cites its clause,",
        "while the drivers that they are made of pass all. Made, and held to be true, by",
        "`pytest tests/drivers/test_broken.py --driver-kit-page`.",
        "",
        "| clause | broken driver | caught by |",
        "|---|---|---|",
    ]
    drivers = {broken.clause: broken for broken in BROKEN}
    for clause in clauses():
        what = drivers[clause].what.rstrip(".")
        what = what[0].lower() + what[1:]
        tests = "<br>".join(f"`{test}`" for test in caught.get(clause, ()))
        lines.append(f"| {clause} | `{drivers[clause].name}` {what} | {tests} |")
    return "\n".join(lines) + "\n"

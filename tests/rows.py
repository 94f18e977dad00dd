"""The rows of the tables in docs/reference, and the page that lists each row with its tests."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

REFERENCE = Path(__file__).parents[1] / "docs" / "reference"
PAGES = ("protocol.md", "commands.md")


class Row(NamedTuple):
    """One row of a table."""

    page: str
    table: str
    """The heading above the table."""
    name: str
    """The first cell without markup."""
    cells: tuple[str, ...]


def rows() -> list[Row]:
    """Return the rows of all tables of the reference, in the order of the pages."""
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
    """Return a first cell without its markup, and a command without its arguments."""
    text = re.sub(r"[`*]", "", cell)
    command = re.match(r"composerd(?: [a-z][a-z-]+(?![a-z|-])| --graph)+", text)
    return command[0] if command else text


def table_of(table: str) -> list[Row]:
    """Return the rows under one heading."""
    return [row for row in rows() if row.table == table]


def page(items: Sequence[pytest.Item]) -> str:
    """Return the page that lists the tests of each row. Raises `pytest.UsageError` for a marker that names no row."""
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
        "[the command line](../../docs/reference/commands.md), and the tests of it,",
        "most of them against a live server.",
        "Made from the tests by `pytest --collect-only -q --rows-page tests/live/rows.md`.",
    ]
    table = ""
    for row in rows():
        if row.table != table:
            table = row.table
            lines += ["", f"## {table}", "", "| row | tests |", "|---|---|"]
        named = sorted(set(tests.get((row.table, row.name), ())))
        lines.append(f"| `{row.name}` | {'<br>'.join(f'`{one}`' for one in named) or '**none**'} |")
    return "\n".join(lines) + "\n"

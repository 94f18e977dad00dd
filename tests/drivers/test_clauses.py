"""The contract's page, the docstrings of `Driver` and the tests of the kit name the same clauses."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from composerd.driver import Driver, contract
from composerd.testing.kit import DriverKit

PAGE = Path(__file__).parents[2] / "specs" / "driver-contract.md"


def clauses() -> list[str]:
    """Return the numbers of the page's clauses, in their order."""
    return re.findall(r"^\*\*([A-Z]\d+)\.\*\* ", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def cited() -> dict[str, set[str]]:
    """Return the clauses that each test of the kit cites."""
    return {
        name: {number for mark in getattr(test, "pytestmark", ()) if mark.name == "clause" for number in mark.args}
        for name, test in inspect.getmembers(DriverKit, inspect.isfunction)
        if name.startswith("test_")
    }


def named(text: str) -> Iterator[str]:
    """Return the clauses that a docstring names in brackets, such as `(E1 to E11, G2)`."""
    for brackets in re.findall(r"\(([A-Z]\d+[^()]*)\)", text):
        for first, last in re.findall(r"([A-Z]\d+)(?: to ([A-Z]\d+))?", brackets):
            for number in range(int(first[1:]), int((last or first)[1:]) + 1):
                yield f"{first[0]}{number}"


def test_the_clauses_are_numbered() -> None:
    """Each clause has its own number, and each section counts from 1."""
    numbers = clauses()
    assert len(set(numbers)) == len(numbers) > 80
    for letter in {number[0] for number in numbers}:
        section = [number for number in numbers if number[0] == letter]
        assert section == [f"{letter}{n}" for n in range(1, len(section) + 1)]


def test_every_clause_is_tested() -> None:
    """Each clause is cited by a test of the kit."""
    assert set(clauses()) - set[str]().union(*cited().values()) == set()


def test_every_test_cites_a_clause() -> None:
    """Each test of the kit cites clauses, all of which exist."""
    assert {name for name, numbers in cited().items() if not numbers} == set()
    assert set[str]().union(*cited().values()) - set(clauses()) == set()


def test_the_docstrings_name_every_clause() -> None:
    """The docstrings of the contract's module and its methods name each clause, and no other."""
    texts = [contract.__doc__ or "", *[inspect.getdoc(method) or "" for method in vars(Driver).values()]]
    assert {number for text in texts for number in named(text)} == set(clauses())

"""The code in the guides for authors of drivers and artifact stores is that of the distributions that they build."""

import re
from pathlib import Path

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "write-a-storage-driver.md"
DISTRIBUTION = Path(__file__).parent / "composerd-sqlite"


def blocks(language: str) -> list[str]:
    """Return the page's pieces of code in a language."""
    return re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)


def lines(text: str) -> list[str]:
    """Return the lines of a text without blank ones, which a page does not need between its pieces of code."""
    return [line for line in text.splitlines() if line.strip()]


def test_the_project() -> None:
    """The page's pyproject.toml is the distribution's."""
    assert blocks("toml") == [(DISTRIBUTION / "pyproject.toml").read_text(encoding="utf-8")]


def test_the_test() -> None:
    """The page's test is the distribution's, and has ten lines."""
    written = (DISTRIBUTION / "tests" / "test_kit.py").read_text(encoding="utf-8")
    assert blocks("python")[0] == written
    assert len(lines(written)) == 10


def test_the_driver() -> None:
    """The other pieces of code on the page, put together, are the driver."""
    written = (DISTRIBUTION / "composerd_sqlite.py").read_text(encoding="utf-8")
    assert lines("".join(blocks("python")[1:])) == lines(written)


def test_the_page_of_artifact_stores() -> None:
    """The test and the entry point on the page are the distribution's."""
    page = (GUIDE.parent / "write-an-artifact-store.md").read_text(encoding="utf-8")
    distribution = DISTRIBUTION.parent / "composerd-bucket"
    ((point,), (test,)) = (re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL) for language in ("toml", "python"))
    assert test == (distribution / "tests" / "test_kit.py").read_text(encoding="utf-8")
    assert point in (distribution / "pyproject.toml").read_text(encoding="utf-8")

"""The guide for driver authors: its code is what is in the distribution that it builds."""

import re
from pathlib import Path

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "write-a-storage-driver.md"
DISTRIBUTION = Path(__file__).parent / "composerd-sqlite"


def blocks(language: str) -> list[str]:
    """The page's code in a language, piece by piece."""
    return re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)


def lines(text: str) -> list[str]:
    """What is written in a text, blank lines left out: a page needs none where it interrupts the code."""
    return [line for line in text.splitlines() if line.strip()]


def test_the_project() -> None:
    """The page's pyproject.toml is the distribution's."""
    assert blocks("toml") == [(DISTRIBUTION / "pyproject.toml").read_text(encoding="utf-8")]


def test_the_test() -> None:
    """The page's test is the distribution's, in ten lines."""
    written = (DISTRIBUTION / "tests" / "test_kit.py").read_text(encoding="utf-8")
    assert blocks("python")[0] == written
    assert len(lines(written)) == 10


def test_the_driver() -> None:
    """The rest of the page's code, put together, is the driver, to the letter."""
    written = (DISTRIBUTION / "composerd_sqlite.py").read_text(encoding="utf-8")
    assert lines("".join(blocks("python")[1:])) == lines(written)


def test_the_page_of_artifact_stores() -> None:
    """The test and the entry point on the page are the distribution's."""
    page = (GUIDE.parent / "write-an-artifact-store.md").read_text(encoding="utf-8")
    distribution = DISTRIBUTION.parent / "composerd-bucket"
    ((point,), (test,)) = (re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL) for language in ("toml", "python"))
    assert test == (distribution / "tests" / "test_kit.py").read_text(encoding="utf-8")
    assert point in (distribution / "pyproject.toml").read_text(encoding="utf-8")

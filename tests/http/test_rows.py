"""The page that lists every row of the reference with its tests."""

import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).parents[2]


def test_the_page_of_rows(tmp_path: Path) -> None:
    """The page is up to date, and every row has a test."""
    made = tmp_path / "rows.md"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "--collect-only",
            "-q",
            "-p",
            "no:cacheprovider",
            "--rows-page",
            made,
            "tests",
        ],
        cwd=TOP,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    text = made.read_text()
    assert "**none**" not in text
    assert text == (TOP / "tests" / "live" / "rows.md").read_text(), "tests/live/rows.md is not up to date"

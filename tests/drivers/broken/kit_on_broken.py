"""The kit on every driver that is broken on purpose, as test classes. `test_broken` runs them and expects them to fail.

Of each broken driver only the tests that cite its clause are run. All tests are run on the correct driver, and on the
correct shared driver those of what is shared.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from composerd.driver import Driver
from composerd.testing.kit import DriverKit

from . import attempts, queries, storages, submissions, usage, workers  # noqa: F401  # importing them fills BROKEN
from .correct import Correct, CorrectShared
from .registry import BROKEN


class OnBroken(DriverKit):
    clauses: tuple[str, ...]
    driver_class: type[Correct]

    @pytest.fixture
    def driver(self, make_driver: Callable[[], Driver]) -> Driver:
        return make_driver()

    @pytest.fixture
    def make_driver(self, tmp_path: Path) -> Callable[[], Driver]:
        return lambda: self.driver_class.from_url(f"broken:{tmp_path}/storage")


class TestCorrect(OnBroken):
    clauses = ()
    driver_class = Correct


class TestCorrectShared(OnBroken):
    clauses = ("S4", "S8", "C6", "N5", "L11", "L15", "L16")
    driver_class = CorrectShared


for broken in BROKEN:
    globals()[f"Test{broken.name}"] = type(
        f"Test{broken.name}", (OnBroken,), {"clauses": (broken.clause,), "driver_class": broken.driver}
    )

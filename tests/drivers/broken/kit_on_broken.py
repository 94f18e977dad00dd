"""The kit on every driver that is broken on purpose, as test classes: run by test_broken, which expects them to fail.

Of each class only the tests that cite its clauses are run; of the right driver all, of the shared one those of what is shared.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from composerd.driver import Driver
from composerd.testing.kit import DriverKit

from . import attempts, queries, storages, submissions  # noqa: F401  # they fill the list
from .registry import BROKEN
from .right import Right, RightShared


class OnBroken(DriverKit):
    clauses: tuple[str, ...]
    made: type[Right]

    @pytest.fixture
    def driver(self, make_driver: Callable[[], Driver]) -> Driver:
        return make_driver()

    @pytest.fixture
    def make_driver(self, tmp_path: Path) -> Callable[[], Driver]:
        return lambda: self.made.from_url(f"broken:{tmp_path}/storage")


class TestRight(OnBroken):
    clauses = ()
    made = Right


class TestRightShared(OnBroken):
    clauses = ("S4", "S8", "C6", "N5")
    made = RightShared


for broken in BROKEN:
    globals()[f"Test{broken.name}"] = type(
        f"Test{broken.name}", (OnBroken,), {"clauses": (broken.clause,), "made": broken.driver}
    )

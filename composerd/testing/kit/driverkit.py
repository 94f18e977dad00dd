"""`DriverKit`: all the tests of the kit as one class. The tests themselves are in the modules of their topics."""

from collections.abc import Callable

import pytest

from composerd.driver import Driver
from composerd.testing.kit.artifact_attaching import Artifacts
from composerd.testing.kit.claims import Claims
from composerd.testing.kit.dependencies import Dependencies
from composerd.testing.kit.durability import Durability
from composerd.testing.kit.ends import Ends
from composerd.testing.kit.histories import Histories
from composerd.testing.kit.instance import Instance
from composerd.testing.kit.leases import Leases
from composerd.testing.kit.migration import Migration
from composerd.testing.kit.news import NewsOfCalls
from composerd.testing.kit.queries import Queries
from composerd.testing.kit.races import Races
from composerd.testing.kit.requeues import Requeues
from composerd.testing.kit.storage import Storage
from composerd.testing.kit.submissions import Submissions


class DriverKit(
    Submissions,
    Dependencies,
    Claims,
    Leases,
    Requeues,
    Ends,
    Artifacts,
    Queries,
    NewsOfCalls,
    Races,
    Durability,
    Migration,
    Storage,
    Histories,
):
    """Whether a driver keeps the contract. Derive a class whose name begins with `Test`, and give its two fixtures.

    >>> class TestMine(DriverKit):
    ...     @pytest.fixture
    ...     def driver(self, tmp_path):
    ...         return MyDriver.from_url(f"mine:{tmp_path}/jobs")
    ...
    ...     @pytest.fixture
    ...     def make_driver(self, tmp_path):
    ...         return lambda: MyDriver.from_url(f"mine:{tmp_path}/jobs")

    The fixtures are plain, and the tests run their coroutines themselves: it makes no difference whether a plugin for
    asyncio is installed, nor in which mode.
    """

    @pytest.fixture
    def driver(self) -> Driver:
        """An unopened driver on a new, empty storage."""
        raise NotImplementedError(f"{type(self).__name__} has no fixture `driver`: an unopened driver on a new storage")

    @pytest.fixture
    def make_driver(self) -> Callable[[], Driver]:
        """A function that makes another unopened driver on the storage that `driver` has."""
        raise NotImplementedError(
            f"{type(self).__name__} has no fixture `make_driver`: a function that returns another driver on the same storage"
        )

    @pytest.fixture
    def instance(self, driver: Driver, make_driver: Callable[[], Driver]) -> Instance:
        """The driver, and the tests' words for it."""
        return Instance(driver, make_driver)

"""`DriverKit`: all tests of the kit for storage drivers in one class. The modules named after topics have the tests."""

from collections.abc import Callable

import pytest

from composerd.driver import Driver
from composerd.testing.kit.absences import Absences
from composerd.testing.kit.artifact_attaching import Artifacts
from composerd.testing.kit.artifact_lists import ArtifactLists
from composerd.testing.kit.claims import Claims
from composerd.testing.kit.clocks import Clocks
from composerd.testing.kit.dependencies import Dependencies
from composerd.testing.kit.durability import Durability
from composerd.testing.kit.ends import Ends
from composerd.testing.kit.histories import Histories
from composerd.testing.kit.instance import Instance
from composerd.testing.kit.leases import Leases
from composerd.testing.kit.migration import Migration
from composerd.testing.kit.news import NewsOfCalls
from composerd.testing.kit.outages import Outages
from composerd.testing.kit.queries import Queries
from composerd.testing.kit.races import Races
from composerd.testing.kit.requeues import Requeues
from composerd.testing.kit.storage import Storage
from composerd.testing.kit.submissions import Submissions
from composerd.testing.kit.usage import UsageOfChannels, UsageOfOpenedStorages
from composerd.testing.kit.workers import RememberedWorkers


class DriverKit(
    Submissions,
    Dependencies,
    Claims,
    Leases,
    Absences,
    Clocks,
    Requeues,
    Ends,
    Artifacts,
    ArtifactLists,
    Queries,
    UsageOfChannels,
    UsageOfOpenedStorages,
    RememberedWorkers,
    NewsOfCalls,
    Races,
    Durability,
    Outages,
    Migration,
    Storage,
    Histories,
):
    """The conformance tests for a storage driver.

    Derive a class whose name begins with `Test`, and define its two fixtures:

    >>> class TestMine(DriverKit):
    ...     @pytest.fixture
    ...     def driver(self, make_driver):
    ...         return make_driver()
    ...
    ...     @pytest.fixture
    ...     def make_driver(self, tmp_path):
    ...         return lambda: MyDriver.from_url(f"mine:{tmp_path}/jobs")

    The fixtures are plain functions, and the tests run their coroutines themselves: it makes no difference whether a
    pytest plugin for asyncio is installed, nor in which mode.
    """

    @pytest.fixture
    def driver(self) -> Driver:
        """Return an unopened driver on a new, empty storage."""
        raise NotImplementedError(f"{type(self).__name__} has no fixture `driver`: an unopened driver on a new storage")

    @pytest.fixture
    def make_driver(self) -> Callable[[], Driver]:
        """Return a function that returns another unopened driver on the same storage."""
        raise NotImplementedError(
            f"{type(self).__name__} has no fixture `make_driver`: a function that returns another driver on the storage"
        )

    @pytest.fixture
    def instance(self, driver: Driver, make_driver: Callable[[], Driver]) -> Instance:
        """Return the driver together with the methods that the tests use."""
        return Instance(driver, make_driver)

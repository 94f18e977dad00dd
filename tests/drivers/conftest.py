"""What the tests of our drivers have in common: drivers on a directory or a database, with the words of the conformance kit."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from composerd.driver import Driver
from composerd.models import News
from composerd.testing.kit import instance as kit
from composerd_fs import FsDriver, MemoryDriver
from composerd_postgres import PostgresDriver

from ..throwaway import Throwaway

Open = Callable[..., Awaitable[kit.Store]]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With `--only-cited` leave the tests of a broken driver out that do not cite the clause that it breaks."""
    if config.getoption("--only-cited"):
        items[:] = [item for item in items if _cites(item)]


def _cites(item: pytest.Item) -> bool:
    broken = getattr(item.getparent(pytest.Class), "obj", None)
    clauses = getattr(broken, "clauses", ())
    return not clauses or any(clause in mark.args for mark in item.iter_markers("clause") for clause in clauses)


class Store(kit.Store):
    """A driver on a directory. Nothing is settled behind a test's back: what lags is a subject of these tests."""

    def __init__(self, driver: Driver, directory: Path) -> None:
        super().__init__(driver, lambda: FsDriver(directory))
        self.directory = directory

    async def told(self, news: News) -> News:
        """The news as it is."""
        return news


async def opened(directory: Path, shifted: float = 0.0) -> FsDriver:
    """An fs driver that has started, that much later than now."""
    driver = FsDriver(directory)
    await driver.shift_clock(shifted)
    try:
        await driver.start()
    except BaseException:
        await driver.close()
        raise
    return driver


@contextlib.asynccontextmanager
async def store_of(kind: str, directory: Path) -> AsyncIterator[Store]:
    """A started driver in an empty storage."""
    driver: Driver
    if kind == "fs":
        driver = await opened(directory)
    else:
        driver = MemoryDriver.from_url("memory:")
        await driver.start()
    store = Store(driver, directory)
    try:
        yield store
    finally:
        await store.driver.close()


@pytest.fixture
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what is in files, which start a storage thousands of times: nothing waits for the disk."""
    monkeypatch.setattr("os.fsync", lambda _descriptor: None)


@pytest.fixture
async def fs(tmp_path: Path) -> AsyncIterator[Store]:
    """The fs driver, empty: it can be reopened."""
    async with store_of("fs", tmp_path / "storage") as store:
        yield store


@pytest.fixture
async def open_store(newest_postgres: Throwaway) -> AsyncIterator[Open]:
    """A function that opens drivers: each call another one, on a storage of this test."""
    url = newest_postgres.fresh()
    stores: list[kit.Store] = []

    async def open_one(at: str = "", **options: str) -> kit.Store:
        query = "".join(f"&{name}={value}" for name, value in options.items())
        driver = PostgresDriver.from_url((at or url) + query)
        await driver.start()
        store = kit.Store(driver, lambda: PostgresDriver(driver.options))
        store._ids = 1_000_000 * len(stores)
        stores.append(store)
        return store

    yield open_one
    for store in stores:
        await store.driver.close()

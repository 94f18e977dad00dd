"""Fixtures for the tests of our drivers: instances of the conformance kit on a directory or a database."""

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

Open = Callable[..., Awaitable[kit.Instance]]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With `--only-cited`, drop the tests of a broken driver that do not cite the clause that it breaks."""
    if config.getoption("--only-cited"):
        items[:] = [item for item in items if _cites(item)]


def _cites(item: pytest.Item) -> bool:
    broken = getattr(item.getparent(pytest.Class), "obj", None)
    clauses = getattr(broken, "clauses", ())
    return not clauses or any(clause in mark.args for mark in item.iter_markers("clause") for clause in clauses)


class Instance(kit.Instance):
    """A driver on a directory. It does not call `advance` by itself, because these tests check what is left to do."""

    def __init__(self, driver: Driver, directory: Path) -> None:
        super().__init__(driver, lambda: FsDriver(directory))
        self.directory = directory

    async def advance_until_idle(self, news: News) -> News:
        """Return the news as it is."""
        return news


async def opened(directory: Path, shifted: float = 0.0) -> FsDriver:
    """Return a started fs driver whose clock is `shifted` seconds ahead."""
    driver = FsDriver(directory)
    await driver.shift_clock(shifted)
    try:
        await driver.start()
    except BaseException:
        await driver.close()
        raise
    return driver


async def created(url: str) -> PostgresDriver:
    """Create an empty storage in a database, and return an unopened driver on it."""
    driver = PostgresDriver.from_url(url)
    await driver.start()
    await driver.close()
    return PostgresDriver.from_url(url)


@contextlib.asynccontextmanager
async def instance_of(kind: str, directory: Path) -> AsyncIterator[Instance]:
    """Open a driver on an empty storage for the length of a block."""
    driver: Driver
    if kind == "fs":
        driver = await opened(directory)
    else:
        driver = MemoryDriver.from_url("memory:")
        await driver.start()
    instance = Instance(driver, directory)
    try:
        yield instance
    finally:
        await instance.driver.close()


@pytest.fixture
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace `fsync` with nothing, for tests that start a storage thousands of times and check only its files."""
    monkeypatch.setattr("os.fsync", lambda _descriptor: None)


@pytest.fixture
async def fs(tmp_path: Path) -> AsyncIterator[Instance]:
    """Return the fs driver on an empty directory, which can be reopened."""
    async with instance_of("fs", tmp_path / "storage") as instance:
        yield instance


@pytest.fixture
async def open_instance(newest_postgres: Throwaway) -> AsyncIterator[Open]:
    """Return a function that opens another driver on the storage of this test at each call."""
    url = newest_postgres.fresh()
    instances: list[kit.Instance] = []

    async def open_one(at: str = "", **options: str) -> kit.Instance:
        query = "".join(f"&{name}={value}" for name, value in options.items())
        driver = PostgresDriver.from_url((at or url) + query)
        await driver.start()
        instance = kit.Instance(driver, lambda: PostgresDriver(driver.options))
        instance._ids = 1_000_000 * len(instances)
        instances.append(instance)
        return instance

    yield open_one
    for instance in instances:
        await instance.driver.close()

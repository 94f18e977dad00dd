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

Open = Callable[..., Awaitable[kit.Instance]]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With `--only-cited` leave the tests of a broken driver out that do not cite the clause that it breaks."""
    if config.getoption("--only-cited"):
        items[:] = [item for item in items if _cites(item)]


def _cites(item: pytest.Item) -> bool:
    broken = getattr(item.getparent(pytest.Class), "obj", None)
    clauses = getattr(broken, "clauses", ())
    return not clauses or any(clause in mark.args for mark in item.iter_markers("clause") for clause in clauses)


class Instance(kit.Instance):
    """A driver on a directory. Nothing is settled behind a test's back: what lags is a subject of these tests."""

    def __init__(self, driver: Driver, directory: Path) -> None:
        super().__init__(driver, lambda: FsDriver(directory))
        self.directory = directory

    async def advance_until_idle(self, news: News) -> News:
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
async def instance_of(kind: str, directory: Path) -> AsyncIterator[Instance]:
    """A started driver in an empty storage."""
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
    """For tests of what is in files, which start a storage thousands of times: nothing waits for the disk."""
    monkeypatch.setattr("os.fsync", lambda _descriptor: None)


@pytest.fixture
async def fs(tmp_path: Path) -> AsyncIterator[Instance]:
    """The fs driver, empty: it can be reopened."""
    async with instance_of("fs", tmp_path / "storage") as instance:
        yield instance


@pytest.fixture
async def open_instance(newest_postgres: Throwaway) -> AsyncIterator[Open]:
    """A function that opens drivers: each call another one, on a storage of this test."""
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

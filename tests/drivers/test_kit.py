"""The drivers that come with composerd pass the conformance kit, which is used here as a third party would use it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from composerd.driver import Driver
from composerd.testing.kit import DriverKit
from composerd_fs import FsDriver, MemoryDriver
from composerd_postgres import PostgresDriver

from ..throwaway import Throwaway


class TestFs(DriverKit):
    @pytest.fixture
    def driver(self, tmp_path: Path) -> Driver:
        return FsDriver(tmp_path / "storage")

    @pytest.fixture
    def make_driver(self, tmp_path: Path) -> Callable[[], Driver]:
        return lambda: FsDriver(tmp_path / "storage")


class TestMemory(DriverKit):
    @pytest.fixture
    def driver(self) -> Driver:
        return MemoryDriver.from_url("memory:")

    @pytest.fixture
    def make_driver(self) -> Callable[[], Driver]:
        return lambda: MemoryDriver.from_url("memory:")


class TestPostgres(DriverKit):
    """The driver on the oldest supported PostgreSQL and on the newest one."""

    @pytest.fixture
    def url(self, postgres: Throwaway) -> str:
        return postgres.fresh()

    @pytest.fixture
    def driver(self, url: str) -> Driver:
        return PostgresDriver.from_url(url)

    @pytest.fixture
    def make_driver(self, url: str) -> Callable[[], Driver]:
        return lambda: PostgresDriver.from_url(url)

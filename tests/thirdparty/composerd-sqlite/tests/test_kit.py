import pytest
from composerd_sqlite import SqliteDriver

from composerd.testing.kit import DriverKit


class TestSqlite(DriverKit):
    @pytest.fixture
    def driver(self, make_driver):
        return make_driver()

    @pytest.fixture
    def make_driver(self, tmp_path):
        return lambda: SqliteDriver.from_url(f"sqlite:{tmp_path}/jobs.db")

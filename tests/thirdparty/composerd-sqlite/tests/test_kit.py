import pytest
from composerd_sqlite import SqliteDriver

from composerd.testing.kit import DriverKit


class TestSqlite(DriverKit):
    @pytest.fixture
    def driver(self, again):
        return again()

    @pytest.fixture
    def again(self, tmp_path):
        return lambda: SqliteDriver.from_url(f"sqlite:{tmp_path}/jobs.db")

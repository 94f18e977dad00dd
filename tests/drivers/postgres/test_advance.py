"""Calls of `advance` while the database refuses one of its statements."""

import pytest

from composerd.errors import DriverError
from composerd.models import JobState
from composerd_postgres import PostgresDriver

from ...throwaway import Throwaway
from ..conftest import Open

REFUSE = """
CREATE FUNCTION {schema}.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON {schema}.jobs FOR EACH ROW
WHEN (OLD.state = 'waiting' AND NEW.state = 'ready') EXECUTE FUNCTION {schema}.refuse()
"""


async def test_a_refused_statement_stops_no_lease(open_instance: Open, newest_postgres: Throwaway) -> None:
    """While the start of delayed jobs is refused, leases end; `advance` raises the error until it works again."""
    instance = await open_instance()
    delayed, running = await instance.add(not_before=5.0), await instance.add()
    await instance.take(running, lease=10.0)
    assert isinstance(instance.driver, PostgresDriver)
    schema = instance.driver.options.schema
    newest_postgres.sql(REFUSE.format(schema=schema))
    await instance.shift(11.0)
    with pytest.raises(DriverError, match="refused"):
        await instance.driver.advance(100)
    assert await instance.state(running) is JobState.READY
    newest_postgres.sql(f"DROP TRIGGER refuse ON {schema}.jobs")
    batch = await instance.driver.advance(100)
    assert batch.items == [delayed]
    assert batch.news.recheck

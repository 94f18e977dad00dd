"""Two hosts of one storage URL that both accept writes, and are different servers."""

import asyncio
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from composerd.errors import Unavailable
from composerd.testing.kit.instance import Instance
from composerd_postgres import PostgresDriver
from composerd_postgres.db import rivals

from ...conftest import NEWEST, PostgresServers
from ...throwaway import Throwaway
from ..conftest import Open


class Pair(NamedTuple):
    """A server that goes on although its standby was promoted."""

    old: Throwaway
    new: Throwaway

    def url(self, *, new_first: bool = False, **options: str) -> str:
        """Return the storage URL of both, in this order or the other."""
        hosts = [str(one.directory) for one in self]
        return self.old.url(host=",".join(reversed(hosts) if new_first else hosts), **options)


@pytest.fixture(scope="module")
def pair(postgres_servers: PostgresServers) -> Iterator[Pair]:
    """Promote a standby of a server that goes on."""
    old = postgres_servers.start(NEWEST)
    standby = None
    try:
        standby = old.standby()
        old.sql("ALTER SYSTEM RESET synchronous_standby_names")
        old.sql("SELECT pg_reload_conf()")
        old.sql("CREATE ROLE modest LOGIN; GRANT CREATE ON DATABASE postgres TO modest")
        old.sql("REVOKE EXECUTE ON FUNCTION pg_control_system FROM public")
        last = old.sql("SELECT pg_current_wal_lsn()")[0][0]
        while not standby.sql(f"SELECT pg_last_wal_replay_lsn() >= '{last}'")[0][0]:
            pass
        standby.sql("SELECT pg_promote()")
        yield Pair(old, standby)
    finally:
        if standby is not None:
            standby.remove()
        old.remove()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the hosts all the time."""
    monkeypatch.setattr(rivals, "EVERY", 0.01)


async def test_an_old_primary_that_goes_on(pair: Pair, open_instance: Open, caplog: pytest.LogCaptureFixture) -> None:
    """Servers that know both log it once; those on the old primary are not ready, those on the new one are."""
    old, new = await open_instance(pair.url()), await open_instance(pair.url(new_first=True))
    await old.add()
    said = await _until_ping(old, fails=True)
    await new.driver.ping()
    details = (await new.driver.info()).details
    for one in pair:
        assert str(one.directory) in said
        assert str(one.directory) in details["hosts"]
    assert "timeline 2" in said
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) <= 2  # one for each server
    pair.new.stop()
    await _until_ping(old, fails=False)
    assert "only one host of the database accepts writes again" in caplog.text
    pair.new.start()


async def _until_ping(instance: Instance, *, fails: bool) -> str:
    """Wait until ping fails, or succeeds, and return why it failed."""
    async with asyncio.timeout(20):
        while True:
            try:
                await instance.driver.ping()
            except Unavailable as exc:
                if fails:
                    return str(exc)
            else:
                if not fails:
                    return ""


async def test_what_may_not_be_asked(pair: Pair) -> None:
    """Different servers are noticed even if the role may ask for neither system identifier nor timeline."""
    driver = PostgresDriver.from_url(pair.url(user="modest", schema="modest"))
    await driver.start()
    try:
        details = (await driver.info()).details
        assert "are different servers" in details["hosts"]
        assert "timeline" not in details["hosts"]
        await driver.ping()
    finally:
        await driver.close()


async def test_two_names_of_one_server(newest_postgres: Throwaway, open_instance: Open) -> None:
    """Two names of one server, or a standby beside its primary, are nothing to complain about."""
    hosts = f"{newest_postgres.directory},{newest_postgres.directory}/"
    instance = await open_instance(newest_postgres.fresh(host=hosts))
    assert "hosts" not in (await instance.driver.info()).details

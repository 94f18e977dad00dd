"""Which connections the PostgreSQL driver gets: of several hosts, by name, and where there are fewer than it may have."""

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from composerd.errors import Unavailable
from composerd.models import JobState
from composerd.testing.kit.instance import BUILD, Instance
from composerd_postgres import PostgresDriver
from composerd_postgres.db.connection import Refused, connect
from composerd_postgres.db.hosts import Host, Hosts
from composerd_postgres.db.pool import Connections

from ...throwaway import Throwaway
from ..conftest import Open
from .relay import Relay


@contextlib.asynccontextmanager
async def _starting(directory: Path) -> AsyncIterator[None]:
    """A host that answers everybody that it is starting up."""
    said = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0"

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"E" + struct.pack("!I", 4 + len(said)) + said)
        writer.close()

    async with await asyncio.start_unix_server(refuse, directory / ".s.PGSQL.5432"):
        yield


async def test_a_host_that_goes_away_while_connecting(
    open_instance: Open, newest_postgres: Throwaway, tmp_path: Path
) -> None:
    """Of several hosts the next one is taken at once, also when the first answers, that it is starting up."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
    async with _starting(tmp_path):
        began = time.monotonic()
        instance = await open_instance(newest_postgres.fresh(host=f"{tmp_path},{newest_postgres.directory}"))
        await asyncio.gather(*(instance.add() for _ in range(20)))
        assert time.monotonic() - began < 2  # and not 5 s, the limit of connecting
    assert complaints == []


async def test_a_host_that_says_nothing(open_instance: Open, newest_postgres: Throwaway, tmp_path: Path) -> None:
    """Of several hosts the next one is tried in time, and the one that was of use comes first from then on."""
    async with Relay(newest_postgres, tmp_path) as relay:
        relay.silent.set()
        both = f"{tmp_path},{newest_postgres.directory}"
        began = time.monotonic()
        instance = await open_instance(newest_postgres.fresh(host=both, connect_timeout="2"))
        assert time.monotonic() - began < 1.9  # its half of the 2 s
        assert relay.taken == 1
        await asyncio.gather(*(instance.add() for _ in range(20)))
        assert relay.taken == 1


async def test_every_host_in_vain(newest_postgres: Throwaway, tmp_path: Path) -> None:
    """What is the matter with each is said."""
    (tmp_path / "silent").mkdir()
    (tmp_path / "starting").mkdir()
    async with Relay(newest_postgres, tmp_path / "silent") as relay, _starting(tmp_path / "starting"):
        relay.silent.set()
        hosts = f"{tmp_path}/silent,{tmp_path}/starting,name.invalid"
        driver = PostgresDriver.from_url(f"postgresql:///db?host={hosts}&connect_timeout=1")
        with pytest.raises(Unavailable) as info:
            await driver.start()
        await driver.close()
    for said in ("silent does not answer", "starting up", "name.invalid cannot be looked up"):
        assert said in str(info.value)


async def test_a_name_is_looked_up_aside(
    open_instance: Open, newest_postgres: Throwaway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name server that is slow holds up nobody else; a lookup that is under way is not made twice; every address is tried."""
    asked: list[str] = []
    first, answer = threading.Event(), threading.Event()
    real = socket.getaddrinfo

    def slow(name: Any, *args: Any, **more: Any) -> Any:
        if name != "db.invalid":
            return real(name, *args, **more)
        asked.append(name)
        first.set()
        assert answer.wait(10)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in ("127.0.0.2", "127.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    async with Relay(newest_postgres) as relay:
        url = newest_postgres.fresh(host="db.invalid", port=str(relay.port))
        opening = asyncio.ensure_future(open_instance(url))
        await asyncio.to_thread(first.wait)
        asyncio.get_running_loop().call_soon(answer.set)  # which the loop does only if it is free
        instance = await opening
        assert await instance.state(await instance.add()) is JobState.READY
        hosts = Hosts("host=db.invalid")
        asked.clear()
        await asyncio.gather(*(hosts.addresses(host) for host in hosts for _ in range(5)))
        assert len(asked) == 1


@pytest.mark.parametrize(
    ("dsn", "named"),
    [
        ("dbname=db", [Host()]),
        ("host=a", [Host("a")]),
        ("host=a,b port=1,2", [Host("a", None, "1"), Host("b", None, "2")]),
        ("host=a,b port=1", [Host("a", None, "1"), Host("b", None, "1")]),
        ("host=a,,/run hostaddr=,10.0.0.1,", [Host("a", ""), Host("", "10.0.0.1"), Host("/run", "")]),
        ("host=a,b port=1,2,3", [Host()]),  # libpq says what is wrong with it
    ],
)
def test_what_a_url_names(dsn: str, named: list[Host]) -> None:
    """Hosts, addresses and ports belong together as libpq has it."""
    assert list(Hosts(dsn)) == named


async def test_a_port_that_only_one_has(open_instance: Open, newest_postgres: Throwaway, tmp_path: Path) -> None:
    """A host without a port of its own, beside one that has one, is reached by the port that libpq takes."""
    instance = await open_instance(newest_postgres.fresh(host=f"{tmp_path},{newest_postgres.directory}", port="5999,"))
    assert await instance.state(await instance.add()) is JobState.READY


async def test_the_last_of_use_comes_first() -> None:
    """The host that was of use last is tried first, by the address that was of use."""
    hosts = Hosts("host=a,localhost,c")
    by_name = await hosts.addresses(Host("localhost"))
    hosts.prefer(Host("localhost"), by_name[-1])
    assert list(hosts) == [Host("localhost"), Host("a"), Host("c")]
    assert (await hosts.addresses(Host("localhost")))[0] == by_name[-1]
    hosts.prefer(Host("c"), Host("c"))
    assert list(hosts) == [Host("c"), Host("a"), Host("localhost")]


Limited = Callable[[int], str]


@pytest.fixture
def limited(newest_postgres: Throwaway) -> Iterator[Limited]:
    """The storage URL of a role that may have so many connections."""

    def url(limit: int) -> str:
        newest_postgres.sql(f"CREATE ROLE limited LOGIN CONNECTION LIMIT {limit}")
        newest_postgres.sql("GRANT CREATE ON DATABASE postgres TO limited")
        return f"postgresql:///postgres?host={newest_postgres.directory}&user=limited&schema=limited"

    yield url
    newest_postgres.sql("DROP OWNED BY limited; DROP ROLE limited")


async def test_fewer_than_it_may_have(limited: Limited, open_instance: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the database gives fewer connections than the URL says, those are shared: nobody is refused, no lease is kept."""
    instance = await open_instance(limited(3))
    connections = instance.driver._session.connections  # type: ignore[attr-defined]
    refusals = _Refusals(monkeypatch)
    for _ in range(3):
        await asyncio.gather(
            *(instance.add() for _ in range(20)), *(instance.driver.get([instance.id()]) for _ in range(20))
        )
    assert refusals.count <= connections._options.connections - 3  # nor is one asked for each time
    assert not connections.outage


class _Refusals:
    """Counts the connections that were not to be had."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.first = asyncio.Event()
        real = Connections._new

        async def observed(connections: Connections) -> Any:
            try:
                return await real(connections)
            except Refused:
                self.count += 1
                self.first.set()
                raise

        monkeypatch.setattr(Connections, "_new", observed)


async def test_places_come_back(
    limited: Limited, open_instance: Open, newest_postgres: Throwaway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the database gives more connections again they are used again."""
    monkeypatch.setattr("composerd_postgres.db.pool.REFUSED_FOR", 0.05)
    instance = await open_instance(limited(1), connections="2")
    connections = instance.driver._session.connections  # type: ignore[attr-defined]
    async with connections.one():
        refusals = _Refusals(monkeypatch)
        other = asyncio.create_task(connections.fetch("SELECT 1", {}))
        await refusals.first.wait()
        newest_postgres.sql("ALTER ROLE limited CONNECTION LIMIT 2")
        assert await other == [(1,)]


async def test_who_listens_comes_before_the_busy(
    limited: Limited, open_instance: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Watch: where there is no connection left for it, and none is ever idle, it gets one that is given back."""
    instance = await open_instance(limited(2))
    busy = [asyncio.create_task(_busy(instance)) for _ in range(4)]
    watching = instance.driver.watch()
    assert (await anext(watching)).recheck
    for task in busy:
        task.cancel()
    await asyncio.wait(busy)
    assert all(task.cancelled() for task in busy)
    await watching.aclose()  # type: ignore[attr-defined]


async def test_the_database_still_counts_what_was_closed(open_instance: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller waits for a connection that is refused just after others were closed to make room for one that listens."""
    instance = await open_instance()
    connections = instance.driver._session.connections  # type: ignore[attr-defined]
    connections._made_room = asyncio.get_running_loop().time()
    connections.close_idle()
    refusals = 3

    async def refusing(*args: Any) -> Any:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise Refused("too many connections")
        return await connect(*args)

    monkeypatch.setattr("composerd_postgres.db.pool.connect", refusing)
    assert await instance.state(await instance.add()) is JobState.READY
    assert refusals == 0
    assert not connections.outage


async def _busy(instance: Instance) -> None:
    while True:
        await instance.driver.get([instance.id()])


async def test_who_listens_comes_before_the_idle(limited: Limited, open_instance: Open) -> None:
    """Watch: where there is no connection left for it, idle ones are given up."""
    url = limited(2)
    instance = await open_instance(url, connections="2")
    connections = instance.driver._session.connections  # type: ignore[attr-defined]
    async with connections.one(), connections.one():
        pass
    watching = instance.driver.watch()
    assert (await anext(watching)).recheck
    job_id = await instance.add()
    claimed = await instance.claim(BUILD)
    assert claimed is not None
    assert claimed.job_id == job_id
    await watching.aclose()  # type: ignore[attr-defined]

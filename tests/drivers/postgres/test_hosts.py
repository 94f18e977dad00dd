"""Opening connections to PostgreSQL: several hosts, host names, and limits on connections."""

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
from composerd_postgres.db.connecting import connect
from composerd_postgres.db.connection import Refused
from composerd_postgres.db.hosts import Host, Hosts
from composerd_postgres.db.pool import Connections

from ...throwaway import Throwaway
from ..conftest import Open
from .relay import Relay


@contextlib.asynccontextmanager
async def _starting(directory: Path) -> AsyncIterator[None]:
    """Run a host that answers every connection that it is starting up."""
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
    """The next host is tried at once if the first one answers that it is starting up."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
    async with _starting(tmp_path):
        began = time.monotonic()
        instance = await open_instance(newest_postgres.fresh(host=f"{tmp_path},{newest_postgres.directory}"))
        await asyncio.gather(*(instance.add() for _ in range(20)))
        assert time.monotonic() - began < 4  # and not 5 s, the limit of connecting
    assert complaints == []


async def test_a_host_that_says_nothing(open_instance: Open, newest_postgres: Throwaway, tmp_path: Path) -> None:
    """The next host is tried in time if the first one does not answer, and it is tried first from then on."""
    async with Relay(newest_postgres, tmp_path) as relay:
        relay.silent.set()
        both = f"{tmp_path},{newest_postgres.directory}"
        began = time.monotonic()
        instance = await open_instance(newest_postgres.fresh(host=both, connect_timeout="4"))
        assert time.monotonic() - began < 3.9  # the silent host takes half of the 4 s
        assert relay.accepted == 1
        await asyncio.gather(*(instance.add() for _ in range(20)))
        assert relay.accepted == 1


async def test_no_host_can_be_reached(newest_postgres: Throwaway, tmp_path: Path) -> None:
    """If no host can be reached, the error says of each one why."""
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


async def test_a_name_is_looked_up_in_a_thread(
    open_instance: Open, newest_postgres: Throwaway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow lookup does not block the event loop, is shared by all that need it, and every address is tried."""
    lookups: list[str] = []
    first, answer = threading.Event(), threading.Event()
    real = socket.getaddrinfo

    def slow(name: Any, *args: Any, **more: Any) -> Any:
        if name != "db.invalid":
            return real(name, *args, **more)
        lookups.append(name)
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
        lookups.clear()
        await asyncio.gather(*(hosts.addresses(host) for host in hosts for _ in range(5)))
        assert len(lookups) == 1


@pytest.mark.parametrize(
    ("dsn", "named"),
    [
        ("dbname=db", [Host()]),
        ("host=a", [Host("a")]),
        ("host=a,b port=1,2", [Host("a", None, "1"), Host("b", None, "2")]),
        ("host=a,b port=1", [Host("a", None, "1"), Host("b", None, "1")]),
        ("host=a,,/run hostaddr=,10.0.0.1,", [Host("a", ""), Host("", "10.0.0.1"), Host("/run", "")]),
        ("host=a,b port=1,2,3", [Host()]),  # libpq reports the mistake
    ],
)
def test_what_a_url_names(dsn: str, named: list[Host]) -> None:
    """Hosts, addresses and ports of a DSN are combined as libpq combines them."""
    assert list(Hosts(dsn)) == named


async def test_a_port_that_only_one_has(open_instance: Open, newest_postgres: Throwaway, tmp_path: Path) -> None:
    """A host without a port is reached at the default port of libpq, even if another host has a port."""
    instance = await open_instance(newest_postgres.fresh(host=f"{tmp_path},{newest_postgres.directory}", port="5999,"))
    assert await instance.state(await instance.add()) is JobState.READY


async def test_the_latest_host_comes_first() -> None:
    """The host of the latest successful connection is tried first, at the same address."""
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
    """Return a function that returns the storage URL of a role with a connection limit."""

    def url(limit: int) -> str:
        newest_postgres.sql(f"CREATE ROLE limited LOGIN CONNECTION LIMIT {limit}")
        newest_postgres.sql("GRANT CREATE ON DATABASE postgres TO limited")
        return f"postgresql:///postgres?host={newest_postgres.directory}&user=limited&schema=limited"

    yield url
    newest_postgres.sql("DROP OWNED BY limited; DROP ROLE limited")


async def test_fewer_connections_than_allowed(
    limited: Limited, open_instance: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fewer connections than the URL allows, calls share them, and none fails."""
    instance = await open_instance(limited(3))
    connections = instance.driver._session.connections  # type: ignore[attr-defined]
    refusals = _Refusals(monkeypatch)
    for _ in range(3):
        await asyncio.gather(
            *(instance.add() for _ in range(20)), *(instance.driver.get([instance.id()]) for _ in range(20))
        )
    assert refusals.count <= connections._options.connections - 3  # the pool does not try to open one for each call


class _Refusals:
    """Counts the connections that were refused."""

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


async def test_further_connections_are_opened_again(
    limited: Limited, open_instance: Open, newest_postgres: Throwaway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool opens further connections again once the database accepts them."""
    monkeypatch.setattr("composerd_postgres.db.pool.REFUSED_FOR", 0.05)
    instance = await open_instance(limited(1), connections="2")
    connections = instance.driver._session.connections  # type: ignore[attr-defined]
    async with connections.one():
        refusals = _Refusals(monkeypatch)
        other = asyncio.create_task(connections.fetch("SELECT 1", {}))
        await refusals.first.wait()
        newest_postgres.sql("ALTER ROLE limited CONNECTION LIMIT 2")
        assert await other == [(1,)]


async def test_watch_comes_before_busy_connections(limited: Limited, open_instance: Open) -> None:
    """Watch gets a connection even if the database accepts no more and none is ever idle: a pooled one makes room."""
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
    """A call waits for a connection that is refused just after others were closed to make room for a dedicated one."""
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


async def _busy(instance: Instance) -> None:
    while True:
        await instance.driver.get([instance.id()])


async def test_watch_comes_before_idle_connections(limited: Limited, open_instance: Open) -> None:
    """Watch gets a connection if the database accepts no more: idle ones are closed."""
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

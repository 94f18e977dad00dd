"""Starts on a database that refuses every connection: some refusals can be waited out, others cannot."""

import asyncio
import contextlib
import signal
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from composerd.errors import StorageUnusable, Unavailable
from composerd_postgres import PostgresDriver
from composerd_postgres.db.refusals import lasts

from ...conftest import NEWEST, PostgresServers
from ...throwaway import Throwaway
from ..conftest import Open
from .relay import Relay


@contextlib.asynccontextmanager
async def _refusing(directory: Path, state: str, severity: str, message: str) -> AsyncIterator[None]:
    """Run a host that refuses every connection with an error of the database."""
    fields = {"S": severity, "V": "FATAL", "C": state, "M": message, "F": "postinit.c", "L": "1", "R": "InitPostgres"}
    said = b"".join(name.encode() + text.encode() + b"\0" for name, text in fields.items()) + b"\0"

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"E" + struct.pack("!I", 4 + len(said)) + said)
        writer.close()

    async with await asyncio.start_unix_server(refuse, directory / ".s.PGSQL.5432"):
        yield


async def _start(url: str) -> None:
    driver = PostgresDriver.from_url(url)
    try:
        await driver.start()
    finally:
        await driver.close()


@pytest.mark.parametrize(
    ("state", "severity", "message"),
    [
        ("28P01", "FATAL", "password authentication failed"),
        ("28P01", "ВАЖНО", "пользователь не прошёл проверку подлинности (по паролю)"),
        ("28000", "FATAL", "kein pg_hba.conf-Eintrag für Host »10.0.0.1«, Benutzer »composerd«"),
        ("3D000", "致命错误", "数据库 composerd 不存在"),
        ("42501", "FATAL", "droit refusé pour la base de données"),
    ],
)
async def test_what_waiting_cannot_mend(tmp_path: Path, state: str, severity: str, message: str) -> None:
    """A start fails for good if the database refuses the role, in whatever language it says so."""
    async with _refusing(tmp_path, state, severity, message):
        with pytest.raises(StorageUnusable) as info:
            await _start(f"postgresql:///db?host={tmp_path}")
    assert message in str(info.value)
    assert state in str(info.value)
    assert "postinit.c" not in str(info.value)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("57P03", "das Datenbanksystem beginnt"),
        ("57P03", 'the database system is starting up; database "db" does not exist yet'),
        ("53300", "too many connections for role"),
        ("55000", "database is not currently accepting connections"),
    ],
)
async def test_what_can_be_waited_out(tmp_path: Path, state: str, message: str) -> None:
    """A start on a database that is starting up, or full, may be tried again."""
    async with _refusing(tmp_path, state, "FATAL", message):
        with pytest.raises(Unavailable):
            await _start(f"postgresql:///db?host={tmp_path}")


async def test_one_of_two_hosts_may_come_back(tmp_path: Path) -> None:
    """A host that refuses the role ends no start while another host may be about to come back."""
    async with _refusing(tmp_path, "28000", "FATAL", "no such role yet"):
        with pytest.raises(Unavailable):
            await _start(f"postgresql:///db?host={tmp_path},{tmp_path}/away")


@pytest.fixture(scope="module")
def strict(postgres_servers: PostgresServers) -> Iterator[Throwaway]:
    """Start a server that asks one role for a password."""
    server = postgres_servers.start(NEWEST)
    try:
        server.sql("CREATE ROLE secret LOGIN PASSWORD 'right'; CREATE ROLE locked")
        server.sql("CREATE DATABASE closed")
        server.sql("REVOKE CONNECT ON DATABASE closed FROM public")
        (server.data / "pg_hba.conf").write_text("local all secret scram-sha-256\nlocal all all trust\n")
        server.stop(signal.SIGTERM)
        server.start()
        yield server
    finally:
        server.remove()


@pytest.mark.parametrize(
    "wrong",
    [
        {"user": "nobody"},
        {"user": "locked"},
        {"user": "secret", "password": "wrong"},
        {"user": "secret"},
        {"database": "missing"},
        {"database": "closed", "user": "secret", "password": "right"},
        {"host": "127.0.0.1", "sslmode": "require"},
    ],
)
async def test_real_refusals(strict: Throwaway, wrong: dict[str, str]) -> None:
    """A real server's refusals of a role, a password, a database and TLS end the start."""
    options = {name: value for name, value in wrong.items() if name != "database"}
    async with Relay(strict) as relay:
        if "host" in options:
            options["port"] = str(relay.port)
        with pytest.raises(StorageUnusable):
            await _start(strict.url(wrong.get("database", "postgres"), **options))


async def test_a_pooler_that_refuses_settings(newest_postgres: Throwaway, pgbouncer: str) -> None:
    """If PgBouncer refuses the settings of a session, the start fails, and the error names pooler=yes."""
    with newest_postgres.pooler(pgbouncer) as port:
        with pytest.raises(StorageUnusable, match="add pooler=yes to the storage URL"):
            await _start(newest_postgres.fresh(port=str(port)))
        with pytest.raises(StorageUnusable, match="does not exist"):
            await _start(newest_postgres.url("missing", port=str(port), pooler="yes"))


@pytest.mark.parametrize("pooler", ["yes", "no"])
async def test_a_pooler_in_statement_mode(newest_postgres: Throwaway, pgbouncer: str, pooler: str) -> None:
    """Behind PgBouncer in statement mode the start fails, and the error names the modes that work."""
    with (
        newest_postgres.pooler(pgbouncer, "statement", ignore_startup_parameters="options") as port,
        pytest.raises(StorageUnusable, match="set the pooler to session mode, or to transaction mode"),
    ):
        await _start(newest_postgres.fresh(port=str(port), pooler=pooler))


async def test_refused_while_running(
    open_instance: Open, newest_postgres: Throwaway, caplog: pytest.LogCaptureFixture
) -> None:
    """A running server whose role may not log in any more fails calls, logs why once, and works again afterwards."""
    newest_postgres.sql("CREATE ROLE changed LOGIN SUPERUSER")
    instance = await open_instance(user="changed")
    connections = instance.driver._session.connections  # type: ignore[attr-defined]
    try:
        newest_postgres.sql("ALTER ROLE changed NOLOGIN")
        for _ in range(2):
            connections.close_idle()
            with pytest.raises(Unavailable, match="not permitted to log in"):
                await instance.add()
        errors = [record for record in caplog.records if record.levelname == "ERROR"]
        assert len(errors) == 1
        newest_postgres.sql("ALTER ROLE changed LOGIN")
        await instance.add()
    finally:
        await instance.driver.close()
        newest_postgres.sql("DROP OWNED BY changed; DROP ROLE changed")


def test_two_attempts() -> None:
    """Of an attempt with TLS and one without, both have to fail for good."""
    hba = 'connection to server at "db" failed: FATAL:  28000: no pg_hba.conf entry for host, SSL encryption\n'
    away = 'connection to server at "db" failed: FATAL:  57P03: the database system is starting up\n'
    assert lasts(hba + hba)
    assert not lasts(hba + away)

"""The schema of the PostgreSQL driver, its migrations, and its storage URLs."""

import asyncio
import re
import subprocess
import sys
import textwrap

import psycopg2
import pytest
from psycopg2.extensions import parse_dsn

from composerd.driver.registry import open_driver
from composerd.errors import StorageUnusable, StorageURLError, Unavailable
from composerd.testing.kit.instance import Instance, add_jobs_in_every_state
from composerd_postgres import PostgresDriver
from composerd_postgres.db.pool import Connections
from composerd_postgres.db.url import parse
from composerd_postgres.sql.migrate import LOCK, applied, migrate, migrations

from ...throwaway import Throwaway
from ..conftest import created
from .old_schemas import old_storage


def test_migrations_are_numbered_without_a_gap() -> None:
    """Migrations are numbered 1, 2, 3 and so on."""
    assert [step.number for step in migrations()] == [*range(1, len(migrations()) + 1)]


async def test_one_by_one(postgres: Throwaway) -> None:
    """Each migration can be applied after the previous one, and again; the last one leaves what a start leaves."""
    options = parse(postgres.fresh())
    connection = await Connections(options).dedicated()
    for step in migrations():
        for _ in range(2):
            await migrate(connection, options.schema, [step])
            have = await applied(connection, options.schema)
            assert have is not None
            assert have[0] == step.number
    connection.close()
    started = PostgresDriver.from_url(postgres.fresh())
    await started.start()
    await started.close()
    assert _shape(postgres, options.schema) == _shape(postgres, started.options.schema)


async def test_an_older_schema_that_is_not_upgraded(postgres: Throwaway) -> None:
    """Commands that only look at a storage refuse an older schema and say how to upgrade it: servers may use it."""
    driver = await old_storage(postgres, 6)
    with pytest.raises(StorageUnusable, match=r"of version 6, .* upgrade it with `composerd migrate`"):
        await driver.check()
    with pytest.raises(StorageUnusable, match=r"of version 6, .* upgrade it with `composerd migrate`"):
        await driver.start(create=False)
    assert re.fullmatch(r"upgraded from version 6 to \d+", await driver.migrate() or "")
    assert await driver.migrate() is None
    assert (await driver.check()).problems == ()


def _shape(postgres: Throwaway, schema: str) -> list[tuple[str, ...]]:
    columns = postgres.sql(
        "SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns "
        f"WHERE table_schema = '{schema}' ORDER BY 1, 2"
    )
    indexes = postgres.sql(
        f"SELECT replace(indexdef, '{schema}.', '') FROM pg_indexes WHERE schemaname = '{schema}' ORDER BY 1"
    )
    return columns + indexes


async def test_many_servers_at_once(postgres: Throwaway) -> None:
    """Servers that start at once on an empty database apply each migration once."""
    url = postgres.fresh()
    drivers = [PostgresDriver.from_url(url) for _ in range(8)]
    await asyncio.gather(*[driver.start() for driver in drivers])
    assert len(postgres.sql(f"SELECT number FROM {drivers[0].options.schema}.migrations")) == len(migrations())
    for driver in drivers:
        await driver.close()


async def test_a_schema_that_was_made_for_the_role(newest_postgres: Throwaway) -> None:
    """A role that may not create a schema uses the one that it was given."""
    newest_postgres.sql("CREATE ROLE guest LOGIN")
    newest_postgres.sql("CREATE SCHEMA given AUTHORIZATION guest")
    driver = PostgresDriver.from_url(f"postgresql:///postgres?host={newest_postgres.directory}&user=guest&schema=given")
    await driver.start()
    await driver.ping()
    await driver.close()
    newest_postgres.sql("DROP SCHEMA given CASCADE; DROP ROLE guest")


async def test_a_role_that_owns_nothing(newest_postgres: Throwaway) -> None:
    """A role with the documented rights on tables of another role can do everything that a server does."""
    owner = await created(newest_postgres.fresh())
    schema = owner.options.schema
    newest_postgres.sql("CREATE ROLE server LOGIN")
    newest_postgres.sql(f"GRANT USAGE ON SCHEMA {schema} TO server")
    newest_postgres.sql(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO server")
    newest_postgres.sql(f"GRANT USAGE, UPDATE ON SEQUENCE {schema}.places TO server")
    driver = PostgresDriver.from_url(
        f"postgresql:///postgres?host={newest_postgres.directory}&user=server&schema={schema}"
    )
    await driver.start()
    instance = Instance(driver, lambda: PostgresDriver(driver.options))
    await add_jobs_in_every_state(instance)
    newest_postgres.sql(f"SELECT setval('{schema}.places', 1, false)")
    await instance.add()
    await instance.pass_time(700.0)
    await driver.purge(100)
    await instance.empty()
    assert await instance.dump() == []
    await instance.driver.close()
    assert (await instance.make_driver().check()).problems == ()
    newest_postgres.sql("DROP OWNED BY server; DROP ROLE server")


async def test_another_server_migrates(newest_postgres: Throwaway) -> None:
    """A start waits for another server's migration, even longer than a statement may take."""
    holder = psycopg2.connect(host=str(newest_postgres.directory), user="tests", dbname="postgres")
    holder.cursor().execute(f"SELECT pg_advisory_xact_lock({LOCK})")
    driver = PostgresDriver.from_url(newest_postgres.fresh() + "&time_limit=300ms")
    starting = asyncio.create_task(driver.start())
    try:
        waiting = "wait_event = 'advisory' AND now() - query_start > interval '0.4 s'"
        while not newest_postgres.sql(f"SELECT pid FROM pg_stat_activity WHERE {waiting}"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert not starting.done()
    finally:
        holder.close()
    await starting
    await driver.close()


async def test_a_newer_schema_is_refused(newest_postgres: Throwaway) -> None:
    """Start, migrate, check and a reader refuse a schema of a later composerd, and name the version that it needs."""
    driver = await created(newest_postgres.fresh())
    newest_postgres.sql(f"INSERT INTO {driver.options.schema}.migrations VALUES (999, 'later', '9.9.9')")
    for call in (driver.start, driver.migrate, driver.check, driver.start_reading):
        with pytest.raises(StorageUnusable, match=r"of version 999.* needs composerd 9\.9\.9 or newer"):
            await call()
    await driver.close()


async def test_no_schema_is_created_unless_wanted(newest_postgres: Throwaway) -> None:
    """Without `create`, an empty database is refused, and stays empty."""
    driver = PostgresDriver.from_url(newest_postgres.fresh())
    for call in (driver.start(create=False), driver.check(), driver.start_reading(), driver.migrate()):
        with pytest.raises(StorageUnusable, match="no storage"):
            await call
    assert newest_postgres.sql(f"SELECT nspname FROM pg_namespace WHERE nspname = '{driver.options.schema}'") == []
    await driver.close()
    await driver.close()


async def test_an_unsupported_version(newest_postgres: Throwaway, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PostgreSQL that is too old is refused, and the error names the oldest version that is supported."""
    monkeypatch.setattr("composerd_postgres.db.connecting.OLDEST", 990000)
    driver = PostgresDriver.from_url(newest_postgres.fresh())
    with pytest.raises(StorageUnusable, match="has to be 99 or newer"):
        await driver.start()
    await driver.close()


async def test_an_unsupported_encoding(newest_postgres: Throwaway) -> None:
    """A database whose encoding cannot store every text is refused."""
    driver = PostgresDriver.from_url(newest_postgres.url(newest_postgres.fresh_database(encoding="SQL_ASCII")))
    with pytest.raises(StorageUnusable, match="SQL_ASCII"):
        await driver.start()


async def test_storages_in_two_schemas_are_two(newest_postgres: Throwaway) -> None:
    """Two schemas of one database are two storages."""
    drivers = [PostgresDriver.from_url(newest_postgres.fresh()) for _ in range(2)]
    for driver in drivers:
        await driver.start()
    job_id = await Instance(drivers[0], lambda: drivers[1]).add()
    assert (await drivers[0].get([job_id]))[0] is not None
    assert await drivers[1].get([job_id]) == [None]
    for driver in drivers:
        await driver.close()


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("connections=0", "connections"),
        ("connections=many", "connections"),
        ("time_limit=5", "time_limit"),
        ("time_limit=0s", "time_limit"),
        ("schema=pg_catalog", "schema"),
        ("schema=a;b", "schema"),
        ("pooler=perhaps", "pooler"),
        ("poll=soon", "poll"),
        ("connect_timeout=x", "connect_timeout"),
        ("colour=red", "colour"),
        ("schema=a&schema=b", "schema"),
    ],
)
def test_bad_options_are_named(query: str, named: str) -> None:
    """An unknown option, or a bad value, is refused with an error that names the option."""
    with pytest.raises(StorageURLError, match=named):
        open_driver(f"postgresql://localhost/db?{query}")


def test_no_password_is_shown() -> None:
    """Neither the target nor an error about a URL shows the password."""
    options = parse("postgresql://user:geheim@db.example.com:5433/jobs?connections=3&sslmode=require")
    assert options.target == "jobs at db.example.com:5433"
    assert options.connections == 3
    assert "sslmode=require" in options.dsn
    with pytest.raises(StorageURLError) as info:
        parse("postgresql://user:geheim@db.example.com/jobs?colour=red")
    assert "geheim" not in str(info.value)
    for secret in ("ge#heim", "ge/heim", "ge?heim", "ge@heim", "ge:heim"):
        with pytest.raises(StorageURLError, match="%23") as info:
            parse(f"postgresql://user:{secret}@db.example.com/jobs")
        assert "heim" not in str(info.value)


def test_standbys_are_skipped() -> None:
    """Of several hosts a standby is skipped unless the URL says otherwise; a single host is used as it is."""
    several = "postgresql://a:1,b/jobs"
    assert parse_dsn(parse(several).dsn)["target_session_attrs"] == "read-write"
    assert parse(several).target == "jobs at a:1, b"
    assert parse_dsn(parse(f"{several}?target_session_attrs=any").dsn)["target_session_attrs"] == "any"
    assert "target_session_attrs" not in parse_dsn(parse("postgresql://a/jobs").dsn)


def test_a_url_as_libpq_reads_it() -> None:
    """A URL is read as libpq reads it: a plus is a plus, and an invalid address is an error."""
    assert parse_dsn(parse("postgresql://db/jobs?password=a+b%20c").dsn)["password"] == "a+b c"
    assert parse_dsn(parse("Postgresql://user@[::1]:5433,b/jobs").dsn)["host"] == "::1,b"
    for bad in ("postgresql://[::1/jobs", "postgresql://db:abc/jobs"):
        with pytest.raises(StorageURLError):
            parse(bad)
    with pytest.raises(StorageURLError, match="postgresql:///database"):
        parse("postgresql:jobs")


async def test_no_database_answers(tmp_path: object) -> None:
    """A start without a database is `Unavailable`, and may be repeated; closing works too."""
    driver = PostgresDriver.from_url(f"postgresql:///db?host={tmp_path}")
    for _ in range(2):
        with pytest.raises(Unavailable, match="cannot be reached"):
            await driver.start()
    with pytest.raises(Unavailable):
        await driver.ping()
    await driver.close()


@pytest.mark.parametrize("missing", ["aiopg", "psycopg2"])
def test_without_the_extra(missing: str) -> None:
    """Without the extra, the list of drivers and an attempt to use this one say what to install."""
    program = f"""
        import sys
        sys.modules[{missing!r}] = None
        from composerd.cli.main import main
        sys.argv = ["composerd", *sys.argv[1:]]
        main()
    """
    for arguments in (["drivers"], ["serve", "--listen", "127.0.0.1:0", "--storage", "postgresql://localhost/db"]):
        ran = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program), *arguments], capture_output=True, text=True, check=False
        )
        assert "pip install 'composerd[postgres]'" in " ".join((ran.stdout + ran.stderr).split())
        assert "Traceback" not in ran.stderr

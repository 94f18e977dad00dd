"""Passwords of a database where other users of the machine see none, and what a role may do that only may connect."""

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import psycopg2.errors
import pytest

from composerd.driver.url import EXPOSED

from ..conftest import NEWEST, PostgresServers
from ..live.conftest import clean_environment
from ..live.processes import command
from ..throwaway import Throwaway
from .conftest import Client, Serve

PASSWORD = "correct-horse"


@pytest.fixture(scope="module")
def guarded(postgres_servers: PostgresServers) -> Iterator[Throwaway]:
    """Start a PostgreSQL server that asks the roles `composerd` and `stranger` for their passwords."""
    server = postgres_servers.start(NEWEST)
    server.sql(f"CREATE ROLE composerd LOGIN PASSWORD '{PASSWORD}'")
    server.sql("CREATE ROLE stranger LOGIN PASSWORD 'stranger'")
    rules = server.data / "pg_hba.conf"
    rules.write_text("local all composerd,stranger scram-sha-256\n" + rules.read_text())
    server.sql("SELECT pg_reload_conf()")
    yield server
    server.remove()


def _storage(postgres: Throwaway, password: str = "") -> str:
    """Return the storage URL of a new database that composerd owns."""
    database = postgres.fresh_database()
    postgres.sql(f"ALTER DATABASE {database} OWNER TO composerd")
    return f"postgresql://composerd{password}@/{database}?host={postgres.directory}"


@pytest.mark.parametrize("how", ["passfile", "PGPASSFILE", "PGPASSWORD", "--storage"])
async def test_where_the_password_is(guarded: Throwaway, serve: Serve, client: Callable[..., Client], how: str) -> None:
    """The password is read from a file or the environment, and a warning says so if it is in the command line."""
    file = guarded.directory / "passwords"
    file.write_text(f"*:*:*:composerd:{PASSWORD}\n")
    file.chmod(0o600)
    environment = {"PGPASSFILE": {"PGPASSFILE": str(file)}, "PGPASSWORD": {"PGPASSWORD": PASSWORD}}.get(how, {})
    url = _storage(guarded, f":{PASSWORD}" if how == "--storage" else "")
    server = await serve(storage=f"{url}&passfile={file}" if how == "passfile" else url, environment=environment)
    assert (await client(server).request("GET", "/readyz"))[0] == 200
    assert (EXPOSED.encode() in server.log) == (how == "--storage")


@pytest.mark.parametrize("where", ["environment", "command line"])
def test_commands_on_a_storage(guarded: Throwaway, where: str) -> None:
    """The commands that work on a storage take its URL from the environment too, and warn in the same way."""
    url = _storage(guarded, f":{PASSWORD}")
    given = ("--storage", url) if where == "command line" else ()
    environment = {} if given else {"COMPOSERD_STORAGE": url}
    process = command("migrate", "--create", *given, **clean_environment(), **environment)
    assert process.wait() == 0, process.said()
    assert (EXPOSED.encode() in process.said()) == (where == "command line")
    process.close()


def test_what_the_revokes_are_for(guarded: Throwaway) -> None:
    """A role that may only connect hears notifications and makes tables, until the documented REVOKEs are executed."""
    url = _storage(guarded)
    database = url.partition("@/")[2].partition("?")[0]
    process = command("migrate", "--create", "--storage", url, **clean_environment(), PGPASSWORD=PASSWORD)
    assert process.wait() == 0, process.said()
    process.close()

    def stranger(statement: str) -> None:
        with contextlib.closing(
            psycopg2.connect(host=str(guarded.directory), dbname=database, user="stranger", password="stranger")
        ) as connection:
            connection.cursor().execute(statement)

    def as_owner(statement: str) -> None:
        with contextlib.closing(
            psycopg2.connect(host=str(guarded.directory), dbname=database, user="composerd", password=PASSWORD)
        ) as connection:
            connection.cursor().execute(statement)
            connection.commit()

    page = (Path(__file__).parents[2] / "docs/how-to/postgresql-operations.md").read_text()
    documented = re.findall(r"^REVOKE .* FROM PUBLIC;", page, re.MULTILINE)
    assert len(documented) == 4
    stranger("LISTEN composerd_composerd")
    stranger("CREATE TEMPORARY TABLE t (n integer)")
    function = "has_function_privilege('stranger', 'composerd.recount()', 'EXECUTE')"
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        stranger("SELECT FROM composerd.jobs")
    assert guarded.sql(f"SELECT {function}", database) == [(True,)]
    for statement in documented:
        if "SCHEMA public" in statement:
            guarded.sql(
                "GRANT CREATE ON SCHEMA public TO PUBLIC", database
            )  # as in databases made before PostgreSQL 15
            stranger("CREATE TABLE public.t (n integer)")
            guarded.sql(statement, database)
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                stranger("CREATE TABLE public.t (n integer)")
    for statement in documented:
        if "SCHEMA public" not in statement:
            as_owner(statement.replace("DATABASE jobs", f"DATABASE {database}"))
    assert guarded.sql(f"SELECT {function}", database) == [(False,)]
    with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
        stranger("LISTEN composerd_composerd")
    as_owner("LISTEN composerd_composerd")
    process = command("storage", "check", "--storage", url, **clean_environment(), PGPASSWORD=PASSWORD)
    assert process.wait() == 0, process.said()
    process.close()

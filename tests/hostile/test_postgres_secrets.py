"""Tests of what somebody who reads the database, or its log, can read of a job."""

import base64
from collections.abc import Callable, Iterator

import pytest

from ..conftest import NEWEST, PostgresServers
from ..throwaway import Throwaway
from .conftest import COMPOSER, WORKER, Client, Serve

SECRET = "correct horse battery staple"
LOGS_EVERYTHING = {
    "log_statement": "all",
    "log_min_duration_statement": "0",
    "log_parameter_max_length": "-1",
    "log_min_messages": "log",
    "track_activity_query_size": "1MB",
}


@pytest.fixture
def logging_postgres(postgres_servers: PostgresServers) -> Iterator[Throwaway]:
    """Start a PostgreSQL server that logs as much of statements as it can."""
    server = postgres_servers.start(NEWEST, None, **LOGS_EVERYTHING)
    yield server
    server.remove()


def _forms(text: str) -> list[str]:
    """Return a text as it could be in a statement: as it is, in hexadecimal and, at each offset, in base64."""
    raw = text.encode()
    encoded = [base64.b64encode(bytes(skipped) + raw)[4:-4].decode() for skipped in range(3)]
    return [text, raw.hex(), *encoded]


async def test_statements_show_no_payloads_and_tokens(
    logging_postgres: Throwaway, serve: Serve, client: Callable[..., Client]
) -> None:
    """A database that logs every statement, with parameters, logs no args, no progress, no results and no tokens."""
    server = await serve(storage=logging_postgres.fresh())
    user = client(server)
    job = {"type": "build", "args": {"password": SECRET}, "retry_on_failure": 1}
    status, submitted = await user.request("POST", f"{COMPOSER}/jobs", job)
    assert status == 201, submitted
    status, got = await user.request("POST", f"{WORKER}/jobs?wait=20s", {"types": ["build"], "arch": "x86_64"})
    assert status == 201, got
    location = got["location"]
    assert SECRET in str(got["args"])
    assert (await user.request("GET", location))[0] == 200
    assert (await user.request("PATCH", location, {"partial": {"at": SECRET}}))[0] == 200
    shown = (await user.request("GET", f"{COMPOSER}/jobs/{submitted['id']}"))[1]
    assert SECRET in str(shown)
    assert (await user.request("PATCH", location, {"result": {"key": SECRET}}))[0] == 200
    seen = logging_postgres.sql("SELECT string_agg(query, ' ') FROM pg_stat_activity")[0][0]
    log = (logging_postgres.directory / "log").read_text()
    assert "BEGIN ISOLATION LEVEL" in log, "statements are logged"
    for text in (log, seen):
        assert location.rpartition("/")[2] not in text
        assert [form for form in _forms(SECRET) if form in text] == []


async def test_the_tables_have_no_tokens(
    newest_postgres: Throwaway, serve: Serve, client: Callable[..., Client]
) -> None:
    """Nobody who reads the tables can finish a running job with what is there."""
    url = newest_postgres.fresh()
    schema = url.partition("schema=")[2]
    server = await serve(storage=url)
    user = client(server)
    assert (await user.request("POST", f"{COMPOSER}/jobs", {"type": "build"}))[0] == 201
    status, got = await user.request("POST", f"{WORKER}/jobs?wait=20s", {"types": ["build"], "arch": "x86_64"})
    assert status == 201, got
    tables = newest_postgres.sql(
        f"SELECT relname FROM pg_class WHERE relnamespace = '{schema}'::regnamespace AND relkind = 'r'"
    )
    found = ""
    for (table,) in tables:
        found += str(newest_postgres.sql(f"SELECT t::text FROM {schema}.{table} t"))
    token = got["location"].rpartition("/")[2]
    assert token not in found
    ((kept,),) = newest_postgres.sql(f"SELECT token_hash FROM {schema}.leases")
    path = got["location"].replace(token, kept)
    assert (await user.request("PATCH", path, {"result": {}}))[0] == 404
    assert (await user.request("PATCH", got["location"], {"result": {}}))[0] == 200

"""Applies the numbered migrations in `migrations/` that a database does not have yet."""

import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from typing import NamedTuple

from composerd.errors import StorageUnusable
from composerd_postgres.db.connection import Collision, Connection, Transaction, repeated
from composerd_postgres.sql.statements import in_schema

LOCK = 0x636F6D706F736572
"""The advisory lock under which migrations are applied; its bytes spell "composer"."""

MIGRATION_LIMIT = 3600.0
"""Time in seconds that one migration, or the wait for another server's, may take; tables may be large."""


class Migration(NamedTuple):
    """One step of the schema."""

    number: int
    name: str
    text: str


class Applied(NamedTuple):
    """The latest migration that a database has."""

    number: int
    composerd: str
    """The version of composerd that applied it."""


def migrations() -> list[Migration]:
    """Return all migrations, in order."""
    return sorted(
        Migration(int(match[1]), match[2], file.read_text(encoding="utf-8"))
        for file in files(__package__).joinpath("migrations").iterdir()
        if (match := re.fullmatch(r"(\d{3})_(\w+)\.sql", file.name))
    )


async def applied(connection: Connection, schema: str) -> Applied | None:
    """Return the latest migration that the schema has; None if it has none, or does not exist."""
    rows = await connection.fetch("SELECT to_regclass(%(table)s)::text AS found", {"table": f'"{schema}".migrations'})
    if rows[0].found is None:
        return None
    rows = await connection.fetch(
        in_schema("SELECT number, composerd FROM composerd.migrations ORDER BY number DESC LIMIT 1", schema), {}
    )
    return Applied(*rows[0]) if rows else None


async def migrate(connection: Connection, schema: str, steps: Sequence[Migration] | None = None) -> None:
    """Apply the migrations that are missing, each in a transaction of its own; wait for servers that do the same.

    Raises:
        StorageUnusable: The schema is newer than this composerd.
    """
    steps = migrations() if steps is None else steps
    await _prepare(connection, schema)
    for step in steps:
        await repeated(_apply, connection, schema, step)


async def _apply(connection: Connection, schema: str, step: Migration) -> None:
    """Apply one migration if it is missing. Servers of an earlier version may run, whose locks it may collide with."""
    transaction = Transaction(connection)
    try:
        await begin_alone(transaction)
        have = await applied(connection, schema)
        refuse_newer(have)
        if have is None or have.number < step.number:
            await connection.fetch(in_schema(step.text, schema), {}, MIGRATION_LIMIT)
            await transaction.commit(
                in_schema("INSERT INTO composerd.migrations VALUES (%(number)s, %(name)s, %(composerd)s)", schema),
                {"number": step.number, "name": step.name, "composerd": _our_version()},
            )
        else:
            await transaction.commit()
    except Collision:
        await transaction.roll_back("SELECT")
        raise


def refuse_newer(have: Applied | None) -> None:
    """Raise `StorageUnusable` if only a later composerd knows the schema."""
    known = migrations()[-1].number
    if have is not None and have.number > known:
        raise StorageUnusable(
            f"the schema in the database is of version {have.number}, and this composerd ({_our_version()}) knows "
            f"versions up to {known}: it needs composerd {have.composerd} or newer"
        )


def refuse_older(have: Applied) -> None:
    """Raise `StorageUnusable` if the schema has to be upgraded before it can be read."""
    known = migrations()[-1].number
    if have.number < known:
        raise StorageUnusable(
            f"the schema in the database is of version {have.number}, and this composerd ({_our_version()}) reads "
            f"version {known}: upgrade it with `composerd migrate`"
        )


async def begin_alone(transaction: Transaction) -> None:
    """Begin a transaction once no other server migrates."""
    await transaction.begin("SELECT pg_advisory_xact_lock(%(lock)s)", {"lock": LOCK}, time_limit=MIGRATION_LIMIT)


async def _prepare(connection: Connection, schema: str) -> None:
    """Create the schema and the table of applied migrations, if they do not exist."""
    if await applied(connection, schema) is not None:
        return
    transaction = Transaction(connection)
    await begin_alone(transaction)
    rows = await transaction.fetch(f"SELECT to_regnamespace('{schema}') IS NOT NULL AS exists", {})
    # CREATE SCHEMA IF NOT EXISTS needs the right to create one even where it exists.
    create = "" if rows[0].exists else f'CREATE SCHEMA "{schema}";\n'
    await transaction.commit(
        in_schema(
            f"{create}"
            "CREATE TABLE IF NOT EXISTS composerd.migrations (\n"
            "    number integer PRIMARY KEY,\n"
            "    name text NOT NULL,\n"
            "    composerd text NOT NULL, -- the version that applied it\n"
            "    applied_at timestamptz NOT NULL DEFAULT now()\n"
            ")",
            schema,
        ),
        {},
    )


def _our_version() -> str:
    try:
        return version("composerd")
    except PackageNotFoundError:
        return "unknown"

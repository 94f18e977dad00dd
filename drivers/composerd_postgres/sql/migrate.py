"""The numbered migrations in `migrations/`: which the database has, and applying the rest."""

import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from typing import NamedTuple

from composerd.errors import StorageUnusable
from composerd_postgres.db.connection import Connection, Transaction
from composerd_postgres.sql.statements import in_schema

LOCK = 0x636F6D706F736572
"""The advisory lock that migrations are applied under: "composer"."""

MIGRATING = 3600.0
"""How long one migration may take, in seconds: a table may be large."""


class Migration(NamedTuple):
    """One step of the schema."""

    number: int
    name: str
    text: str


def migrations() -> list[Migration]:
    """All of them, in order."""
    return sorted(
        Migration(int(match[1]), match[2], file.read_text(encoding="utf-8"))
        for file in files(__package__).joinpath("migrations").iterdir()
        if (match := re.fullmatch(r"(\d{3})_(\w+)\.sql", file.name))
    )


async def applied(connection: Connection, schema: str) -> tuple[int, str] | None:
    """The latest migration that the database has, and the composerd that applied it; None if it has none."""
    rows = await connection.fetch("SELECT to_regclass(%(table)s)::text", {"table": f'"{schema}".migrations'})
    if rows[0][0] is None:
        return None
    rows = await connection.fetch(
        in_schema("SELECT number, composerd FROM composerd.migrations ORDER BY number DESC LIMIT 1", schema), {}
    )
    return rows[0] if rows else None


async def migrate(connection: Connection, schema: str, steps: Sequence[Migration] | None = None) -> None:
    """Apply what is missing, each migration in a transaction of its own. Raises `StorageUnusable` if the schema is newer."""
    steps = migrations() if steps is None else steps
    await _prepare(connection, schema)
    for step in steps:
        transaction = Transaction(connection)
        await _begin_alone(transaction)  # others wait, then look
        have = await applied(connection, schema)
        refuse_newer(have)
        if have is None or have[0] < step.number:
            await connection.fetch(in_schema(step.text, schema), {}, MIGRATING)
            await transaction.commit(
                in_schema("INSERT INTO composerd.migrations VALUES (%(number)s, %(name)s, %(composerd)s)", schema),
                {"number": step.number, "name": step.name, "composerd": _our_version()},
            )
        else:
            await transaction.commit()


def refuse_newer(have: tuple[int, str] | None) -> None:
    """Raise `StorageUnusable` for a schema that only a later composerd knows."""
    known = migrations()[-1].number
    if have is not None and have[0] > known:
        raise StorageUnusable(
            f"the schema in the database is of version {have[0]}, and this composerd ({_our_version()}) knows versions up to "
            f"{known}: it needs composerd {have[1]} or newer"
        )


async def _prepare(connection: Connection, schema: str) -> None:
    """The schema, and the table that says what was applied."""
    if await applied(connection, schema) is not None:
        return
    transaction = Transaction(connection)
    await _begin_alone(transaction)
    ((there,),) = await transaction.fetch(f"SELECT to_regnamespace('{schema}') IS NOT NULL", {})
    # IF NOT EXISTS asks for the right to create one before it looks whether there is one.
    create = "" if there else f'CREATE SCHEMA "{schema}";\n'
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


async def _begin_alone(transaction: Transaction) -> None:
    """Begin when no other server migrates, however long that takes."""
    await transaction.begin("SELECT pg_advisory_xact_lock(%(lock)s)", {"lock": LOCK}, time_limit=MIGRATING)


def _our_version() -> str:
    try:
        return version("composerd")
    except PackageNotFoundError:
        return "unknown"

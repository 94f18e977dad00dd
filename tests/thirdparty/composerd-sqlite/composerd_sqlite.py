"""A storage driver for composerd that stores jobs in an SQLite file. One server has the file for itself."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from uuid import UUID

from composerd.directory import make_file
from composerd.driver.simple import JobRecord, Shelf, SimpleDriver
from composerd.driver.url import path_of
from composerd.errors import OutcomeUnknown, StorageFull, StorageUnusable, Unavailable
from composerd.models import JobFilter, Key, PayloadRef
from composerd.ownership import NotTrusted

FORMAT = 1

SCHEMA = """
CREATE TABLE jobs (
    id BLOB PRIMARY KEY, sequence INTEGER NOT NULL UNIQUE, state TEXT NOT NULL,
    channel TEXT NOT NULL, type TEXT NOT NULL, arch TEXT, priority INTEGER NOT NULL, position INTEGER NOT NULL,
    due_at INTEGER, expires_at INTEGER, idempotency_key TEXT, record BLOB NOT NULL,
    UNIQUE (channel, idempotency_key)
);
CREATE INDEX ready ON jobs (channel, type, arch, priority DESC, position) WHERE state = 'ready';
CREATE INDEX of_channel ON jobs (channel, sequence);
CREATE INDEX running ON jobs (id) WHERE state = 'running';
CREATE INDEX due ON jobs (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX expires ON jobs (expires_at) WHERE expires_at IS NOT NULL;
CREATE TABLE tokens (token BLOB PRIMARY KEY, job BLOB NOT NULL);
CREATE INDEX tokens_of ON tokens (job);
CREATE TABLE dependencies (dependency BLOB, sequence INTEGER, job BLOB NOT NULL, PRIMARY KEY (dependency, sequence));
CREATE INDEX dependencies_of ON dependencies (job);
CREATE TABLE payloads (job BLOB, kind TEXT, payload BLOB NOT NULL, PRIMARY KEY (job, kind));
CREATE TABLE memo (memo BLOB NOT NULL);
"""


class SqliteShelf(Shelf):
    """Records in the tables of an SQLite file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.db: sqlite3.Connection | None = None

    @property
    def description(self) -> str:
        return f"sqlite at {self.path}"

    # The file.

    def open(self, *, create: bool) -> None:
        if not create and not self.path.exists():
            raise StorageUnusable(f"there is no storage at {self.path}")
        try:
            make_file(self.path)  # what SQLite creates beside it has the same mode
            self.db = sqlite3.connect(self.path, timeout=0, isolation_level=None)
            # No other process may open the file until it is closed.
            self.db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self.db.execute("PRAGMA journal_mode = WAL")
            # A commit returns when the disk has it, not when the operating system has it.
            self.db.execute("PRAGMA synchronous = FULL")
            self.db.execute("BEGIN EXCLUSIVE")
            (version,) = self.db.execute("PRAGMA user_version").fetchone()
            if version > FORMAT:
                raise StorageUnusable(f"{self.path} has format {version}, newer than {FORMAT}: install a newer driver")
            if version == 0 and not create:
                raise StorageUnusable(f"{self.path} is not a storage of composerd")
            if version == 0:
                for statement in SCHEMA.split(";\n"):
                    self.db.execute(statement)
                self.db.execute(f"PRAGMA user_version = {FORMAT}")
            self.db.execute("COMMIT")
        except NotTrusted as exc:
            raise StorageUnusable(exc.sentence) from exc
        except (sqlite3.Error, OSError) as exc:
            raise StorageUnusable(f"{self.path} cannot be used: {exc}") from exc

    def close(self) -> None:
        if self.db is not None:
            self.db.close()
            self.db = None

    @contextmanager
    def transaction(self) -> Iterator[None]:
        committing = False
        try:
            self.execute("BEGIN")
            yield
            committing = True
            self.execute("COMMIT")
        except BaseException as exc:
            if self.db is not None and self.db.in_transaction:
                self.db.execute("ROLLBACK")
            if isinstance(exc, sqlite3.Error):
                full = exc.sqlite_errorcode == sqlite3.SQLITE_FULL
                kind = StorageFull if full else OutcomeUnknown if committing else Unavailable
                raise kind(f"{self.path}: {exc}") from exc
            raise

    def execute(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Execute a statement and return its rows."""
        if self.db is None:
            raise Unavailable(f"{self.path} is not open")
        return self.db.execute(sql, values).fetchall()

    def ids(self, sql: str, *values: Any) -> list[UUID]:
        """Execute a statement and return the ids in the first column of its rows."""
        return [UUID(bytes=row[0]) for row in self.execute(sql, *values)]

    def first_id(self, sql: str, *values: Any) -> UUID | None:
        """Execute a statement and return the id in the first column of its first row, or None."""
        return next(iter(self.ids(sql, *values)), None)

    # Records.

    def read(self, job_id: UUID) -> bytes | None:
        rows = self.execute("SELECT record FROM jobs WHERE id = ?", job_id.bytes)
        return rows[0][0] if rows else None

    def write(self, record: JobRecord) -> None:
        new = record.new
        if not self.execute("SELECT 1 FROM jobs WHERE id = ?", new.id.bytes):
            for dependency in record.distinct_dependencies:
                values = (dependency.bytes, record.sequence, new.id.bytes)
                self.execute("INSERT INTO dependencies VALUES (?, ?, ?)", *values)
        self.execute(
            "INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            new.id.bytes,
            record.sequence,
            record.state,
            new.channel,
            new.type,
            new.arch,
            new.priority,
            record.position,
            record.due_at,
            record.expires_at,
            new.idempotency_key,
            record.encoded,
        )
        self.execute("DELETE FROM tokens WHERE job = ?", new.id.bytes)
        for token in record.tokens:
            self.execute("INSERT INTO tokens VALUES (?, ?)", token.bytes, new.id.bytes)

    def remove(self, record: JobRecord) -> None:
        for table, column in [("jobs", "id"), ("tokens", "job"), ("dependencies", "job"), ("payloads", "job")]:
            self.execute(f"DELETE FROM {table} WHERE {column} = ?", record.id.bytes)

    # Finding records.

    def with_token(self, token: UUID) -> UUID | None:
        return self.first_id("SELECT job FROM tokens WHERE token = ?", token.bytes)

    def with_key(self, channel: str, idempotency_key: str) -> UUID | None:
        return self.first_id("SELECT id FROM jobs WHERE channel = ? AND idempotency_key = ?", channel, idempotency_key)

    def dependents(self, job_id: UUID) -> Sequence[UUID]:
        return self.ids("SELECT job FROM dependencies WHERE dependency = ? ORDER BY sequence", job_id.bytes)

    def dependents_after(self, job_id: UUID, sequence: int, limit: int) -> Sequence[UUID]:
        sql = "SELECT job FROM dependencies WHERE dependency = ? AND sequence > ? ORDER BY sequence LIMIT ?"
        return self.ids(sql, job_id.bytes, sequence, limit)

    def first_ready(self, keys: Sequence[Key]) -> UUID | None:
        best = None
        for key in keys:
            rows = self.execute(
                "SELECT -priority, position, id FROM jobs"
                " WHERE state = 'ready' AND channel = ? AND type = ? AND arch IS ?"
                " ORDER BY priority DESC, position LIMIT 1",
                *key,
            )
            if rows and (best is None or rows[0] < best):
                best = rows[0]
        return None if best is None else UUID(bytes=best[2])

    def count_ahead(self, record: JobRecord, limit: int) -> int:
        rows = self.execute(
            "SELECT 1 FROM jobs WHERE state = 'ready' AND channel = ? AND type = ? AND arch IS ?"
            " AND (priority > ? OR (priority = ? AND position < ?)) LIMIT ?",
            *(*record.new.key, record.new.priority, record.new.priority, record.position, limit),
        )
        return len(rows)

    def due(self, now: int, limit: int) -> Sequence[UUID]:
        return self.ids("SELECT id FROM jobs WHERE due_at <= ? ORDER BY due_at, position LIMIT ?", now, limit)

    def next_due(self) -> int | None:
        rows = self.execute("SELECT due_at FROM jobs WHERE due_at IS NOT NULL ORDER BY due_at LIMIT 1")
        return rows[0][0] if rows else None

    def expired(self, now: int) -> Sequence[UUID]:
        return self.ids("SELECT id FROM jobs WHERE expires_at <= ? ORDER BY expires_at", now)

    def running(self) -> Sequence[UUID]:
        return self.ids("SELECT id FROM jobs WHERE state = 'running'")

    def page(self, filter: JobFilter, before: int | None, limit: int) -> Sequence[UUID]:
        fields = {"state": filter.state, "type": filter.type, "channel": filter.channel, "arch": filter.arch}
        given = {name: value for name, value in fields.items() if value is not None}
        conditions = ["sequence < ?", *[f"{name} = ?" for name in given]]
        if filter.states:
            conditions.append(f"state IN ({', '.join('?' * len(filter.states))})")
        sql = f"SELECT id FROM jobs WHERE {' AND '.join(conditions)} ORDER BY sequence DESC LIMIT ?"
        return self.ids(sql, 2**63 - 1 if before is None else before, *given.values(), *filter.states, limit)

    def counts(self) -> dict[str, int]:
        return dict(self.execute("SELECT state, count(*) FROM jobs GROUP BY state"))

    # Payloads and the memo.

    def payload(self, ref: PayloadRef) -> bytes | None:
        rows = self.execute("SELECT payload FROM payloads WHERE job = ? AND kind = ?", ref.job_id.bytes, ref.kind)
        return rows[0][0] if rows else None

    def store_payload(self, ref: PayloadRef, payload: bytes) -> None:
        self.execute("INSERT INTO payloads VALUES (?, ?, ?)", ref.job_id.bytes, ref.kind, payload)

    def memo(self) -> bytes | None:
        rows = self.execute("SELECT memo FROM memo")
        return rows[0][0] if rows else None

    def store_memo(self, memo: bytes) -> None:
        self.execute("DELETE FROM memo")
        self.execute("INSERT INTO memo VALUES (?)", memo)


class SqliteDriver(SimpleDriver):
    """Jobs in an SQLite file: `sqlite:/var/lib/jobs.db`, `sqlite:///var/lib/jobs.db`."""

    contract = "1.5"
    name = "sqlite"

    @classmethod
    def from_url(cls, url: str) -> Self:
        return cls(SqliteShelf(path_of(url, "file")))

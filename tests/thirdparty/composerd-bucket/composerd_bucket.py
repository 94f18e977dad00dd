"""An artifact store in one SQLite file that works like object storage: pieces are uploaded, then put together."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from composerd.artifacts import ArtifactStore, Writer
from composerd.directory import make_file
from composerd.driver.url import path_of
from composerd.errors import ArtifactNotFound, StorageFull, StorageUnusable, Unavailable
from composerd.ownership import NotTrusted

READ_AT_ONCE = 1024 * 1024
LISTED_AT_ONCE = 1000

SCHEMA = """
CREATE TABLE IF NOT EXISTS objects (
    location TEXT PRIMARY KEY, upload TEXT NOT NULL, size INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pieces (
    upload TEXT NOT NULL,
    start INTEGER NOT NULL,
    location TEXT NOT NULL,
    bytes BLOB NOT NULL,
    PRIMARY KEY (upload, start)
);
CREATE INDEX IF NOT EXISTS pieces_of_location ON pieces (location);
"""


class BucketStore(ArtifactStore):
    contract = "1.0"
    name = "bucket"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()

    @classmethod
    def from_url(cls, url: str) -> "BucketStore":
        return cls(path_of(url, "file"))

    async def start(self, *, create: bool) -> None:
        await asyncio.to_thread(self._open, create)

    def _open(self, create: bool) -> None:
        mode = "rwc" if create else "rw"
        try:
            if create or self._path.exists():
                make_file(self._path)
            connection = sqlite3.connect(
                f"{self._path.as_uri()}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False
            )
        except NotTrusted as exc:
            raise StorageUnusable(exc.sentence) from exc
        except (sqlite3.Error, OSError) as exc:
            raise Unavailable(f"{self._path}: {exc}") from exc
        connection.executescript(f"PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; {SCHEMA}")
        self._connection = connection

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def check(self) -> None:
        await self.run(("SELECT 1",))

    async def run(self, *statements: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        """Run statements, each a text and its parameters, as one transaction, and return the rows of the last one."""
        return await asyncio.to_thread(self._run, statements)

    def _run(self, statements: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        with self._lock:
            connection = self._connection
            if connection is None:
                raise Unavailable(f"{self._path} is not open")
            try:
                connection.execute("BEGIN IMMEDIATE")
                try:
                    rows = []
                    for text, *parameters in statements:
                        rows = connection.execute(text, parameters).fetchall()
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
                return rows
            except sqlite3.OperationalError as exc:
                full = exc.sqlite_errorcode == sqlite3.SQLITE_FULL
                raise (StorageFull if full else Unavailable)(f"{self._path}: {exc}") from exc

    async def create(self, location: str) -> Writer:
        return Upload(self, location)

    async def read(self, location: str, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        found = await self.run(("SELECT upload FROM objects WHERE location = ?", location))
        if not found:
            raise ArtifactNotFound
        ((upload,),) = found
        while start < stop:
            piece = (
                "SELECT substr(bytes, ? - start + 1, ?) FROM pieces WHERE upload = ? AND start <= ?"
                " ORDER BY start DESC LIMIT 1"
            )
            rows = await self.run((piece, start, min(READ_AT_ONCE, stop - start), upload, start))
            if not rows or not rows[0][0]:
                raise Unavailable(f"{location} was removed while it was read")
            start += len(rows[0][0])
            yield rows[0][0]

    async def size(self, location: str) -> int | None:
        rows = await self.run(("SELECT size FROM objects WHERE location = ?", location))
        return rows[0][0] if rows else None

    async def list(self, prefix: str) -> AsyncIterator[Sequence[str]]:
        last = prefix
        text = (
            "SELECT location FROM objects WHERE location > ?1 AND substr(location, 1, length(?2)) = ?2"
            " UNION SELECT location FROM pieces WHERE location > ?1 AND substr(location, 1, length(?2)) = ?2"
            " ORDER BY location LIMIT ?3"
        )
        while locations := [location for (location,) in await self.run((text, last, prefix, LISTED_AT_ONCE))]:
            yield locations
            last = locations[-1]

    async def remove(self, locations: Sequence[str]) -> None:
        for location in locations:
            await self.run(
                ("DELETE FROM objects WHERE location = ?", location),
                ("DELETE FROM pieces WHERE location = ?", location),
            )


class Upload(Writer):
    def __init__(self, store: BucketStore, location: str) -> None:
        self._store = store
        self._location = location
        self._upload = uuid4().hex
        self._size = 0

    async def write(self, part: bytes) -> None:
        await self._store.run(
            ("INSERT INTO pieces VALUES (?, ?, ?, ?)", self._upload, self._size, self._location, part)
        )
        self._size += len(part)

    async def commit(self) -> None:
        await self._store.run(
            ("INSERT OR REPLACE INTO objects VALUES (?, ?, ?)", self._location, self._upload, self._size),
            ("DELETE FROM pieces WHERE location = ? AND upload <> ?", self._location, self._upload),
        )

    async def abort(self) -> None:
        await self._store.run(
            ("DELETE FROM objects WHERE upload = ?", self._upload),
            ("DELETE FROM pieces WHERE upload = ?", self._upload),
        )

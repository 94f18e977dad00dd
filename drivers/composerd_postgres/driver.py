"""The driver: the contract's methods, each a task of its own, so that whoever asked may go away without cutting a statement in two."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Self, TypeVar
from uuid import UUID

import msgspec

from composerd.driver import Batch, Capabilities, Driver, StorageCheck, StorageInfo, StoredJob
from composerd.errors import ComposerdError, DriverTimeout, StorageUnusable, Unavailable
from composerd.models import (
    Artifact,
    Attached,
    Attachment,
    Attempt,
    Claim,
    Claimed,
    Enqueued,
    Finished,
    Job,
    JobFilter,
    JobPage,
    NewJob,
    News,
    Outcome,
    PayloadRef,
    Touch,
    Worker,
)
from composerd_postgres.db.connection import Connection
from composerd_postgres.db.url import Options, parse
from composerd_postgres.jobs import attempts, reads
from composerd_postgres.jobs.load import load
from composerd_postgres.jobs.submit import enqueue
from composerd_postgres.jobs.timers import Time
from composerd_postgres.news.changes import Changes
from composerd_postgres.news.watch import told, watch
from composerd_postgres.session import Session
from composerd_postgres.sql.migrate import applied, migrate, refuse_newer

log = logging.getLogger(__name__)

T = TypeVar("T")

CLOSE_LIMIT = 1.0
"""How long `close` waits for the calls that are under way, in seconds."""

PING_LIMIT = 3.0
"""How long the answer to `ping` may take, in seconds."""


class PostgresDriver(Driver):
    """Jobs in a PostgreSQL database that any number of servers share."""

    contract = "1.0"
    name = "postgresql"
    capabilities = Capabilities(durable=True, shared=True, max_submission=100_000, max_payload=128 * 1024**2)

    def __init__(self, options: Options) -> None:
        self.options = options
        self._session = Session(options)
        self._time = Time(self._session)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._uncertain = False
        """A call failed of which nobody knows what it did: others' waits may have missed news."""

    @classmethod
    def from_url(cls, url: str) -> Self:
        """`postgresql://user@host:5432/database?connections=10`: whatever libpq takes, and our own options."""
        return cls(parse(url))

    # The storage itself.

    async def start(self, *, create: bool = True) -> None:
        connection = await self._session.connections.apart()
        try:
            await self._suits(connection)
            if create:
                await migrate(connection, self.options.schema)
            else:
                await self._is_there(connection)
            self._session.connections.open(connection)
            await self._time.begin()
        except BaseException:
            connection.close()
            self._session.connections.close()
            raise

    async def _suits(self, connection: Connection) -> None:
        """Raise `StorageUnusable` for a database that cannot keep what it is given."""
        ((encoding, synchronous),) = await connection.fetch(
            "SELECT current_setting('server_encoding'), current_setting('synchronous_commit')", {}
        )
        if encoding != "UTF8":
            raise StorageUnusable(f"the database is encoded in {encoding}; it has to be UTF8")
        if synchronous == "off":
            log.warning("synchronous_commit is off: a crash of the database loses what was acknowledged just before it")

    async def _is_there(self, connection: Connection) -> None:
        have = await applied(connection, self.options.schema)
        if have is None:
            raise StorageUnusable(f"there is no storage in the schema {self.options.schema} of {self.options.place}")
        refuse_newer(have)
        await migrate(connection, self.options.schema)

    async def close(self) -> None:
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_LIMIT):
                    while self._tasks:
                        await asyncio.wait(self._tasks)
        finally:
            self._session.connections.close()
            for task in self._tasks:
                task.cancel()  # closes its connection

    async def migrate(self) -> None:
        connection = await self._session.connections.apart()
        try:
            await self._suits(connection)
            await migrate(connection, self.options.schema)
        finally:
            connection.close()

    async def ping(self) -> None:
        """Ask whether the database takes writes: a standby does not."""
        try:
            async with asyncio.timeout(PING_LIMIT):  # the wait for a connection included
                ((standby, read_only),) = await self._owned(
                    self._session.connections.fetch(
                        "SELECT pg_is_in_recovery(), current_setting('transaction_read_only')::boolean", {}, PING_LIMIT
                    )
                )
        except TimeoutError as exc:
            raise DriverTimeout(f"the database {self.options.place} took too long") from exc
        if standby or read_only:
            raise Unavailable(f"the database {self.options.place} takes no writes: it is a standby, or read only")

    async def info(self) -> StorageInfo:
        ((version, size, servers),) = await self._owned(
            self._session.connections.fetch(
                "SELECT current_setting('server_version'), "
                "coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint, "
                "(SELECT count(DISTINCT (client_addr, application_name)) FROM pg_stat_activity WHERE datname = current_database()) "
                "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %(schema)s AND c.relkind = 'r'",
                {"schema": self.options.schema},
            )
        )
        return StorageInfo(
            description=f"PostgreSQL database {self.options.place}, schema {self.options.schema}",
            jobs=await self._owned(reads.counts(self._session)),
            details={"server": version, "bytes": size, "clients": servers, "connections": self.options.connections},
        )

    async def check(self) -> StorageCheck:
        connection = await self._session.connections.apart()
        try:
            await self._suits(connection)
            have = await applied(connection, self.options.schema)
            if have is None:
                raise StorageUnusable(
                    f"there is no storage in the schema {self.options.schema} of {self.options.place}"
                )
            refuse_newer(have)
        finally:
            connection.close()
        session = Session(msgspec.structs.replace(self.options, time_limit=3600.0))
        session.connections.open(await session.connections.apart())
        try:
            return await reads.check(session)
        finally:
            session.connections.close()

    async def shift_clock(self, seconds: float) -> None:
        self._session.shift += seconds

    # Jobs and attempts.

    async def enqueue(self, submissions: Sequence[Sequence[NewJob]]) -> Batch[Enqueued | ComposerdError]:
        if not submissions:
            return Batch([])
        return await self._write(enqueue(self._session, submissions))

    async def claim(self, requests: Sequence[Claim], max_bytes: int) -> Batch[Claimed | None]:
        if not requests:
            return Batch([])
        return await self._owned(attempts.claim(self._session, requests, max_bytes))

    async def touch(self, touches: Sequence[Touch]) -> Batch[Attempt]:
        return Batch(await self._owned(attempts.touch(self._session, touches)))

    async def attach(self, attachments: Sequence[Attachment]) -> Batch[Attached]:
        return Batch(await self._owned(attempts.attach(self._session, attachments)))

    async def finish(self, outcomes: Sequence[Outcome]) -> Batch[Finished]:
        return await self._write(attempts.finish(self._session, outcomes))

    async def release(self, tokens: Sequence[UUID]) -> Batch[Attempt]:
        return await self._write(attempts.release(self._session, tokens))

    async def cancel(self, job_ids: Sequence[UUID]) -> Batch[Job | ComposerdError]:
        return await self._write(attempts.cancel(self._session, job_ids))

    async def delete(self, job_ids: Sequence[UUID]) -> Batch[Job | None | ComposerdError]:
        return Batch(await self._owned(attempts.delete(self._session, job_ids)))

    async def advance(self, limit: int) -> Batch[UUID]:
        return await self._write(self._time.advance(limit))

    async def purge(self, limit: int) -> Batch[UUID]:
        return Batch(await self._owned(self._time.purge(limit)))

    # Looking.

    async def get(self, job_ids: Sequence[UUID]) -> Sequence[Job | None]:
        return await self._owned(reads.jobs(self._session, job_ids))

    async def list(self, filter: JobFilter, cursor: int | None, limit: int) -> JobPage:
        return await self._owned(reads.page(self._session, filter, cursor, limit))

    async def payload(self, refs: Sequence[PayloadRef]) -> "Sequence[bytes | None]":
        return await self._owned(reads.payloads(self._session, refs))

    async def artifacts(self, job_ids: Sequence[UUID]) -> "Sequence[tuple[Artifact, ...]]":
        return await self._owned(reads.artifacts(self._session, job_ids))

    async def seen(self, workers: Sequence[Worker]) -> None:
        await self._owned(reads.seen(self._session, workers))

    async def workers(self, within: float, ids: "Sequence[UUID] | None" = None) -> "Sequence[Worker]":
        return await self._owned(reads.workers(self._session, within, ids))

    async def ahead(self, job_id: UUID, limit: int) -> int:
        return await self._owned(reads.ahead(self._session, job_id, limit))

    # Other servers, other storages.

    async def watch(self) -> AsyncIterator[News]:
        async for news in watch(self._session):
            yield news

    async def dump(self) -> AsyncIterator[StoredJob]:
        async for job in reads.dump(self._session):
            yield job

    async def load(self, jobs: Sequence[StoredJob]) -> None:
        told(self._session, await self._owned(load(self._session, jobs)))

    async def _write(self, call: Coroutine[Any, Any, tuple[Sequence[T], Changes]]) -> Batch[T]:
        try:
            items, changes = await self._owned(call)
        except (Unavailable, DriverTimeout):
            self._uncertain = True
            raise
        if self._uncertain:
            self._uncertain = False
            changes.recheck = True  # a call that failed may have done its work, and told the other servers only
        return Batch(items, told(self._session, changes))

    async def _owned(self, call: Coroutine[Any, Any, T]) -> T:
        """Carry a call through to its end, also if its caller is canceled: a statement that is cut off is carried out nevertheless."""
        task = asyncio.create_task(call)
        self._tasks.add(task)
        task.add_done_callback(self._over)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if not task.cancelled() or caller is None or caller.cancelling():
                raise
            raise Unavailable("the driver was closed") from None

    def _over(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # its caller may be gone: then nobody else looks at it

"""`PostgresDriver`: the methods of the contract. Each is a call of `Calls`."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn, Self, TypeVar
from uuid import UUID

import msgspec

from composerd.driver import Batch, Capabilities, Driver, StorageCheck, StorageInfo, StoredJob, Usage
from composerd.errors import ComposerdError, DriverTimeout, NotOffered, StorageMissing, StorageUnusable, Unavailable
from composerd.models import (
    Artifact,
    Attached,
    Attachment,
    Attempt,
    Claim,
    Claimed,
    Enqueued,
    Finished,
    IdPage,
    Job,
    JobFilter,
    JobPage,
    NewJob,
    News,
    Outcome,
    PayloadRef,
    Touch,
    Worker,
    WorkerCursor,
    WorkerPage,
)
from composerd_postgres.calls import Calls
from composerd_postgres.db import refusals
from composerd_postgres.db.connection import Broken, Connection
from composerd_postgres.db.durability import SETTINGS, dangers
from composerd_postgres.db.lanes import Lane
from composerd_postgres.db.rivals import Rivals
from composerd_postgres.db.url import Options, parse
from composerd_postgres.jobs import attempts, queries
from composerd_postgres.jobs.claims import claim
from composerd_postgres.jobs.clock import StorageClock
from composerd_postgres.jobs.deletion import delete, purge
from composerd_postgres.jobs.load import load
from composerd_postgres.jobs.places import catch_up
from composerd_postgres.jobs.submit import enqueue
from composerd_postgres.jobs.timers import Timers
from composerd_postgres.jobs.workers import Workers
from composerd_postgres.news.changes import Changes
from composerd_postgres.news.watch import watch
from composerd_postgres.session import Session
from composerd_postgres.sql.migrate import Applied, applied, migrate, refuse_newer, refuse_older

log = logging.getLogger(__name__)

T = TypeVar("T")

PING_LIMIT = 3.0
"""Time in seconds that the answer to `ping` may take."""

PROBE_LIMIT = 600.0
"""Time in seconds after which a probing write without an answer is given up, and another one may begin.

PostgreSQL keeps a process for each commit that waits for a standby, so probes are not repeated quickly.
"""

CHECK_TIME_LIMIT = 3600.0
"""Time in seconds that one statement of `check` may take, because it reads whole tables."""


class PostgresDriver(Driver):
    """The driver `postgresql`: jobs in a schema of a PostgreSQL database, which any number of servers can share.

    Artifacts are not in the database: servers need a directory or an artifact store that all of them can reach.
    """

    contract = "1.5"
    name = "postgresql"
    capabilities = Capabilities(
        durable=True,
        shared=True,
        max_submission=100_000,
        max_payload=128 * 1024**2,
        hashes_tokens=True,
        compares_artifacts=True,
        counts_usage=True,
    )

    def __init__(self, options: Options) -> None:
        self.options = options
        self._session = Session(options)
        self._clock = StorageClock(self._session)
        self._timers = Timers(self._session, self._clock)
        self._workers = Workers(self._session)
        self._rivals = Rivals(options, self._session.connections.hosts)
        self._calls = Calls(options.time_limit)
        self._uncertain = False
        """True after a write failed with an unknown outcome: this server may have missed the news of it."""
        self._probe: asyncio.Task[None] | None = None

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Return an unopened driver for a URL such as `postgresql://user@host:5432/database?connections=10`.

        The URL may contain anything that libpq knows, and the options of `composerd_postgres.db.url`.
        """
        return cls(parse(url))

    # The storage itself.

    async def start(self, *, create: bool = True) -> None:
        async with self._opening() as connection:
            await self._check_database(connection, create=create)
            if create:
                await migrate(connection, self.options.schema)
            self._session.connections.open(connection)
            await catch_up(self._session)
            await self._clock.open()
        self._rivals.begin()

    async def start_reading(self, *, alone: bool = False) -> Sequence[str]:  # noqa: ARG002  # servers share the storage
        async with self._opening() as connection:
            await self._check_database(connection, create=False)
            self._session.connections.open(connection)
        return ()

    @asynccontextmanager
    async def _opening(self) -> AsyncIterator[Connection]:
        """Open the first connection for the block, and close all if the block fails."""
        connections = self._session.connections
        connection = await connections.dedicated()
        try:
            yield connection
        except BaseException as exc:
            connection.close()
            connections.close()
            if isinstance(exc, Broken) and refusals.lasts(str(exc)):
                raise StorageUnusable(str(exc)) from exc
            raise

    async def _check_database(self, connection: Connection, *, create: bool) -> None:
        """Raise `StorageUnusable` if the database cannot store every text, or has no storage and may not get one."""
        (settings,) = await connection.fetch(SETTINGS, {})
        if settings.encoding != "UTF8":
            raise StorageUnusable(f"the database is encoded in {settings.encoding}; it has to be UTF8")
        if not create:
            await self._check_schema(connection)
            return  # an operator sees the dangers in what `info` and `check` return
        for danger in dangers(settings):
            log.warning("the database may lose acknowledged jobs: %s", danger)

    async def _check_schema(self, connection: Connection) -> None:
        """Raise `StorageUnusable` if there is no storage in the schema, or one of another version.

        Servers of an earlier version may run: only a server of this one, or `migrate`, upgrades the tables.
        """
        refuse_older(await self._applied(connection))

    async def _applied(self, connection: Connection) -> Applied:
        """Return the version of the storage. Raises `StorageUnusable` if there is none, or a newer one."""
        have = await applied(connection, self.options.schema)
        if have is None:
            raise StorageMissing(f"there is no storage in the schema {self.options.schema} of {self.options.target}")
        refuse_newer(have)
        return have

    async def close(self) -> None:
        self._rivals.end()
        try:
            await self._calls.wait()
        finally:
            self._session.connections.close()
            self._calls.cancel()

    async def migrate(self) -> str | None:
        connection = await self._session.connections.dedicated()
        try:
            await self._check_database(connection, create=True)
            have = await self._applied(connection)
            await migrate(connection, self.options.schema)
            now = await self._applied(connection)
        finally:
            connection.close()
        return None if now.number == have.number else f"upgraded from version {have.number} to {now.number}"

    async def ping(self) -> None:
        query = "SELECT pg_is_in_recovery() AS standby, current_setting('transaction_read_only')::boolean AS read_only"
        try:
            async with asyncio.timeout(PING_LIMIT):  # includes the wait for a connection
                (state,) = await self._calls.complete(self._session.connections.fetch(query, {}, PING_LIMIT))
                if state.standby or state.read_only:
                    raise Unavailable(
                        f"the database {self.options.target} accepts no writes: it is a standby, or read-only"
                    )
                if self._rivals.outdated:
                    raise Unavailable(f"another host was promoted: {self._rivals.problem}")
                if self._calls.suspicious or self._calls.full:
                    await self._write_something()
        except TimeoutError as exc:
            raise DriverTimeout(f"the database {self.options.target} did not answer in time") from exc

    async def _write_something(self) -> None:
        """Find out, one probe at a time, whether there is room again and whether commits are answered again."""
        if self._probe is None or self._probe.done():
            self._probe = self._calls.start(self._commit_something())
        await asyncio.shield(self._probe)

    async def _commit_something(self) -> None:
        connection = await self._session.connections.dedicated()
        try:
            if self._calls.full:
                find_room = f"BEGIN; {self._session.statements['find_room']}; ROLLBACK"
                await connection.fetch(find_room, {}, PROBE_LIMIT)
                self._calls.full = False
            await connection.fetch("SELECT pg_logical_emit_message(true, 'composerd', '')", {}, PROBE_LIMIT)
            self._calls.suspicious = False
        finally:
            connection.close()

    async def info(self) -> StorageInfo:
        found = await self._calls.complete(queries.info(self._session), Lane.READ)
        await self._rivals.look()
        if not self._rivals.problem:
            return found
        return msgspec.structs.replace(found, details={**found.details, "hosts": self._rivals.problem})

    async def secret(self) -> bytes:
        return await self._calls.complete(queries.secret(self._session), Lane.READ)

    async def check(self) -> StorageCheck:
        connection = await self._session.connections.dedicated()
        try:
            await self._check_database(connection, create=False)
        finally:
            connection.close()
        session = Session(msgspec.structs.replace(self.options, time_limit=CHECK_TIME_LIMIT))
        session.connections.open(await session.connections.dedicated())
        try:
            return await queries.check(session)
        finally:
            session.connections.close()

    async def backup(self, directory: Path) -> NoReturn:  # noqa: ARG002
        raise NotOffered(
            "composerd does not copy databases: use pg_dump or pg_basebackup, and copy the artifacts before and after; "
            '"Back up" in docs/how-to/operations.md says how'
        )

    async def shift_clock(self, seconds: float) -> None:
        self._session.shift_clock(seconds)

    async def jump_clock(self, seconds: float) -> None:
        self._session.jump_clock(seconds)

    async def confirm_clock(self) -> None:
        await self._calls.complete(self._clock.confirm())

    # Jobs and attempts.

    async def enqueue(self, submissions: Sequence[Sequence[NewJob]]) -> Batch[Enqueued | ComposerdError]:
        if not submissions:
            return Batch([])
        return await self._write(enqueue(self._session, submissions), Lane.CHANGE)

    async def claim(self, requests: Sequence[Claim], max_bytes: int) -> Batch[Claimed | None]:
        if not requests:
            return Batch([])
        return await self._calls.complete(claim(self._session, requests, max_bytes))

    async def touch(self, touches: Sequence[Touch]) -> Batch[Attempt]:
        return Batch(await self._calls.complete(attempts.touch(self._session, touches)))

    async def attach(self, attachments: Sequence[Attachment]) -> Batch[Attached]:
        return Batch(await self._calls.complete(attempts.attach(self._session, attachments), changes_jobs=True))

    async def finish(self, outcomes: Sequence[Outcome]) -> Batch[Finished]:
        return await self._write(attempts.finish(self._session, outcomes))

    async def release(self, tokens: Sequence[UUID]) -> Batch[Attempt]:
        return await self._write(attempts.release(self._session, tokens))

    async def cancel(self, job_ids: Sequence[UUID]) -> Batch[Job | ComposerdError]:
        return await self._write(attempts.cancel(self._session, job_ids), Lane.CHANGE)

    async def delete(self, job_ids: Sequence[UUID]) -> Batch[Job | None | ComposerdError]:
        return Batch(await self._calls.complete(delete(self._session, job_ids), Lane.CHANGE, changes_jobs=True))

    async def advance(self, limit: int) -> Batch[UUID]:
        return await self._write(self._timers.advance(limit), changes_jobs=False)

    async def grace(self) -> None:
        await self._calls.complete(self._clock.grace())

    async def purge(self, limit: int) -> Batch[UUID]:
        return Batch(await self._calls.complete(purge(self._session, self._clock, self._workers, limit), Lane.CHANGE))

    # Queries.

    async def get(self, job_ids: Sequence[UUID]) -> Sequence[Job | None]:
        return await self._calls.complete(queries.jobs(self._session, job_ids), Lane.READ)

    async def listed(self, job_ids: Sequence[UUID]) -> Sequence[Job | None]:
        return await self._calls.complete(queries.listed(self._session, job_ids), Lane.READ)

    async def dependents(self, job_id: UUID, cursor: int | None, limit: int) -> IdPage | None:
        return await self._calls.complete(queries.dependents(self._session, job_id, cursor, limit), Lane.READ)

    async def list(self, filter: JobFilter, cursor: int | None, limit: int) -> JobPage:
        return await self._calls.complete(queries.page(self._session, filter, cursor, limit), Lane.READ)

    async def payload(self, refs: Sequence[PayloadRef]) -> "Sequence[bytes | None]":
        return await self._calls.complete(queries.payloads(self._session, refs), Lane.READ)

    async def payloads_up_to(self, refs: Sequence[PayloadRef], limit: int) -> "Sequence[bytes | int | None]":
        return await self._calls.complete(queries.payloads_up_to(self._session, refs, limit), Lane.READ)

    async def payload_part(self, ref: PayloadRef, start: int, stop: int) -> bytes | None:
        return await self._calls.complete(queries.payload_part(self._session, ref, start, stop), Lane.READ)

    async def artifacts(self, job_ids: Sequence[UUID]) -> "Sequence[tuple[Artifact, ...]]":
        return await self._calls.complete(queries.artifacts(self._session, job_ids), Lane.READ)

    async def usage(self, channels: "Sequence[str]") -> "Sequence[Usage]":
        return await self._calls.complete(queries.usage(self._session, channels), Lane.READ)

    async def seen(self, workers: Sequence[Worker]) -> None:
        await self._calls.complete(self._workers.seen(workers), Lane.CHANGE)

    async def sign_off(self, workers: Sequence[Worker]) -> None:
        await self._calls.complete(self._workers.sign_off(workers), Lane.CHANGE)

    async def workers(self, within: float, ids: "Sequence[UUID] | None" = None) -> "Sequence[Worker]":
        return await self._calls.complete(self._workers.since(within, ids), Lane.READ)

    async def worker_page(
        self, within: float, after: WorkerCursor | None, limit: int, channel: str | None = None
    ) -> WorkerPage:
        return await self._calls.complete(self._workers.page(within, after, limit, channel), Lane.READ)

    async def ahead(self, job_id: UUID, limit: int) -> int:
        return await self._calls.complete(queries.ahead(self._session, job_id, limit), Lane.READ)

    # Other servers and other storages.

    async def watch(self) -> AsyncIterator[News]:
        session = self._session
        async for news in watch(self.options, session.connections, session.hints, session.origin):
            yield news

    async def dump(self) -> AsyncIterator[StoredJob]:
        async for job in queries.dump(self._session):
            yield job

    async def load(self, jobs: Sequence[StoredJob]) -> None:
        self._session.announce(await self._calls.complete(load(self._session, jobs), Lane.CHANGE))

    async def _write(
        self,
        call: Coroutine[Any, Any, tuple[Sequence[T], Changes]],
        on: Lane = Lane.WORK,
        *,
        changes_jobs: bool = True,
    ) -> Batch[T]:
        """Complete a call that may change what others wait for; return its answers with the news."""
        try:
            items, changes = await self._calls.complete(call, on, changes_jobs=changes_jobs)
        except Unavailable:
            self._uncertain = True
            raise
        if self._uncertain:
            self._uncertain = False
            changes.recheck = True  # a failed call may have been committed, and announced to the other servers only
        return Batch(items, self._session.announce(changes))

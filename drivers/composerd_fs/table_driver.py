"""The part that the drivers `fs` and `memory` share: the contract on one table, behind a group commit."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from composerd.driver import Batch, Driver, StoredJob, Usage, transitions
from composerd.driver.clock import Clock, microseconds
from composerd.driver.workers import Workers
from composerd.errors import ComposerdError, Unavailable
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
    Outcome,
    PayloadRef,
    Touch,
    Worker,
    WorkerCursor,
    WorkerPage,
)
from composerd_fs.commit import Committer, FlushLog
from composerd_fs.journal.entries import Payload
from composerd_fs.journal.reserve import LARGEST_RESULT, Purpose
from composerd_fs.state import queries
from composerd_fs.state.commands import Commands
from composerd_fs.state.table import Table
from composerd_fs.state.timekeeping import Timekeeping

T = TypeVar("T")

_LARGE = 256 * 1024
"""Size in bytes of results from which on their digests are computed in a thread."""

_Read = Callable[[Sequence[Payload | None]], Awaitable[list[bytes | None]]]


class TableDriver(Driver):
    """The contract on a table behind a group commit; `log` is the journal, or nothing."""

    contract = "1.5"

    def __init__(self, log: FlushLog) -> None:
        self._clock = Clock()
        self._table = Table()
        self._workers = Workers()
        self._time = Timekeeping(self._table, self._clock)
        self._commands = Commands(self._table, self._time, log.payload, log.record)
        self._committer = Committer(self._table, self._clock, log)
        self._secret = b""

    async def _read_payloads(self, payloads: Sequence[Payload | None]) -> list[bytes | None]:
        return [payload if isinstance(payload, bytes) else None for payload in payloads]

    async def _read_part(self, payloads: Sequence[Payload | None], start: int, stop: int) -> list[bytes | None]:
        """Return a part of each payload."""
        return [payload[start:stop] if isinstance(payload, bytes) else None for payload in payloads]

    async def secret(self) -> bytes:
        return self._secret

    async def shift_clock(self, seconds: float) -> None:
        self._clock.shift(seconds)

    async def jump_clock(self, seconds: float) -> None:
        self._clock.jump(seconds)

    async def confirm_clock(self) -> None:
        self._time.keeper.confirm()

    # Writes.

    async def enqueue(self, submissions: Sequence[Sequence[NewJob]]) -> Batch[Enqueued | ComposerdError]:
        size = items = 0
        for jobs in submissions:
            for job in jobs:
                items += 1 + len(job.dependencies)
                size += 0 if job.args is None else len(job.args)
        done = await self._committer.write(self._commands.enqueue, submissions, items=items, size=size)
        return Batch(done.answer, done.news)

    async def claim(self, requests: Sequence[Claim], max_bytes: int) -> Batch[Claimed | None]:
        done = await self._committer.write(self._commands.claim, requests, max_bytes, items=len(requests), reads=True)
        claimed: list[Claimed | None] = []
        for attempt, args in zip(done.answer.attempts, done.payloads, strict=True):
            if attempt is None:
                claimed.append(None)
            else:  # of the job only what never changes: another write of the same flush may have ended the attempt
                job = attempt.job
                claimed.append(
                    Claimed(attempt.token, job.id, job.key, args, job.dependencies, attempt.number, attempt.confirmed)
                )
        return Batch(claimed, done.news)

    async def touch(self, touches: Sequence[Touch]) -> Batch[Attempt]:
        return await self._committer.between_flushes(self._commands.touch, touches)

    async def attach(self, attachments: Sequence[Attachment]) -> Batch[Attached]:
        done = await self._committer.write(self._commands.attach, attachments, items=len(attachments))
        return Batch(done.answer, done.news)

    async def finish(self, outcomes: Sequence[Outcome]) -> Batch[Finished]:
        size = sum(len(outcome.result) for outcome in outcomes)
        purpose = Purpose.END if size <= LARGEST_RESULT else Purpose.STORE
        digests = await asyncio.to_thread(_digests, outcomes) if size > _LARGE else _digests(outcomes)
        done = await self._committer.write(
            self._commands.finish, outcomes, digests, items=len(outcomes), size=size, purpose=purpose
        )
        return Batch(done.answer, done.news)

    async def release(self, tokens: Sequence[UUID]) -> Batch[Attempt]:
        done = await self._committer.write(self._commands.release, tokens, items=len(tokens), purpose=Purpose.END)
        return Batch(done.answer, done.news)

    async def cancel(self, job_ids: Sequence[UUID]) -> Batch[Job | ComposerdError]:
        done = await self._committer.write(self._commands.cancel, job_ids, items=len(job_ids), purpose=Purpose.REMOVE)
        return Batch(done.answer, done.news)

    async def delete(self, job_ids: Sequence[UUID]) -> Batch[Job | None | ComposerdError]:
        done = await self._committer.write(self._commands.delete, job_ids, items=len(job_ids), purpose=Purpose.REMOVE)
        return Batch(done.answer, done.news)

    async def advance(self, limit: int) -> Batch[UUID]:
        done = await self._committer.write(self._commands.advance, limit, purpose=Purpose.END)
        return Batch(done.answer, done.news)

    async def purge(self, limit: int) -> Batch[UUID]:
        done = await self._committer.write(self._commands.purge, limit, purpose=Purpose.REMOVE)
        return Batch(done.answer, done.news)

    async def grace(self) -> None:
        await self._committer.between_flushes(self._time.grace)

    async def load(self, jobs: Sequence[StoredJob]) -> None:
        size = sum(len(job.new.args or b"") + len(job.result or b"") for job in jobs)
        await self._committer.write(self._commands.load, jobs, items=len(jobs), size=size)

    # Queries.

    async def get(self, job_ids: Sequence[UUID]) -> Sequence[Job | None]:
        return await self._committer.between_flushes(queries.jobs, self._table, job_ids)

    async def list(self, filter: JobFilter, cursor: int | None, limit: int) -> JobPage:
        found: list[Job] = []
        searched = 0
        while True:
            most = min(limit - len(found), queries.JOBS_AT_ONCE)
            page = await self._committer.between_flushes(queries.page, self._table, filter, cursor, most)
            found += page.jobs
            searched += queries.SEARCHED_AT_ONCE
            cursor = page.next
            if cursor is None or len(found) == limit or searched >= queries.SEARCHED:
                return JobPage(tuple(found), cursor)

    async def listed(self, job_ids: Sequence[UUID]) -> "Sequence[Job | None]":
        found: list[Job | None] = []
        for begin in range(0, len(job_ids), queries.JOBS_AT_ONCE):
            some = job_ids[begin : begin + queries.JOBS_AT_ONCE]
            found += await self._committer.between_flushes(queries.listed, self._table, some)
        return found

    async def dependents(self, job_id: UUID, cursor: int | None, limit: int) -> IdPage | None:
        return await self._committer.between_flushes(queries.dependents, self._table, job_id, cursor, limit)

    async def payload(self, refs: Sequence[PayloadRef]) -> "Sequence[bytes | None]":
        return (await self._query_and_read(queries.payloads, refs))[1]

    async def payloads_up_to(self, refs: Sequence[PayloadRef], limit: int) -> "Sequence[bytes | int | None]":
        sizes, payloads = await self._query_and_read(queries.payloads_up_to, refs, limit)
        return [payload if size is None else size for size, payload in zip(sizes, payloads, strict=True)]

    async def payload_part(self, ref: PayloadRef, start: int, stop: int) -> bytes | None:
        read = partial(self._read_part, start=start, stop=stop)
        return (await self._query_and_read(queries.payloads, [ref], read=read))[1][0]

    async def artifacts(self, job_ids: Sequence[UUID]) -> "Sequence[tuple[Artifact, ...]]":
        return await self._committer.between_flushes(queries.artifacts, self._table, job_ids)

    async def usage(self, channels: Sequence[str]) -> Sequence[Usage]:
        return await self._committer.between_flushes(queries.usage, self._table, channels)

    async def ahead(self, job_id: UUID, limit: int) -> int:
        return await self._committer.between_flushes(queries.ahead, self._table, job_id, limit)

    async def dump(self) -> AsyncIterator[StoredJob]:
        last = 0
        for chunk in await self._committer.between_flushes(self._table.jobs.by_sequence.chunks):
            while True:
                part, payloads = await self._query_and_read(queries.dump_part, chunk, last)
                if not part:
                    break
                for index, (job, dependents) in enumerate(part):
                    yield job.stored(dependents, payloads[2 * index], payloads[2 * index + 1])
                last = part[-1][0].sequence

    async def _query_and_read(
        self, query: Callable[..., queries.WithPayloads[T]], *args: Any, read: _Read | None = None
    ) -> "tuple[T, Sequence[bytes | None]]":
        """Make a query and read its payloads, with `read` if it is given.

        Repeat it if a compaction has moved them in between.
        """
        read = read or self._read_payloads
        tried: Sequence[Payload | None] | None = None
        while True:
            answer, payloads = await self._committer.between_flushes(query, self._table, *args)
            try:
                return answer, await read(payloads)
            except Unavailable:
                if payloads == tried:
                    raise
                tried = payloads

    # Workers.

    async def seen(self, workers: Sequence[Worker]) -> None:
        self._workers.seen(workers, self._clock.read())

    async def sign_off(self, workers: Sequence[Worker]) -> None:
        self._workers.sign_off(workers, self._clock.read())

    async def workers(self, within: float, ids: "Sequence[UUID] | None" = None) -> "Sequence[Worker]":
        found = self._workers.since(self._clock.elapsed() - microseconds(within), ids)
        return await self._committer.between_flushes(queries.with_jobs, self._table, found)

    async def worker_page(
        self, within: float, after: WorkerCursor | None, limit: int, channel: str | None = None
    ) -> WorkerPage:
        page = self._workers.page(self._clock.elapsed() - microseconds(within), after, limit, channel)
        shown = await self._committer.between_flushes(queries.with_jobs, self._table, page.workers)
        return WorkerPage(tuple(shown), page.next)

    def _counts(self) -> dict[str, int]:
        return {state.value: count for state, count in self._table.jobs.counts.items()}


def _digests(outcomes: Sequence[Outcome]) -> list[bytes]:
    return [transitions.result_digest(outcome.result) for outcome in outcomes]

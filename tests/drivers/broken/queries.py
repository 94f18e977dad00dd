"""Drivers that break what the contract says of artifacts, leaving, looking, news, workers and moving (U, P, V, N, W, M)."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from uuid import UUID

import msgspec

from composerd.driver import StoredJob
from composerd.driver.simple import JobRecord
from composerd.driver.simple.transaction import Transaction
from composerd.errors import ComposerdError, JobEnded, JobNotFound
from composerd.models import (
    Attached,
    Attachment,
    AttemptState,
    Claim,
    Claimed,
    Finished,
    Job,
    JobFilter,
    JobPage,
    JobState,
    News,
    Outcome,
    PayloadRef,
    Worker,
)

from .registry import breaks
from .right import DictShelf, Right, RightShared


@breaks("X3")
class KnowsNoMissing(Transaction):
    """Says of a job that does not exist that it has ended."""

    def cancel(self, job_id: UUID) -> Job | ComposerdError:
        answer = super().cancel(job_id)
        return JobEnded() if isinstance(answer, JobNotFound) else answer


@breaks("U1")
class PublishesSuccessOnly(Transaction):
    """Forgets the files of a job that failed."""

    def finish(self, outcome: Outcome) -> Finished:
        _, running, _ = self.attempt(outcome.token)
        finished = super().finish(outcome)
        if running is not None and outcome.failed and finished.job_id is not None:
            record = self.get(finished.job_id)
            record.artifacts = {}
            self.save(record)
        return finished


@breaks("U2")
class HandsFilesOn(Transaction):
    """Gives the files of one attempt to the next."""

    def claim(self, request: Claim) -> Claimed | None:
        claimed = super().claim(request)
        if claimed is not None and claimed.attempt > 1:
            record = self.get(claimed.job_id)
            record.attempts[-1].artifacts = dict(record.attempts[-2].artifacts)
            self.save(record)
        return claimed


@breaks("U3")
class HidesWhatItReplaced(Transaction):
    """Does not say which file was replaced."""

    def attach(self, attachment: Attachment) -> Attached:
        return Attached(super().attach(attachment).attempt)


@breaks("U4")
class TakesLateFiles(Transaction):
    """Takes a file of an attempt that has ended."""

    def attach(self, attachment: Attachment) -> Attached:
        attached = super().attach(attachment)
        if attached.attempt.job_id is None:
            return attached
        return Attached(msgspec.structs.replace(attached.attempt, state=AttemptState.RUNNING), attached.replaced)


@breaks("U5")
class HearsNoFiles(Transaction):
    """Does not renew an attempt that uploads."""

    def attach(self, attachment: Attachment) -> Attached:
        _, before, _ = self.attempt(attachment.token)
        attached = super().attach(attachment)
        if before is not None and attached.attempt.job_id is not None:
            record = self.get(attached.attempt.job_id)
            running = record.with_token(attachment.token)
            running.deadline, running.confirmed = before.deadline, before.confirmed
            self.save(record)
        return attached


@breaks("P1")
class KeepsPayloads(DictShelf):
    """Keeps the payloads of jobs that were deleted."""

    def remove(self, record: JobRecord) -> None:
        kept = dict(self.payloads)
        super().remove(record)
        self.payloads = kept


@breaks("P2")
class DeletesWhatIsNeeded(Transaction):
    """Deletes a job that others wait for."""

    def is_needed(self, record: JobRecord) -> bool:
        return False


@breaks("P3")
class NamesGhosts(Transaction):
    """Names jobs that were deleted among the dependents."""

    def delete(self, job_id: UUID) -> Job | None | ComposerdError:
        record = self.find(job_id)
        answer = super().delete(job_id)
        if record is not None and isinstance(answer, Job) and record.new.dependencies:
            self.shelf.write(record)
        return answer


@breaks("P4")
class PurgesEarly(DictShelf):
    """Forgets jobs before their retention is over."""

    def expired(self, now: int) -> Sequence[UUID]:
        return super().expired(now + 10**12)


@breaks("V1")
class OldestFirst(DictShelf):
    """Lists the oldest job first."""

    def page(self, filter: JobFilter, before: int | None, limit: int) -> Sequence[UUID]:
        return super().page(filter, None, 10**9)[::-1][before or 0 :][:limit]


@breaks("V2")
class FiltersByHalf(DictShelf):
    """Forgets a filter's arch."""

    def page(self, filter: JobFilter, before: int | None, limit: int) -> Sequence[UUID]:
        return super().page(msgspec.structs.replace(filter, arch=None), before, limit)


@breaks("V3")
class CountsFromTheTop(Right):
    """Takes a cursor for the number of jobs that were shown."""

    async def list(self, filter: JobFilter, cursor: int | None, limit: int) -> JobPage:
        page = await super().list(filter, None, 2**40)
        begin = cursor or 0
        more = begin + limit if begin + limit < len(page.jobs) else None
        return JobPage(page.jobs[begin : begin + limit], more)


@breaks("V4")
class ReordersKeys(DictShelf):
    """Keeps JSON as its own words, in the order of its keys."""

    def keep_payload(self, ref: PayloadRef, payload: bytes) -> None:
        with contextlib.suppress(ValueError):
            payload = json.dumps(json.loads(payload), sort_keys=True).encode()
        super().keep_payload(ref, payload)


@breaks("V5")
class RaisesWhatIsMissing(Right):
    """Raises where a job does not exist."""

    async def get(self, job_ids: Sequence[UUID]) -> Sequence[Job | None]:
        found = await super().get(job_ids)
        if None in found:
            raise JobNotFound
        return found


@breaks("V6")
class CountsAll(DictShelf):
    """Counts all that are ready as those that go first."""

    def count_before(self, record: JobRecord, limit: int) -> int:
        return len(self.find(lambda one: one.state is JobState.READY and one.id != record.id)[:limit])


@breaks("N1")
class WakesNobody(Transaction):
    """Does not say which jobs became ready."""

    def complete(self) -> News:
        return msgspec.structs.replace(super().complete(), ready={})


@breaks("N2")
class TellsTheFirstEnd(Transaction):
    """Tells of the first job that ended, and not of those that followed."""

    def complete(self) -> News:
        news = super().complete()
        return msgspec.structs.replace(news, ended=news.ended[:1])


@breaks("N3")
class HidesReturns(Transaction):
    """Does not say which jobs were given back."""

    def complete(self) -> News:
        return msgspec.structs.replace(super().complete(), requeued=())


@breaks("N4")
class HasNoAlarm(Transaction):
    """Does not say when something will be due."""

    def complete(self) -> News:
        return msgspec.structs.replace(super().complete(), due_in=None)


@breaks("N5")
class IsDeaf(RightShared):
    """Tells nobody what another server did."""

    async def watch(self) -> AsyncIterator[News]:
        await asyncio.Event().wait()
        yield News()


@breaks("W1")
class EarliestFirst(Right):
    """Shows the worker first that was not heard of for longest."""

    async def workers(self, within: float, ids: "Sequence[UUID] | None" = None) -> "Sequence[Worker]":
        return (await super().workers(within, ids))[::-1]


@breaks("W2")
class ForgetsWhoTheyAre(Right):
    """Takes a sign of life for a description."""

    async def seen(self, workers: "Sequence[Worker]") -> None:
        for worker in workers:
            self._workers.pop(worker.id, None)
        await super().seen(workers)


@breaks("W3")
class ShowsIdleWorkers(Right):
    """Does not show what workers run."""

    async def workers(self, within: float, ids: "Sequence[UUID] | None" = None) -> "Sequence[Worker]":
        return [msgspec.structs.replace(one, jobs=()) for one in await super().workers(within, ids)]


@breaks("M1")
class DumpsWhatLives(Right):
    """Dumps the jobs that were not canceled."""

    async def dump(self) -> AsyncIterator[StoredJob]:
        async for stored in super().dump():
            if stored.job.state is not JobState.CANCELED:
                yield stored


@breaks("M2")
class ForgetsAttempts(Transaction):
    """Loads jobs without their attempts."""

    def load(self, stored: StoredJob) -> None:
        super().load(msgspec.structs.replace(stored, attempts=stored.attempts[-1:]))


@breaks("M3")
class LoadsOver(Transaction):
    """Loads a job over the one that is there."""

    def load(self, stored: StoredJob) -> None:
        record = self.find(stored.new.id)
        if record is not None:
            self.shelf.remove(record)
        super().load(stored)

"""Drivers that break the clauses of artifacts, deletion, queries, news and moving (U, P, V, N, M)."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from uuid import UUID

import msgspec

from composerd.driver import StoredJob
from composerd.driver.simple import JobRecord
from composerd.driver.simple.transaction import Kept, Transaction
from composerd.errors import ComposerdError, JobEnded, JobNotFound
from composerd.models import (
    Attached,
    Attachment,
    AttemptState,
    Claim,
    Claimed,
    Finished,
    IdPage,
    Job,
    JobFilter,
    JobPage,
    JobState,
    News,
    Outcome,
    PayloadRef,
)

from .correct import Correct, CorrectShared, DictShelf
from .registry import breaks


@breaks("X3")
class CallsMissingJobsEnded(Transaction):
    """Answers the cancel of a missing job with `JobEnded`."""

    def cancel(self, job_id: UUID) -> Job | ComposerdError:
        answer = super().cancel(job_id)
        return JobEnded() if isinstance(answer, JobNotFound) else answer


@breaks("U1")
class DropsFilesOfFailedJobs(Transaction):
    """Drops the files of a job that failed."""

    def finish(self, outcome: Outcome) -> Finished:
        _, running, _ = self.attempt(outcome.token)
        finished = super().finish(outcome)
        if running is not None and outcome.failed and finished.job_id is not None:
            record = self.get(finished.job_id)
            record.artifacts = {}
            self.save(record)
        return finished


@breaks("U2")
class GivesFilesToTheNextAttempt(Transaction):
    """Gives the files of one attempt to the next."""

    def claim(self, request: Claim) -> Claimed | None:
        claimed = super().claim(request)
        if claimed is not None and claimed.attempt > 1:
            record = self.get(claimed.job_id)
            record.attempts[-1].artifacts = dict(record.attempts[-2].artifacts)
            self.save(record)
        return claimed


@breaks("U3")
class OmitsReplacedFiles(Transaction):
    """Does not say which file was replaced."""

    def attach(self, attachment: Attachment) -> Attached:
        return Attached(super().attach(attachment).attempt)


@breaks("U4")
class AcceptsLateFiles(Transaction):
    """Answers that it took the file of an attempt that has ended."""

    def attach(self, attachment: Attachment) -> Attached:
        attached = super().attach(attachment)
        if attached.attempt.job_id is None:
            return attached
        return Attached(msgspec.structs.replace(attached.attempt, state=AttemptState.RUNNING), attached.replaced)


@breaks("U5")
class DoesNotRenewOnAttach(Transaction):
    """Does not renew the lease when a file is attached."""

    def attach(self, attachment: Attachment) -> Attached:
        _, before, _ = self.attempt(attachment.token)
        attached = super().attach(attachment)
        if before is not None and attached.attempt.job_id is not None:
            record = self.get(attached.attempt.job_id)
            running = record.with_token(attachment.token)
            running.deadline, running.confirmed = before.deadline, before.confirmed
            self.save(record)
        return attached


@breaks("U6")
class CountsNoFiles(Transaction):
    """Attaches any number of files."""

    def attach(self, attachment: Attachment) -> Attached:
        return super().attach(msgspec.structs.replace(attachment, max_files=None))


@breaks("U7")
class CountsReplacedBytes(Transaction):
    """Counts the size of a file that is replaced."""

    def attach(self, attachment: Attachment) -> Attached:
        _, running, _ = self.attempt(attachment.token)
        before = None if running is None else running.artifacts.get(attachment.artifact.name)
        if before is None or attachment.max_bytes is None:
            return super().attach(attachment)
        return super().attach(msgspec.structs.replace(attachment, max_bytes=attachment.max_bytes - before.size))


@breaks("U8")
class ReplacesLongerFiles(Transaction):
    """Replaces a file by a shorter one that may lack a part."""

    def attach(self, attachment: Attachment) -> Attached:
        return super().attach(msgspec.structs.replace(attachment, known_whole=True))


@breaks("P1")
class KeepsPayloadsOfDeletedJobs(DictShelf):
    """Keeps the payloads of deleted jobs."""

    def remove(self, record: JobRecord) -> None:
        kept = dict(self.payloads)
        super().remove(record)
        self.payloads = kept


@breaks("P2")
class DeletesNeededJobs(Transaction):
    """Deletes a job that an unended job depends on."""

    def is_needed(self, record: JobRecord) -> bool:
        return False


@breaks("P3")
class NamesDeletedDependents(Transaction):
    """Names deleted jobs among the dependents."""

    def delete(self, job_id: UUID) -> Job | None | ComposerdError:
        record = self.find(job_id)
        answer = super().delete(job_id)
        if record is not None and isinstance(answer, Job) and record.new.dependencies:
            self.shelf.write(record)
        return answer


@breaks("P4")
class PurgesEarly(DictShelf):
    """Purges jobs before their retention is over."""

    def expired(self, now: int) -> Sequence[UUID]:
        return super().expired(now + 10**12)


@breaks("P5")
class TrustsAClockThatJumped(Correct):
    """Purges what a clock that has jumped says is over."""

    def _kept_now(self, now: int) -> Kept:
        kept = super()._kept_now(now)
        return Kept(0) if kept.before == self._timekeeper.state.disputed_since else kept


@breaks("P6")
class PurgesAtOnce(Correct):
    """Purges as soon as it is opened, and right after a jump of its clock."""

    def _kept_now(self, now: int) -> Kept:
        return Kept(self._timekeeper.state.disputed_since)


@breaks("P7")
class StopsAtNeededJobs(Transaction):
    """Purges nothing as long as the job that ended first is needed."""

    def purge(self, limit: int, kept: Kept) -> list[UUID]:
        expired = self.shelf.expired(self.now)
        return [] if expired and self.is_needed(self.get(expired[0])) else super().purge(limit, kept)


@breaks("V1")
class ListsOldestFirst(DictShelf):
    """Lists the oldest job first."""

    def page(self, filter: JobFilter, before: int | None, limit: int) -> Sequence[UUID]:
        return super().page(filter, None, 10**9)[::-1][before or 0 :][:limit]


@breaks("V2")
class IgnoresTheArchFilter(DictShelf):
    """Ignores the arch of a filter."""

    def page(self, filter: JobFilter, before: int | None, limit: int) -> Sequence[UUID]:
        return super().page(msgspec.structs.replace(filter, arch=None), before, limit)


@breaks("V3")
class UsesCountsAsCursors(Correct):
    """Uses the number of jobs shown so far as the cursor."""

    async def list(self, filter: JobFilter, cursor: int | None, limit: int) -> JobPage:
        page = await super().list(filter, None, 2**40)
        begin = cursor or 0
        more = begin + limit if begin + limit < len(page.jobs) else None
        return JobPage(page.jobs[begin : begin + limit], more)


@breaks("V4")
class ReordersJson(DictShelf):
    """Stores JSON with its keys in another order."""

    def store_payload(self, ref: PayloadRef, payload: bytes) -> None:
        with contextlib.suppress(ValueError):
            payload = json.dumps(json.loads(payload), sort_keys=True).encode()
        super().store_payload(ref, payload)


@breaks("V5")
class RaisesForMissingJobs(Correct):
    """Raises an error for a job that does not exist."""

    async def get(self, job_ids: Sequence[UUID]) -> Sequence[Job | None]:
        found = await super().get(job_ids)
        if None in found:
            raise JobNotFound
        return found


@breaks("V6")
class CountsAllReadyJobs(DictShelf):
    """Counts all other ready jobs as ahead."""

    def count_ahead(self, record: JobRecord, limit: int) -> int:
        return len(self.find(lambda one: one.state is JobState.READY and one.id != record.id)[:limit])


@breaks("V8")
class ListsByIdWithDependents(Correct):
    """Returns jobs with their dependencies and dependents where it should show them as in a listing."""

    async def listed(self, job_ids: Sequence[UUID]) -> Sequence[Job | None]:
        return await self.get(job_ids)


@breaks("V9")
class CountsDependentsAsCursors(Correct):
    """Uses the number of dependents shown so far as the cursor."""

    async def dependents(self, job_id: UUID, cursor: int | None, limit: int) -> IdPage | None:
        page = await super().dependents(job_id, None, 2**40)
        if page is None:
            return None
        begin = cursor or 0
        more = begin + limit if begin + limit < len(page.ids) else None
        return IdPage(page.ids[begin : begin + limit], more)


@breaks("V7")
class AnswersNoneForLostResults(Correct):
    """Answers a result that has to be there and is not found with None."""

    async def payload(self, refs: Sequence[PayloadRef]) -> Sequence[bytes | None]:
        return [self.shelf.payload(ref) for ref in refs]


@breaks("V10")
class LimitsEachPayloadAlone(Correct):
    """Compares each payload with the limit, and not all that it answers together."""

    async def payloads_up_to(self, refs: Sequence[PayloadRef], limit: int) -> Sequence[bytes | int | None]:
        found = await self.payload(refs)
        return [None if one is None else one if len(one) <= limit else len(one) for one in found]


@breaks("V11")
class CountsCharacters(Correct):
    """Counts the characters of a part, and not its bytes."""

    async def payload_part(self, ref: PayloadRef, start: int, stop: int) -> bytes | None:
        (found,) = await self.payload([ref])
        return None if found is None else found.decode(errors="replace")[start:stop].encode()


@breaks("N1")
class OmitsReadyJobs(Transaction):
    """Does not report which jobs became ready."""

    def complete(self) -> News:
        return msgspec.structs.replace(super().complete(), ready={})


@breaks("N2")
class ReportsOnlyOneEnd(Transaction):
    """Reports the first job that ended but not the others."""

    def complete(self) -> News:
        news = super().complete()
        return msgspec.structs.replace(news, ended=news.ended[:1])


@breaks("N3")
class OmitsRequeues(Transaction):
    """Does not report which jobs were requeued."""

    def complete(self) -> News:
        return msgspec.structs.replace(super().complete(), requeued=())


@breaks("N4")
class OmitsDueTimes(Transaction):
    """Does not say when `advance` is needed."""

    def complete(self) -> News:
        return msgspec.structs.replace(super().complete(), due_in=None)


@breaks("N6")
class TakesEveryRequeueForUnanswered(Transaction):
    """Reports all jobs that were requeued as jobs about which no worker has called."""

    def complete(self) -> News:
        news = super().complete()
        return msgspec.structs.replace(news, unanswered=news.requeued)


@breaks("N5")
class WatchesNothing(CorrectShared):
    """Reports nothing of what other servers did."""

    async def watch(self) -> AsyncIterator[News]:
        await asyncio.Event().wait()
        yield News()


@breaks("M1")
class DoesNotDumpCanceledJobs(Correct):
    """Leaves canceled jobs out of a dump."""

    async def dump(self) -> AsyncIterator[StoredJob]:
        async for stored in super().dump():
            if stored.job.state is not JobState.CANCELED:
                yield stored


@breaks("M2")
class LoadsOneAttempt(Transaction):
    """Loads a job with its latest attempt only."""

    def load(self, stored: StoredJob) -> None:
        super().load(msgspec.structs.replace(stored, attempts=stored.attempts[-1:]))


@breaks("M3")
class OverwritesOnLoad(Transaction):
    """Overwrites a job that exists when it is loaded."""

    def load(self, stored: StoredJob) -> None:
        record = self.find(stored.new.id)
        if record is not None:
            self.shelf.remove(record)
        super().load(stored)


@breaks("V12")
class KnowsOneStateOfAFilter(DictShelf):
    """Looks only for the first of the states that a filter has."""

    def page(self, filter: JobFilter, before: int | None, limit: int) -> Sequence[UUID]:
        return super().page(msgspec.structs.replace(filter, states=filter.states[:1]), before, limit)


@breaks("V13")
class LooksAtEveryChannel(Correct):
    """Looks at as many jobs as a page may have, of whatever channel, and shows those of the filter's channel."""

    async def list(self, filter: JobFilter, cursor: int | None, limit: int) -> JobPage:
        page = await super().list(msgspec.structs.replace(filter, channel=None), cursor, limit)
        jobs = tuple(job for job in page.jobs if filter.channel is None or job.channel == filter.channel)
        return JobPage(jobs, page.next)

"""Drivers that break the general clauses and those of the storage itself (G, S)."""

from collections.abc import Sequence
from hashlib import sha256
from typing import Self
from uuid import UUID

import msgspec

from composerd.driver import Batch, DiskSpace, StorageCheck, StorageInfo
from composerd.driver.simple import JobRecord, Shelf
from composerd.driver.simple.transaction import Transaction
from composerd.driver.transitions import Effects
from composerd.errors import ComposerdError, JobEnded, Unavailable
from composerd.models import Claim, Claimed, Enqueued, Job, NewJob

from .correct import Correct, DictShelf
from .registry import breaks


class UnsavedShelf(DictShelf):
    """A shelf that never writes its file."""

    def save(self) -> None:
        pass


@breaks("S13")
class MakesAnotherSecret(Correct):
    """Makes another secret at each start."""

    async def secret(self) -> bytes:
        return sha256(str(id(self)).encode()).digest()


@breaks("G1")
class AnswersInReverseOrder(Correct):
    """Answers a batch of claims in reverse order."""

    async def claim(self, requests: Sequence[Claim], max_bytes: int) -> Batch[Claimed | None]:
        batch = await super().claim(requests, max_bytes)
        return Batch(batch.items[::-1], batch.news)


@breaks("G2")
class SharesOneError(Correct):
    """Answers all submissions of a call with the error of one."""

    async def enqueue(self, submissions: Sequence[Sequence[NewJob]]) -> Batch[Enqueued | ComposerdError]:
        batch = await super().enqueue(submissions)
        errors = [one for one in batch.items if isinstance(one, ComposerdError)]
        return Batch(errors[:1] * len(submissions), batch.news) if errors else batch


@breaks("G3")
class RejectsRepeatedCancels(Transaction):
    """Answers the repetition of a cancel with an error."""

    def cancel(self, job_id: UUID) -> Job | ComposerdError:
        record = self.find(job_id)
        return JobEnded() if record is not None and record.state.ended else super().cancel(job_id)


@breaks("G4")
class WritesOnClose(DictShelf):
    """Writes what it has answered only when it is closed."""

    def save(self) -> None:
        if not self.path.exists():
            super().save()

    def close(self) -> None:
        if self.lock is not None:
            super().save()
        super().close()


@breaks("G5")
class LosesArtifacts(DictShelf):
    """Loses the artifacts of jobs in a restart."""

    def load(self) -> None:
        super().load()
        for record in self.records.values():
            record.artifacts = {}


@breaks("G6")
class ClaimsInTwoSteps(Correct):
    """Finds a job in one transaction and takes it in another."""

    async def claim(self, requests: Sequence[Claim], max_bytes: int) -> Batch[Claimed | None]:
        found = await self._read(lambda _: [self.shelf.first_ready(one.keys) for one in requests])
        return await self._write(list(zip(requests, found, strict=True)), _take)


def _take(transaction: Transaction, taken: tuple[Claim, UUID | None]) -> Claimed | None:
    request, job_id = taken
    if job_id is None:
        return None
    record = transaction.get(job_id)
    attempt = transaction.begin(record, request)
    return Claimed(request.token, record.id, record.new.key, None, record.new.dependencies, attempt.number)


class DropsTheStart(Transaction):
    """The transactions of `DropsTheStartOfRequeuedJobs`."""

    def apply(self, record: JobRecord, effects: Effects) -> None:
        if effects.requeued:
            record.started_at = None
        super().apply(record, effects)


@breaks("G7")
class DropsTheStartOfRequeuedJobs(Correct):
    """Drops `started_at` when a job is requeued, which only random histories check."""

    # It has no file, so that a thousand histories take little time.
    capabilities = msgspec.structs.replace(Correct.capabilities, durable=False)
    shelf_type = UnsavedShelf
    transaction_class = DropsTheStart


@breaks("G8")
class RefusesLargeSubmissions(Correct):
    """Refuses a submission that is within the limit that it declares."""

    async def enqueue(self, submissions: Sequence[Sequence[NewJob]]) -> Batch[Enqueued | ComposerdError]:
        if any(len(one) > 500 for one in submissions):
            raise Unavailable("too many")
        return await super().enqueue(submissions)


@breaks("G9")
class ConfusesItsErrors(Correct):
    """Says that nothing was changed if it was closed while it stored jobs, and raises a bug once it is closed."""

    async def enqueue(self, submissions: Sequence[Sequence[NewJob]]) -> Batch[Enqueued | ComposerdError]:
        if self._closed:
            raise RuntimeError("no thread")
        batch = await super().enqueue(submissions)
        if self._closed:
            raise Unavailable("closed meanwhile")
        return batch


@breaks("S1")
class IgnoresUnknownOptions(Correct):
    """Ignores an unknown option."""

    @classmethod
    def from_url(cls, url: str) -> Self:
        return super().from_url(url.partition("?")[0])


@breaks("S2")
class CreatesAlways(Correct):
    """Creates a missing storage although `create` is false."""

    async def start(self, *, create: bool = True) -> None:
        await super().start(create=True)


@breaks("S3")
class FailsOnSecondClose(Correct):
    """Raises an error when it is closed a second time."""

    async def close(self) -> None:
        if self._closed:
            raise Unavailable("closed")
        await super().close()


@breaks("S4")
class DeletesOnMigrate(Correct):
    """Deletes what is stored when it migrates."""

    async def migrate(self) -> str | None:
        done = await super().migrate()
        assert isinstance(self.shelf, DictShelf)
        self.shelf.path.unlink()
        return done


@breaks("S5")
class PingAlwaysFails(Correct):
    """Raises `Unavailable` from `ping` although it takes writes."""

    async def ping(self) -> None:
        raise Unavailable("not well")


@breaks("S6")
class DoesNotCountWaitingJobs(Correct):
    """Does not count waiting jobs."""

    async def info(self) -> StorageInfo:
        info = await super().info()
        return StorageInfo(description=info.description, jobs={**info.jobs, "waiting": 0})


@breaks("S7")
class SkipsTheCheck(Correct):
    """Reports a storage as intact without reading it."""

    async def check(self) -> StorageCheck:
        return StorageCheck(jobs={})


@breaks("S8")
class DoesNotLock(DictShelf):
    """Opens a storage that another instance has open."""

    def own(self, lock: int) -> None:
        pass


@breaks("S9")
class ReadsTheClockOnce(Correct):
    """Reads the wall clock once, at its start, and counts the time that passes from then on."""

    async def jump_clock(self, seconds: float) -> None:
        pass


@breaks("S10")
class StaysAhead(Transaction):
    """Does not let the time be earlier than any that is stored."""

    def __init__(self, shelf: Shelf, now: int) -> None:
        super().__init__(shelf, now)
        self.now = max(now, self.memo.seen)


@breaks("S11")
class SaysWhatIsUsed(Correct):
    """Says how much of an empty file system is free, but not how large it is."""

    async def free_space(self) -> DiskSpace:
        return DiskSpace(free=1024**3, size=0)


@breaks("S12")
class StartsToRead(Correct):
    """Opens a storage for reading as a server does, and so stores the time."""

    async def start_reading(self, *, alone: bool = False) -> Sequence[str]:
        await self.start(create=False)
        return ()

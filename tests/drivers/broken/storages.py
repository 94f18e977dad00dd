"""Drivers that break what the contract says in general, and of the storage itself (G, S)."""

from collections.abc import Sequence
from typing import Self
from uuid import UUID

import msgspec

from composerd.driver import Batch, StorageCheck, StorageInfo
from composerd.driver.simple import JobRecord
from composerd.driver.simple.transaction import Transaction
from composerd.driver.transitions import Effects
from composerd.errors import ComposerdError, JobEnded, Unavailable
from composerd.models import Claim, Claimed, Enqueued, Job, NewJob

from .registry import breaks
from .right import DictShelf, Right


class InMemory(DictShelf):
    """Nothing is written."""

    def save(self) -> None:
        pass


@breaks("G1")
class AnswersBackwards(Right):
    """Answers a batch of claims in the reverse order."""

    async def claim(self, requests: Sequence[Claim], max_bytes: int) -> Batch[Claimed | None]:
        batch = await super().claim(requests, max_bytes)
        return Batch(batch.items[::-1], batch.news)


@breaks("G2")
class OneForAll(Right):
    """Answers a whole batch with the error of one submission."""

    async def enqueue(self, submissions: Sequence[Sequence[NewJob]]) -> Batch[Enqueued | ComposerdError]:
        batch = await super().enqueue(submissions)
        errors = [one for one in batch.items if isinstance(one, ComposerdError)]
        return Batch(errors[:1] * len(submissions), batch.news) if errors else batch


@breaks("G3")
class ForgetsItWasAsked(Transaction):
    """Calls the repetition of a cancel an error."""

    def cancel(self, job_id: UUID) -> Job | ComposerdError:
        record = self.find(job_id)
        return JobEnded() if record is not None and record.state.ended else super().cancel(job_id)


@breaks("G4")
class WritesWhenItCloses(DictShelf):
    """Writes what it answered only when it is closed."""

    def save(self) -> None:
        if not self.path.exists():
            super().save()

    def close(self) -> None:
        if self.lock is not None:
            super().save()
        super().close()


@breaks("G5")
class LosesTheLastWrite(DictShelf):
    """Is after a restart without the last change to an attempt's files."""

    def load(self) -> None:
        super().load()
        for record in self.records.values():
            record.artifacts = {}


@breaks("G6")
class LooksBeforeItLeaps(Right):
    """Looks for a job in one step and takes it in another."""

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


class ForgetfulTransaction(Transaction):
    """The transactions of `ForgetsWhenItBegan`."""

    def apply(self, record: JobRecord, effects: Effects) -> None:
        if effects.requeued:
            record.started_at = None
        super().apply(record, effects)


@breaks("G7")
class ForgetsWhenItBegan(Right):
    """Forgets of a job that came back when it was last begun: no other test asks for that."""

    # Without a file, so that a thousand histories are soon tried.
    capabilities = msgspec.structs.replace(Right.capabilities, durable=False)
    shelf_type = InMemory
    transaction_class = ForgetfulTransaction


@breaks("G8")
class TakesSmallSubmissionsOnly(Right):
    """Takes less than it declares."""

    async def enqueue(self, submissions: Sequence[Sequence[NewJob]]) -> Batch[Enqueued | ComposerdError]:
        if any(len(one) > 500 for one in submissions):
            raise Unavailable("too many")
        return await super().enqueue(submissions)


@breaks("S1")
class IgnoresOptions(Right):
    """Ignores an option that it does not know."""

    @classmethod
    def from_url(cls, url: str) -> Self:
        return super().from_url(url.partition("?")[0])


@breaks("S2")
class MakesWhatIsNotThere(Right):
    """Makes a storage that it was only to open."""

    async def start(self, *, create: bool = True) -> None:
        await super().start(create=True)


@breaks("S3")
class ClosesOnce(Right):
    """Fails when it is closed again."""

    async def close(self) -> None:
        if self._closed:
            raise Unavailable("closed")
        await super().close()


@breaks("S4")
class MigratesToNothing(Right):
    """Empties the storage when it brings it up to date."""

    async def migrate(self) -> None:
        assert isinstance(self.shelf, DictShelf)
        self.shelf.path.unlink(missing_ok=True)


@breaks("S5")
class NeverWell(Right):
    """Says that it takes no writes while it does."""

    async def ping(self) -> None:
        raise Unavailable("not well")


@breaks("S6")
class CountsWrongly(Right):
    """Does not count the jobs that wait."""

    async def info(self) -> StorageInfo:
        info = await super().info()
        return StorageInfo(description=info.description, jobs={**info.jobs, "waiting": 0})


@breaks("S7")
class ChecksNothing(Right):
    """Calls a storage whole without reading it."""

    async def check(self) -> StorageCheck:
        return StorageCheck(jobs={})


@breaks("S8")
class LetsOthersIn(DictShelf):
    """Opens a storage that another has open."""

    def own(self, lock: int) -> None:
        pass


@breaks("S9")
class GoesBack(Right):
    """Begins at the wall clock's time, though what is stored is later."""

    def _begin(self) -> None:
        with self.shelf.transaction():
            transaction = Transaction(self.shelf, self._clock.now())
            transaction.resume()
            transaction.complete()

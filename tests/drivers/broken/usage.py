"""Drivers that break the clauses of what is counted for each channel (Q)."""

from collections.abc import Sequence

import msgspec

from composerd.driver import Usage
from composerd.driver.simple import JobRecord
from composerd.driver.simple.transaction import Transaction
from composerd.driver.transitions import Effects

from .correct import Correct, DictShelf
from .registry import breaks


def count_more(transaction: Transaction, record: JobRecord, **more: int) -> None:
    """Count more for the channel of a job than it uses."""
    counted = transaction.usage._changed[record.channel]
    sums = {field: getattr(counted, field) + amount for field, amount in more.items()}
    transaction.usage._changed[record.channel] = msgspec.structs.replace(counted, **sums)


@breaks("Q1")
class CountsRequeuedJobsTwice(Transaction):
    """Counts a job that is requeued as a further one."""

    def apply(self, record: JobRecord, effects: Effects) -> None:
        super().apply(record, effects)
        if effects.requeued:
            count_more(self, record, waiting=1)


@breaks("Q2")
class CountsPayloadsOfDeletedJobs(Transaction):
    """Goes on counting the payloads of jobs that are deleted."""

    def remove(self, record: JobRecord) -> None:
        super().remove(record)
        count_more(self, record, payloads=record.args_size + record.result_size)


@breaks("Q3")
class CountsFilesOfDeadAttempts(Transaction):
    """Goes on counting the files of attempts that end without their job."""

    def apply(self, record: JobRecord, effects: Effects) -> None:
        super().apply(record, effects)
        if effects.requeued:
            count_more(self, record, artifacts=sum(one.size for one in record.attempts[-1].artifacts.values()))


class ForgetfulShelf(DictShelf):
    """The shelf of `CountsSinceTheStart`."""

    def open(self, *, create: bool) -> None:
        super().open(create=create)
        self.used = {}


@breaks("Q4")
class CountsSinceTheStart(Correct):
    """Counts only what has changed since it was opened."""

    shelf_type = ForgetfulShelf

    async def usage(self, channels: Sequence[str]) -> Sequence[Usage]:
        return [Usage(*[max(0, n) for n in msgspec.structs.astuple(one)]) for one in await super().usage(channels)]

"""Keeps jobs from depending on jobs of other channels, for drivers of contract 1.4 and earlier, which may not."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from composerd.driver.contract import Driver
from composerd.driver.values import Batch
from composerd.errors import ComposerdError, UnknownDependency
from composerd.models import Enqueued, NewJob

SINCE = 5
"""The minor version of the contract from which on drivers look at channels themselves, also at those of workers."""


async def enqueue(driver: Driver, submissions: Sequence[Sequence[NewJob]]) -> Batch[Enqueued | ComposerdError]:
    """Call `enqueue` with those submissions that name no job of another channel, and refuse the others.

    The driver is asked for the channels first: they never change, and no job gets the id of another one.
    """
    new = {job.id: job.channel for submission in submissions for job in submission}
    named = {one for submission in submissions for job in submission for one in job.dependencies} - new.keys()
    stored = await driver.listed([*named]) if named else ()
    channels = new | {job.id: job.channel for job in stored if job is not None}
    refused = {nth: error for nth, one in enumerate(submissions) if (error := _refusal(one, channels)) is not None}
    batch = await driver.enqueue([one for nth, one in enumerate(submissions) if nth not in refused])
    answers = iter(batch.items)
    return Batch([refused[nth] if nth in refused else next(answers) for nth in range(len(submissions))], batch.news)


def _refusal(submission: Sequence[NewJob], channels: Mapping[UUID, str]) -> UnknownDependency | None:
    """Return the error for the first dependency that is of another channel than its job; None if there is none."""
    for index, job in enumerate(submission):
        for one in job.dependencies:
            if channels.get(one, job.channel) != job.channel:
                return UnknownDependency(index=index, id=str(one))
    return None

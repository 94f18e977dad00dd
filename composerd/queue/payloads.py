"""Reads the payloads of jobs. One that has to be there and is not found is looked for again, and is never None.

A driver never answers None for such a payload. But what is between it and its database may answer from an older state,
for example a proxy that sends a statement to a standby which lags behind.
"""

import asyncio
from collections.abc import Sequence
from uuid import UUID

from composerd.driver import Driver
from composerd.errors import JobNotFound, Unavailable
from composerd.models import Job, PayloadKind, PayloadRef

LOOK_AGAIN = (0.1, 0.4)
"""Pauses in seconds after which a result that was not found is read again."""


async def payload(driver: Driver, job: Job, kind: PayloadKind) -> bytes | None:
    """Return a job's args or result, byte for byte; None if it has none.

    Raises `JobNotFound` if the job was deleted meanwhile, and `Unavailable` if its result is not found.
    """
    if kind is PayloadKind.ARGS or not job.state.has_result:
        return (await driver.payload([PayloadRef(job.id, kind)]))[0]
    try:
        (result,) = await results(driver, [job.id])
    except Unavailable:
        if (await driver.listed([job.id]))[0] is None:
            raise JobNotFound(id=str(job.id)) from None
        raise
    return result


async def results(driver: Driver, job_ids: Sequence[UUID]) -> Sequence[bytes]:
    """Return the results of finished and failed jobs, in the order of the ids.

    Raises `Unavailable` if one is not found.
    """
    refs = [PayloadRef(job_id, PayloadKind.RESULT) for job_id in job_ids]
    pauses = iter(LOOK_AGAIN)
    while True:
        answers = await driver.payload(refs)
        found = [answer for answer in answers if answer is not None]
        if len(found) == len(answers):
            return found
        pause = next(pauses, None)
        if pause is None:
            raise Unavailable("the storage does not find the result of a job that has ended")
        await asyncio.sleep(pause)

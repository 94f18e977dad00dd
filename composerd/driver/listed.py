"""Compares the artifacts that outcomes list, for drivers that ignore these lists."""

from collections.abc import Sequence

from composerd.driver.attachments import difference
from composerd.driver.contract import Driver
from composerd.driver.tokens import by_token
from composerd.driver.values import Batch
from composerd.models import AttemptState, Finished, Outcome, Touch, Verdict


async def finish(driver: Driver, outcomes: Sequence[Outcome]) -> Batch[Finished]:
    """Call `finish` of a driver that ignores the artifacts that outcomes list, and compare them before.

    The driver is asked for the files first, so a file that is attached before it finishes the attempt is published
    unlisted: the comparison is not atomic.
    """
    if all(one.artifacts is None for one in outcomes):
        return await by_token(driver, driver.finish, outcomes)
    refused = await _differing(driver, outcomes)
    passed_on = [one for nth, one in enumerate(outcomes) if nth not in refused]
    batch = await by_token(driver, driver.finish, passed_on)
    answers = iter(batch.items)
    return Batch([refused[nth] if nth in refused else next(answers) for nth in range(len(outcomes))], batch.news)


async def _differing(driver: Driver, outcomes: Sequence[Outcome]) -> dict[int, Finished]:
    """Return the answers to those outcomes of running attempts that list other files than are attached, by place."""
    listing = {nth: one.artifacts for nth, one in enumerate(outcomes) if one.artifacts is not None}
    touches = [Touch(outcomes[nth].token, confirm=False) for nth in listing]
    attempts = dict(zip(listing, (await by_token(driver, driver.touch, touches)).items, strict=True))
    running = {nth: one.job_id for nth, one in attempts.items() if one.job_id and one.state is AttemptState.RUNNING}
    attached = dict(zip(running, await driver.artifacts(list(running.values())), strict=True))
    refused = {}
    for nth, job_id in running.items():
        differs = difference({one.name: one for one in attached[nth]}, listing[nth])
        if differs is not None:
            refused[nth] = Finished(Verdict.DIFFERS, job_id, differs)
    return refused

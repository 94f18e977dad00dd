"""Outcomes that list artifacts, on a driver that ignores the lists: composerd compares them first."""

from collections.abc import Sequence
from uuid import UUID

import msgspec
import pytest

from composerd.artifact_values import Difference, DifferenceKind, ListedArtifact
from composerd.driver import Batch
from composerd.driver.guard import Guard
from composerd.ids import new_id
from composerd.models import (
    Artifact,
    Attachment,
    AttemptState,
    Claim,
    Finished,
    JobState,
    Key,
    NewJob,
    Outcome,
    Touch,
    Verdict,
)
from composerd_fs import MemoryDriver


class Earlier(MemoryDriver):
    """A driver for contract 1.2, whose `finish` ignores the artifacts that an outcome lists."""

    contract = "1.2"
    capabilities = msgspec.structs.replace(MemoryDriver.capabilities, compares_artifacts=False)

    async def finish(self, outcomes: Sequence[Outcome]) -> Batch[Finished]:
        """Finish without looking at the lists."""
        return await super().finish([msgspec.structs.replace(one, artifacts=None) for one in outcomes])


async def attempt(driver: Guard, *names: str) -> tuple[UUID, UUID]:
    """Return the ids of a job and of its running attempt, which has artifacts of these names."""
    job_id, token = new_id(), new_id()
    await driver.enqueue([[NewJob(id=job_id, type="build")]])
    await driver.claim([Claim(token, (Key("", "build", None),), 60.0)], 1000)
    for name in names:
        await driver.attach([Attachment(token, Artifact(name, 3, "ab" * 32, f"{token}/{name}"))])
    return job_id, token


@pytest.fixture
async def driver() -> Guard:
    """Return a guarded driver that ignores lists of artifacts."""
    guarded = Guard(Earlier())
    await guarded.start()
    return guarded


async def test_a_list_is_compared_for_a_driver_that_ignores_it(driver: Guard) -> None:
    """Of one call, outcomes with a wrong list are refused, all others reach the driver, and answers keep the order."""
    wrong, right, plain = [await attempt(driver, "a") for _ in range(3)]
    over = (await attempt(driver))[1]
    await driver.release([over])
    listed = (ListedArtifact("a", 3),)
    outcomes = [
        Outcome(wrong[1], b"1", artifacts=()),
        Outcome(right[1], b"1", artifacts=listed),
        Outcome(over, b"1", artifacts=listed),
        Outcome(plain[1], b"1"),
        Outcome(new_id(), b"1", artifacts=()),
    ]
    answers = (await driver.finish(outcomes)).items
    assert answers[0] == Finished(Verdict.DIFFERS, wrong[0], Difference(DifferenceKind.UNEXPECTED, "a"))
    assert [one.verdict for one in answers[1:]] == [
        Verdict.ACCEPTED,
        Verdict.SUPERSEDED,
        Verdict.ACCEPTED,
        Verdict.UNKNOWN,
    ]
    states = [job.state for job in await driver.get([wrong[0], right[0], plain[0]]) if job is not None]
    assert states == [JobState.RUNNING, JobState.FINISHED, JobState.FINISHED]
    assert (await driver.touch([Touch(wrong[1])])).items[0].state is AttemptState.RUNNING


async def test_a_repetition_is_accepted_whatever_it_lists(driver: Guard) -> None:
    """An outcome that was accepted is accepted again with another list."""
    _, token = await attempt(driver, "a")
    for artifacts in ((ListedArtifact("a"),), ()):
        (answer,) = (await driver.finish([Outcome(token, b"1", artifacts=artifacts)])).items
        assert answer.verdict is Verdict.ACCEPTED


async def test_nothing_is_asked_without_a_list() -> None:
    """A call without lists is one call of the driver."""
    calls: list[str] = []
    driver = Earlier()
    guarded = Guard(driver, lambda method, _seconds, _raised: calls.append(method))
    await guarded.start()
    _, token = await attempt(guarded)
    driver.touch = driver.artifacts = None  # type: ignore[assignment,method-assign]  # a call of one would fail
    await guarded.finish([Outcome(token, b"1")])
    assert calls[-1] == "finish"

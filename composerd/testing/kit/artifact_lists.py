"""Tests of outcomes that list the artifacts of their attempt."""

import asyncio
from uuid import UUID

import pytest

from composerd.artifact_values import Difference, DifferenceKind, ListedArtifact
from composerd.models import Artifact, Attachment, AttemptState, Finished, JobState, Outcome, Verdict
from composerd.testing.kit.clause import clause
from composerd.testing.kit.instance import Instance

DIGEST = "ab" * 32
OTHER = "cd" * 32
ERROR = b'{"job_error":{"id":1}}'

DIFFERENT: dict[str, tuple[tuple[ListedArtifact, ...], Difference]] = {
    "missing": (
        (ListedArtifact("a"), ListedArtifact("b"), ListedArtifact("c")),
        Difference(DifferenceKind.MISSING, "c"),
    ),
    "unexpected": ((ListedArtifact("b"),), Difference(DifferenceKind.UNEXPECTED, "a")),
    "nothing": ((), Difference(DifferenceKind.UNEXPECTED, "a")),
    "size": ((ListedArtifact("a"), ListedArtifact("b", 4)), Difference(DifferenceKind.SIZE, "b", 3)),
    "sha256": (
        (ListedArtifact("a", 3, DIGEST), ListedArtifact("b", 3, OTHER)),
        Difference(DifferenceKind.SHA256, "b", DIGEST),
    ),
}
"""Lists that differ from the artifacts `a` and `b`, which have three bytes each, and the first differences."""


class ArtifactLists:
    """Outcomes that list the artifacts of their attempt."""

    @pytest.mark.parametrize("how", DIFFERENT)
    @clause("F6", needs="compares_artifacts")
    async def test_other_artifacts(self, instance: Instance, how: str) -> None:
        """An outcome that lists other files is refused with the first difference, and the attempt goes on."""
        listed, difference = DIFFERENT[how]
        job_id = await instance.add()
        token = await instance.take(job_id)
        for name in ("b", "a"):
            await instance.attach(token, name)
        for failed in (False, True):
            answer = await _finish(instance, token, *listed, result=ERROR if failed else b"1", failed=failed)
            assert answer == Finished(Verdict.DIFFERS, job_id, difference)
        assert await instance.state(job_id) is JobState.RUNNING
        assert await instance.touch(token) is AttemptState.RUNNING
        assert len(await instance.artifacts(job_id)) == 2
        exact = (ListedArtifact("a", 3, DIGEST.upper()), ListedArtifact("b"))
        assert await _finish(instance, token, *exact) == Finished(Verdict.ACCEPTED, job_id)
        assert await instance.state(job_id) is JobState.FINISHED

    @clause("F6", "F2", needs="compares_artifacts")
    async def test_a_repetition_that_lists_artifacts(self, instance: Instance) -> None:
        """A repetition of an accepted outcome is accepted whatever it lists, and another result is a conflict."""
        job_id = await instance.add()
        token = await instance.take()
        await instance.attach(token, "a")
        for listed in ((ListedArtifact("a"),), (ListedArtifact("a"),), ()):
            assert (await _finish(instance, token, *listed)).verdict is Verdict.ACCEPTED
        assert (await _finish(instance, token, result=b"2")).verdict is Verdict.CONFLICT
        assert len(await instance.artifacts(job_id)) == 1

    @clause("F6", "F3", needs="compares_artifacts")
    async def test_the_list_of_an_attempt_that_is_over(self, instance: Instance) -> None:
        """The state of an attempt that is over, or unknown, comes before its list, and so do files of the next."""
        await instance.add()
        token = await instance.take()
        await instance.release(token)
        await instance.attach(await instance.take(), "a")
        assert (await _finish(instance, token)).verdict is Verdict.SUPERSEDED
        assert (await _finish(instance, instance.id())).verdict is Verdict.UNKNOWN

    @clause("F6", "G2", needs="compares_artifacts")
    async def test_lists_in_one_call(self, instance: Instance) -> None:
        """A refused outcome refuses no other of the same call, not even the next one of its attempt."""
        jobs = [await instance.add() for _ in range(3)]
        tokens = [await instance.take(job_id) for job_id in jobs]
        await instance.attach(tokens[0], "a")
        wrong, right = (ListedArtifact("b"),), (ListedArtifact("a"),)
        outcomes = [
            Outcome(tokens[0], b"1", artifacts=wrong),
            Outcome(tokens[1], b"1", artifacts=()),
            Outcome(tokens[0], b"2", artifacts=right),
            Outcome(tokens[2], b"1", artifacts=right),
        ]
        answers = (await instance.driver.finish(outcomes)).items
        expected = (Verdict.DIFFERS, Verdict.ACCEPTED, Verdict.ACCEPTED, Verdict.DIFFERS)
        assert tuple(one.verdict for one in answers) == expected
        assert [one.job_id for one in answers] == [jobs[0], jobs[1], jobs[0], jobs[2]]

    @clause("F6", needs="compares_artifacts")
    async def test_an_upload_that_races_with_the_end(self, instance: Instance) -> None:
        """No unlisted file is published, however an attachment and the outcome race."""
        await _race(instance, instance)

    @clause("F6", needs="shared")
    async def test_an_upload_that_races_on_another_server(self, instance: Instance) -> None:
        """No file is published unlisted if another server attaches it while this one finishes the attempt."""
        if instance.driver.capabilities.compares_artifacts:
            await _race(instance, await instance.another_server())


async def _race(finishing: Instance, uploading: Instance) -> None:
    for _ in range(20):
        job_id = await finishing.add()
        token = await finishing.take(job_id)
        attachment = Attachment(token, Artifact("late", 3, DIGEST, "late"))
        attached, finished = await asyncio.gather(
            uploading.driver.attach([attachment]), finishing.driver.finish([Outcome(token, b"1", artifacts=())])
        )
        ((answer,), (verdict,)) = attached.items, finished.items
        was_attached = answer.attempt.state is AttemptState.RUNNING
        assert (verdict.verdict is Verdict.DIFFERS) == was_attached
        if was_attached:
            await finishing.release(token)
            await finishing.end(job_id)
        assert await finishing.artifacts(job_id) == ()


async def _finish(
    instance: Instance, token: UUID, *listed: ListedArtifact, result: bytes = b"1", failed: bool = False
) -> Finished:
    """Report an outcome that lists artifacts, and return the answer."""
    batch = await instance.driver.finish([Outcome(token, result, failed, listed)])
    await instance.advance_until_idle(batch.news)
    (finished,) = batch.items
    return finished

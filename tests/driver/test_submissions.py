"""Planning a submission: what it stores, and what it is answered."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID, uuid4

import pytest

from composerd.driver.submissions import Plan, plan
from composerd.errors import CanceledDependency, ComposerdError, IdempotencyConflict, UnknownDependency
from composerd.models import JobState, NewJob


@dataclass
class Stored:
    id: UUID
    state: JobState = JobState.READY
    channel: str = ""
    dependencies: Sequence[UUID] = ()
    fingerprint: bytes = b""


def new(*dependencies: NewJob | Stored, key: str | None = None, fingerprint: bytes = b"", channel: str = "") -> NewJob:
    """Return a job that depends on others."""
    return NewJob(
        id=uuid4(),
        type="t",
        channel=channel,
        dependencies=tuple(one.id for one in dependencies),
        idempotency_key=key,
        fingerprint=fingerprint,
    )


def planned(*jobs: NewJob, stored: Sequence[Stored] = (), keys: dict[tuple[str, str], Stored] | None = None) -> Plan:
    """Plan a submission over what is stored."""
    by_id = {one.id: one for one in [*stored, *(keys or {}).values()]}
    return plan(jobs, by_id.get, lambda channel, key: (keys or {}).get((channel, key)))


def refused(*jobs: NewJob, stored: Sequence[Stored] = (), keys: dict[tuple[str, str], Stored] | None = None) -> object:
    """Return the error of a submission that is refused: its type and its details."""
    with pytest.raises(ComposerdError) as caught:
        planned(*jobs, stored=stored, keys=keys)
    return type(caught.value), caught.value.details


def test_new_jobs_are_stored_in_their_order() -> None:
    """New jobs are stored in the order of the submission, with repeated dependencies, and answered as created."""
    first = new()
    second = new(first, first)

    result = planned(first, second)

    assert [one.job for one in result.new] == [first, second]
    assert result.new[1].dependencies == (first.id, first.id)
    assert result.answer == [(first.id, True), (second.id, True)]


def test_a_repetition_is_answered_as_the_first_time_and_stored_once() -> None:
    """A job that is stored already, or comes twice, is stored once and answered as created."""
    known, repeated = new(), new()

    result = planned(known, repeated, repeated, stored=[Stored(known.id)])

    assert [one.job for one in result.new] == [repeated]
    assert result.answer == [(known.id, True), (repeated.id, True), (repeated.id, True)]


def test_a_repetition_is_not_compared_with_the_idempotency_key() -> None:
    """A job with a known id is a repetition even if its fingerprint has changed since."""
    known = new(key="k", fingerprint=b"changed since")

    result = planned(known, keys={("", "k"): Stored(known.id, fingerprint=b"first")})

    assert (result.new, result.answer) == ([], [(known.id, True)])


def test_an_unknown_dependency_is_named() -> None:
    """An unknown dependency is an error with its id and the index of the job that names it."""
    missing = Stored(uuid4())

    assert refused(new(), new(missing)) == (UnknownDependency, {"index": 1, "id": str(missing.id)})


def test_a_dependency_has_to_come_earlier_in_the_submission() -> None:
    """A dependency that comes later in the submission is unknown."""
    later = new()

    assert refused(new(later), later) == (UnknownDependency, {"index": 0, "id": str(later.id)})


def test_a_canceled_dependency_is_named() -> None:
    """A canceled dependency is an error with its id and the index of the job that names it."""
    canceled = Stored(uuid4(), JobState.CANCELED)

    assert refused(new(), new(canceled), stored=[canceled]) == (
        CanceledDependency,
        {"index": 1, "id": str(canceled.id)},
    )


@pytest.mark.parametrize("state", [state for state in JobState if state is not JobState.CANCELED])
def test_any_other_stored_job_may_be_a_dependency(state: JobState) -> None:
    """A stored job may be a dependency in every state except canceled."""
    dependency = Stored(uuid4(), state)

    assert planned(new(dependency), stored=[dependency]).new[0].dependencies == (dependency.id,)


def test_a_used_key_stands_for_the_existing_job() -> None:
    """A job with a used key and the same fingerprint is answered with the existing job, as not created."""
    existing = Stored(uuid4(), fingerprint=b"f")
    again = new(key="k", fingerprint=b"f")

    result = planned(again, keys={("", "k"): existing})

    assert (result.new, result.answer) == ([], [(existing.id, False)])


def test_a_key_is_its_channels() -> None:
    """A key that is used in another channel is free."""
    existing = Stored(uuid4(), fingerprint=b"f")
    elsewhere = new(key="k", fingerprint=b"other", channel="c")

    assert planned(elsewhere, keys={("", "k"): existing}).answer == [(elsewhere.id, True)]


def test_a_key_used_earlier_in_the_submission_stands_for_that_job() -> None:
    """A key that is used twice in a submission stands for the first of the two jobs."""
    first, again = new(key="k", fingerprint=b"f"), new(key="k", fingerprint=b"f")

    result = planned(first, again)

    assert [one.job for one in result.new] == [first]
    assert result.answer == [(first.id, True), (first.id, False)]


def test_a_key_used_for_something_else_is_a_conflict() -> None:
    """A used key with a different fingerprint is a conflict that names the index of the job."""
    existing = Stored(uuid4(), fingerprint=b"f")

    assert refused(new(), new(key="k", fingerprint=b"g"), keys={("", "k"): existing}) == (
        IdempotencyConflict,
        {"index": 1},
    )


def test_a_key_used_with_other_dependencies_is_a_conflict() -> None:
    """A used key with different dependencies is a conflict, even if the fingerprint is the same."""
    dependency = Stored(uuid4())
    existing = Stored(uuid4(), fingerprint=b"f")
    again = new(dependency, key="k", fingerprint=b"f")

    assert refused(again, stored=[dependency], keys={("", "k"): existing}) == (IdempotencyConflict, {"index": 0})


def test_a_key_used_earlier_in_the_submission_for_something_else_is_a_conflict() -> None:
    """Two jobs of a submission with one key and different fingerprints are a conflict."""
    assert refused(new(key="k", fingerprint=b"f"), new(key="k", fingerprint=b"g")) == (
        IdempotencyConflict,
        {"index": 1},
    )


def test_what_depends_on_a_job_that_exists_depends_on_the_existing_one() -> None:
    """A dependency on a job whose key is used becomes a dependency on the existing job."""
    existing = Stored(uuid4(), fingerprint=b"f")
    again = new(key="k", fingerprint=b"f")
    dependent = new(again)

    result = planned(again, dependent, keys={("", "k"): existing})

    assert result.new[0].dependencies == (existing.id,)


def test_replaced_dependencies_are_what_a_key_is_compared_with() -> None:
    """When a key is compared, dependencies on jobs whose keys are used are those on the existing jobs."""
    existing = Stored(uuid4(), fingerprint=b"f")
    second = Stored(uuid4(), dependencies=[existing.id], fingerprint=b"g")
    again = new(key="k", fingerprint=b"f")
    dependent = new(again, key="l", fingerprint=b"g")

    result = planned(again, dependent, keys={("", "k"): existing, ("", "l"): second})

    assert (result.new, result.answer) == ([], [(existing.id, False), (second.id, False)])


def test_only_the_dependency_that_stands_for_another_is_replaced() -> None:
    """A job that depends on a replaced job and on others keeps the others, in its order."""
    existing, other = Stored(uuid4()), Stored(uuid4())
    replaced, fresh = new(key="k"), new()
    dependent = new(other, replaced, fresh)

    result = planned(replaced, fresh, dependent, stored=[other], keys={("", "k"): existing})

    assert result.new[-1].dependencies == (other.id, existing.id, fresh.id)


def test_every_dependency_is_checked() -> None:
    """A dependency on a job of the same submission does not hide an unknown one that is named after it."""
    first = new()
    missing = Stored(uuid4())

    assert refused(first, new(first, missing)) == (UnknownDependency, {"index": 1, "id": str(missing.id)})


@pytest.mark.parametrize("state", JobState)
def test_a_dependency_of_another_channel_is_unknown(state: JobState) -> None:
    """A stored job of another channel is as unknown as one that does not exist, also if it is canceled."""
    foreign = Stored(uuid4(), state, channel="other")

    assert refused(new(), new(foreign), stored=[foreign]) == (UnknownDependency, {"index": 1, "id": str(foreign.id)})


def test_a_dependency_of_another_channel_is_unknown_in_the_same_submission() -> None:
    """A job of the same submission that has another channel is unknown too."""
    foreign = new(channel="other")

    assert refused(foreign, new(foreign)) == (UnknownDependency, {"index": 1, "id": str(foreign.id)})

"""The pure functions that decide what happens to a job, each transition of specs/state-machine.md by itself."""

import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from uuid import UUID, uuid4

import msgspec
import pytest

from composerd.driver import transitions
from composerd.driver.records import Policy
from composerd.driver.transitions import NOTHING, Effects, RequeueCause
from composerd.models import AttemptState, JobState, NewJob, OnDependencyFailure, Verdict

from .records import HOUR, NOW, POLICY, SECOND, STRICT, Attempt, Job, running

ENDED = [JobState.FINISHED, JobState.FAILED, JobState.CANCELED]
UNENDED = [JobState.WAITING, JobState.READY, JobState.RUNNING]


def no_position() -> int:
    """Fail the test, because no job may be requeued."""
    raise AssertionError("a position was taken for a job that was not requeued")


def at_position(position: int) -> Callable[[], int]:
    """Return a function that returns this position."""
    return lambda: position


def no_failures() -> Sequence[UUID]:
    """Fail the test, because the failed dependencies are not needed."""
    raise AssertionError("the failed dependencies were read for nothing")


def error(result: bytes | None) -> dict[str, object]:
    """Return the error that a result reports."""
    assert result is not None
    decoded: dict[str, object] = msgspec.json.decode(result)["job_error"]
    return decoded


# Submissions.


def test_a_policy_has_a_submissions_durations_in_microseconds() -> None:
    """The policy of a submitted job has its durations in microseconds."""
    job = NewJob(
        id=uuid4(),
        type="t",
        timeout=1.5,
        max_retries=3,
        retry_on_failure=4,
        retry_backoff=0.25,
        on_dependency_failure=OnDependencyFailure.FAIL,
        retention=60.0,
    )

    assert Policy.of(job) == Policy(1_500_000, 3, 4, 250_000, True, 60 * SECOND)


def test_a_policy_keeps_what_a_submission_leaves_open() -> None:
    """Without a timeout, a retention and a choice for failed dependencies, a job has no limits and runs anyway."""
    policy = Policy.of(NewJob(id=uuid4(), type="t"))

    assert (policy.timeout, policy.retention, policy.fail_with_dependency) == (None, None, False)


@pytest.mark.parametrize(
    ("not_before", "expected"),
    [
        (None, None),
        (2.5, NOW + 2_500_000),
        (0, NOW),
        (datetime(1970, 1, 1, 0, 0, 3, 7, tzinfo=UTC), 3_000_007),
    ],
)
def test_a_start_is_a_time_or_seconds_from_now(not_before: datetime | float | None, expected: int | None) -> None:
    """The earliest start is given as a time or as seconds from now."""
    assert transitions.starts_at(NewJob(id=uuid4(), type="t", not_before=not_before), NOW) == expected


def test_a_job_that_waits_for_nothing_is_ready_at_once() -> None:
    """A submitted job without dependencies and without an earliest start is ready at once (J2)."""
    job = Job()

    assert transitions.submit(job, [], NOW) == Effects(ready=True)
    assert job.state is JobState.READY


@pytest.mark.parametrize(("not_before", "ready"), [(NOW - 1, True), (NOW, True), (NOW + 1, False)])
def test_a_new_job_waits_until_its_time_has_come(not_before: int, ready: bool) -> None:
    """A submitted job waits while its earliest start is in the future, and is ready from that moment on (J1, J2)."""
    job = Job(not_before=not_before)

    effects = transitions.submit(job, [], NOW)

    assert effects == (Effects(ready=True) if ready else Effects(due_at=not_before))
    assert job.state is (JobState.READY if ready else JobState.WAITING)


@pytest.mark.parametrize("state", UNENDED)
@pytest.mark.parametrize("policy", [POLICY, STRICT])
def test_a_new_job_waits_for_each_dependency_that_has_not_ended(state: JobState, policy: Policy) -> None:
    """A submitted job waits for each of its dependencies that has not ended (J1)."""
    job = Job(policy=policy)

    effects = transitions.submit(job, [Job(state=state), Job(state=JobState.FINISHED), Job(state=state)], NOW)

    assert effects == NOTHING
    assert (job.state, job.pending) == (JobState.WAITING, 2)


def test_a_delayed_job_with_an_unended_dependency_is_not_due_yet() -> None:
    """A delayed job that also waits for a dependency is not due at its earliest start."""
    job = Job(not_before=NOW + SECOND)

    assert transitions.submit(job, [Job(state=JobState.READY)], NOW) == NOTHING


def test_failed_dependencies_do_not_hold_up_a_job_that_runs_anyway() -> None:
    """A failed dependency does not delay a job that runs anyway (J2)."""
    job = Job()

    effects = transitions.submit(job, [Job(state=JobState.FAILED)], NOW)

    assert effects == Effects(ready=True)
    assert job.state is JobState.READY


def test_a_strict_job_begins_as_failed_if_dependencies_have_failed() -> None:
    """A job that fails with its dependencies fails when it is submitted, and its result names the failed ones (J3)."""
    job = Job(policy=STRICT)
    failed = [Job(state=JobState.FAILED), Job(state=JobState.FAILED)]

    effects = transitions.submit(job, [failed[1], Job(state=JobState.READY), failed[0]], NOW)

    assert (job.state, job.finished_at) == (JobState.FAILED, NOW)
    assert effects._replace(result=None) == Effects(ended=True)
    assert error(effects.result) == {
        "id": 26,
        "reason": "A dependency failed.",
        "details": [str(failed[1].id), str(failed[0].id)],
    }


def test_a_job_whose_time_has_come_is_ready() -> None:
    """A delayed job becomes ready when its time has come (J4)."""
    job = Job(not_before=NOW)

    assert transitions.start_delayed(job) == Effects(ready=True)
    assert job.state is JobState.READY


# Ends of attempts and of jobs.


@pytest.mark.parametrize(
    ("attempt", "expected"),
    [
        (None, Verdict.UNKNOWN),
        (Attempt(), Verdict.ACCEPTED),
        (Attempt(state=AttemptState.FINISHED, digest=b"same"), Verdict.ACCEPTED),
        (Attempt(state=AttemptState.FINISHED, digest=b"other"), Verdict.CONFLICT),
        (Attempt(state=AttemptState.CANCELED, digest=b"same"), Verdict.CANCELED),
        (Attempt(state=AttemptState.SUPERSEDED), Verdict.SUPERSEDED),
    ],
)
def test_an_outcome_is_accepted_once(attempt: Attempt | None, expected: Verdict) -> None:
    """An outcome of a running attempt is accepted, a repetition too; any other gets the state of its attempt."""
    assert transitions.verdict(attempt, b"same") is expected


def test_a_result_is_known_by_half_of_its_sha256() -> None:
    """The digest of a result is the first half of its SHA-256."""
    assert transitions.result_digest(b"{}") == hashlib.sha256(b"{}").digest()[:16]


@pytest.mark.parametrize(("failed", "state"), [(False, JobState.FINISHED), (True, JobState.FAILED)])
def test_an_outcome_ends_the_job_and_publishes_the_attempts_files(failed: bool, state: JobState) -> None:
    """An outcome ends the job as finished or failed, and the attempt's files become the job's (J7, J8, A4)."""
    job, attempt = running()

    effects = transitions.finish(job, attempt, failed=failed, digest=b"d", now=NOW, next_position=no_position)

    assert effects == Effects(ended=True, publish=True)
    assert (job.state, job.finished_at, job.retries, job.failures) == (state, NOW, 0, 0)
    assert (attempt.state, attempt.digest) == (AttemptState.FINISHED, b"d")


def test_a_failed_outcome_requeues_the_job_until_its_retries_on_failure_are_used_up() -> None:
    """A failed outcome requeues the job with a doubled backoff until `retry_on_failure` is used up (J8, J9)."""
    policy = POLICY._replace(retry_on_failure=2)
    job, attempt = running(policy=policy, uncounted_requeues=5)

    waits = []
    for position in (7, 8):
        effects = transitions.finish(
            job, attempt, failed=True, digest=b"d", now=NOW, next_position=at_position(position)
        )
        assert effects == Effects(requeued=True, due_at=job.not_before)
        assert (job.state, job.position, job.finished_at) == (JobState.WAITING, position, None)
        assert (attempt.state, attempt.digest) == (AttemptState.FINISHED, b"d")
        assert job.uncounted_requeues == 0
        assert job.not_before is not None
        waits.append(job.not_before - NOW)
        job.state = JobState.READY
        transitions.begin(job, attempt, NOW)
    effects = transitions.finish(job, attempt, failed=True, digest=b"d", now=NOW, next_position=no_position)

    assert waits == [10 * SECOND, 20 * SECOND]
    assert (job.retries, job.failures) == (2, 2)
    assert effects == Effects(ended=True, publish=True)
    assert job.state is JobState.FAILED


def test_a_success_never_requeues() -> None:
    """A successful outcome ends the job although retries are left (J7)."""
    job, attempt = running(policy=POLICY._replace(retry_on_failure=2))

    transitions.finish(job, attempt, failed=False, digest=b"d", now=NOW, next_position=no_position)

    assert job.state is JobState.FINISHED


def test_a_failure_without_a_backoff_is_ready_again_at_once() -> None:
    """A failed outcome of a job without a backoff makes the job ready again at once."""
    job, attempt = running(policy=POLICY._replace(retry_on_failure=1, retry_backoff=0))

    effects = transitions.finish(job, attempt, failed=True, digest=b"d", now=NOW, next_position=at_position(9))

    assert effects == Effects(ready=True, requeued=True)


@pytest.mark.parametrize("cause", [RequeueCause.LEASE_EXPIRED, RequeueCause.TIMED_OUT])
def test_a_lost_worker_counts_until_max_retries_is_used_up(cause: RequeueCause) -> None:
    """A lost worker counts as a retry, and fails the job when `max_retries` is used up (J10, J11)."""
    job, attempt = running(uncounted_requeues=4)

    for count in (1, 2):
        effects = transitions.requeue(job, attempt, cause, now=NOW, next_position=at_position(10 + count))
        assert effects == Effects(ready=True, requeued=True)
        assert (job.state, job.position, job.retries, job.uncounted_requeues) == (JobState.READY, 10 + count, count, 0)
        assert attempt.state is AttemptState.SUPERSEDED
        transitions.begin(job, attempt, NOW)
    effects = transitions.requeue(job, attempt, cause, now=NOW, next_position=no_position)

    assert (job.state, job.finished_at, job.retries) == (JobState.FAILED, NOW, 2)
    assert effects._replace(result=None) == Effects(ended=True)
    did = {
        RequeueCause.LEASE_EXPIRED: "Workers running this job stopped responding more than 2 times.",
        RequeueCause.TIMED_OUT: "Workers ran this job for longer than its timeout more than 2 times.",
    }
    assert error(effects.result) == {"id": 27, "reason": did[cause], "details": None}


def test_failures_do_not_use_up_the_retries_of_lost_workers() -> None:
    """Retries after failed outcomes do not count against `max_retries`."""
    job, attempt = running(retries=3, failures=3)

    transitions.requeue(job, attempt, RequeueCause.LEASE_EXPIRED, now=NOW, next_position=at_position(2))

    assert (job.state, job.retries, job.failures) == (JobState.READY, 4, 3)


@pytest.mark.parametrize("cause", [RequeueCause.RELEASED, RequeueCause.HANDOVER_EXPIRED])
def test_ten_uncounted_requeues_in_a_row_are_free_and_each_further_one_counts(cause: RequeueCause) -> None:
    """Ten uncounted requeues in a row are free, and each further one counts as a retry (J10, J11)."""
    job, attempt = running(policy=POLICY._replace(max_retries=1))

    retries = []
    for _ in range(11):
        transitions.requeue(job, attempt, cause, now=NOW, next_position=at_position(2))
        retries.append(job.retries)
        transitions.begin(job, attempt, NOW)
    effects = transitions.requeue(job, attempt, cause, now=NOW, next_position=no_position)

    assert retries == [0] * 10 + [1]
    assert job.state is JobState.FAILED
    assert error(effects.result)["reason"] == "Workers running this job stopped responding more than 1 times."


def test_a_requeued_job_waits_for_its_time_if_that_is_still_ahead() -> None:
    """A requeued job waits while its earliest start is in the future."""
    job, attempt = running(not_before=NOW + SECOND)

    effects = transitions.requeue(job, attempt, RequeueCause.RELEASED, now=NOW, next_position=at_position(2))

    assert effects == Effects(requeued=True, due_at=NOW + SECOND)
    assert job.state is JobState.WAITING


@pytest.mark.parametrize("state", [JobState.WAITING, JobState.READY])
def test_a_cancel_ends_a_job_without_a_result(state: JobState) -> None:
    """A cancel ends a job that is not running, without a result (J12)."""
    job = Job(state=state)

    assert transitions.cancel(job, None, NOW) == Effects(ended=True)
    assert (job.state, job.finished_at) == (JobState.CANCELED, NOW)


def test_a_cancel_cancels_the_running_attempt_and_drops_its_files() -> None:
    """A cancel of a running job cancels its attempt too, and drops the attempt's files (A5)."""
    job, attempt = running()

    effects = transitions.cancel(job, attempt, NOW)

    assert not effects.publish
    assert attempt.state is AttemptState.CANCELED


# What follows from an end.


@pytest.mark.parametrize("ended_as", [JobState.FINISHED, JobState.FAILED])
def test_a_job_is_ready_when_its_last_dependency_has_ended(ended_as: JobState) -> None:
    """A job becomes ready when the last of its dependencies has ended, finished or failed (J4)."""
    job = Job(pending=2)

    first = transitions.dependency_ended(job, ended_as, no_failures, NOW)
    state = job.state
    second = transitions.dependency_ended(job, ended_as, no_failures, NOW)

    assert (first, state) == (NOTHING, JobState.WAITING)
    assert (second, job.state, job.pending) == (Effects(ready=True), JobState.READY, 0)


def test_a_job_whose_last_dependency_has_ended_waits_for_its_time() -> None:
    """A job whose dependencies have all ended still waits for its earliest start."""
    job = Job(pending=1, not_before=NOW + 1)

    assert transitions.dependency_ended(job, JobState.FINISHED, no_failures, NOW) == Effects(due_at=NOW + 1)
    assert job.state is JobState.WAITING


def test_a_strict_job_fails_with_its_first_failed_dependency() -> None:
    """A job that fails with its dependencies fails as soon as one fails, and its result names it (J5)."""
    failed = uuid4()
    job = Job(pending=3, policy=STRICT)

    effects = transitions.dependency_ended(job, JobState.FAILED, lambda: [failed], NOW)

    assert (job.state, job.finished_at) == (JobState.FAILED, NOW)
    assert effects._replace(result=None) == Effects(ended=True)
    assert error(effects.result)["details"] == [str(failed)]


def test_a_strict_job_runs_after_dependencies_that_finished() -> None:
    """A job that fails with its dependencies becomes ready if all of them have finished (J4)."""
    job = Job(pending=1, policy=STRICT)

    assert transitions.dependency_ended(job, JobState.FINISHED, no_failures, NOW) == Effects(ready=True)


@pytest.mark.parametrize("policy", [POLICY, STRICT])
def test_a_canceled_dependency_cancels_whatever_the_policy_says(policy: Policy) -> None:
    """A canceled dependency cancels a job, whatever the job's policy for failures is (J12)."""
    job = Job(pending=2, policy=policy)

    assert transitions.dependency_ended(job, JobState.CANCELED, no_failures, NOW) == Effects(ended=True)
    assert (job.state, job.finished_at) == (JobState.CANCELED, NOW)


@pytest.mark.parametrize("state", [*ENDED, JobState.READY, JobState.RUNNING])
@pytest.mark.parametrize("ended_as", ENDED)
def test_a_job_that_no_longer_waits_is_left_as_it_is(state: JobState, ended_as: JobState) -> None:
    """The end of a dependency does not change a job that no longer waits."""
    job = Job(state=state, pending=1, policy=STRICT)
    before = Job(**vars(job))

    assert transitions.dependency_ended(job, ended_as, no_failures, NOW) == NOTHING
    assert job == before


@pytest.mark.parametrize("state", list(JobState))
@pytest.mark.parametrize("needed", [False, True])
def test_an_ended_job_may_be_deleted_unless_it_is_needed(state: JobState, needed: bool) -> None:
    """A job may be deleted if it has ended and no unended job depends on it."""
    assert transitions.deletable(state, needed=needed) is (state in ENDED and not needed)


# Arithmetic.


@pytest.mark.parametrize(
    ("first", "failures", "expected"),
    [
        (10 * SECOND, 1, 10 * SECOND),
        (10 * SECOND, 2, 20 * SECOND),
        (10 * SECOND, 9, 2560 * SECOND),
        (10 * SECOND, 10, HOUR),
        (2 * HOUR, 1, HOUR),
        (1, 40, HOUR),
        (1, 10_000, HOUR),
        (0, 50, 0),
    ],
)
def test_a_backoff_doubles_up_to_an_hour(first: int, failures: int, expected: int) -> None:
    """The backoff is doubled with each failure, up to one hour."""
    assert transitions.backoff(first, failures) == expected

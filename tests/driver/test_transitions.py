"""The pure functions that decide what happens to a job, each transition of specs/state-machine.md by itself."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID, uuid4

import msgspec
import pytest

from composerd.driver import transitions
from composerd.driver.records import Policy
from composerd.driver.transitions import NOTHING, Effects, RequeueCause
from composerd.models import AttemptState, JobState, NewJob, OnDependencyFailure, Verdict

NOW = 1_000_000_000
SECOND = 1_000_000
HOUR = 3600 * SECOND

POLICY = Policy(
    timeout=None,
    max_retries=2,
    retry_on_failure=0,
    retry_backoff=10 * SECOND,
    fail_with_dependency=False,
    retention=None,
)
STRICT = POLICY._replace(fail_with_dependency=True)

ENDED = [JobState.FINISHED, JobState.FAILED, JobState.CANCELED]
UNENDED = [JobState.WAITING, JobState.READY, JobState.RUNNING]


@dataclass
class Job:
    id: UUID = field(default_factory=uuid4)
    state: JobState = JobState.WAITING
    policy: Policy = POLICY
    position: int = 1
    pending: int = 0
    not_before: int | None = None
    started_at: int | None = None
    finished_at: int | None = None
    retries: int = 0
    failures: int = 0
    uncounted_requeues: int = 0
    attempt_number: int = 0
    worker_id: UUID | None = None
    dependencies: Sequence[UUID] = ()
    fingerprint: bytes = b""


@dataclass
class Attempt:
    lease: int = 20 * SECOND
    handover: int | None = None
    worker_id: UUID | None = None
    number: int = 0
    state: AttemptState = AttemptState.RUNNING
    digest: bytes = b""
    confirmed: bool = True
    deadline: int = 0
    timeout_at: int | None = None


def running(**fields: object) -> tuple[Job, Attempt]:
    """Return a job with a running attempt."""
    job, attempt = Job(state=JobState.READY, **fields), Attempt()  # type: ignore[arg-type]
    transitions.begin(job, attempt, NOW - SECOND)
    return job, attempt


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


# Attempts and their leases.


def test_an_attempt_begins_with_a_lease() -> None:
    """An attempt without a handover begins confirmed, with a full lease and the next number (J6, A1)."""
    worker = uuid4()
    job, attempt = Job(state=JobState.READY, attempt_number=3), Attempt(worker_id=worker, confirmed=False)

    transitions.begin(job, attempt, NOW)

    assert (job.state, job.started_at, job.worker_id, job.attempt_number) == (JobState.RUNNING, NOW, worker, 4)
    assert (attempt.number, attempt.state, attempt.confirmed) == (4, AttemptState.RUNNING, True)
    assert (attempt.deadline, attempt.timeout_at) == (NOW + 20 * SECOND, None)


def test_an_attempt_with_a_handover_begins_unconfirmed_and_lives_for_the_handover() -> None:
    """An attempt with a handover begins unconfirmed, and ends with the handover time (A1)."""
    job, attempt = Job(state=JobState.READY), Attempt(handover=3 * SECOND)

    transitions.begin(job, attempt, NOW)

    assert (attempt.confirmed, attempt.deadline) == (False, NOW + 3 * SECOND)


def test_an_attempts_timeout_begins_with_it() -> None:
    """The job's timeout is counted from the beginning of the attempt."""
    job, attempt = Job(state=JobState.READY, policy=POLICY._replace(timeout=5 * SECOND)), Attempt()

    transitions.begin(job, attempt, NOW)

    assert attempt.timeout_at == NOW + 5 * SECOND


def test_renewing_confirms_and_begins_the_lease_again() -> None:
    """A renewal confirms the attempt and gives it a full lease; its timeout stays (A2)."""
    attempt = Attempt(confirmed=False, handover=SECOND, deadline=NOW - 1, timeout_at=NOW + 7)

    transitions.renew(attempt, NOW)

    assert (attempt.confirmed, attempt.deadline, attempt.timeout_at) == (True, NOW + 20 * SECOND, NOW + 7)


def test_only_an_unconfirmed_attempt_gets_its_handover_time_again() -> None:
    """An unconfirmed attempt gets its full handover time again, and a confirmed one is not changed (A3)."""
    unconfirmed, confirmed = Attempt(confirmed=False, handover=SECOND), Attempt(confirmed=True, deadline=NOW + 5)

    transitions.restart_handover(unconfirmed, NOW)
    transitions.restart_handover(confirmed, NOW)

    assert (unconfirmed.confirmed, unconfirmed.deadline) == (False, NOW + SECOND)
    assert (confirmed.confirmed, confirmed.deadline) == (True, NOW + 5)


@pytest.mark.parametrize(
    ("timeout_at", "expected"),
    [(None, None), (NOW - SECOND, NOW + 20 * SECOND), (NOW + HOUR, NOW + HOUR)],
)
def test_opening_a_storage_gives_a_full_lease_over_the_timeout_too(
    timeout_at: int | None, expected: int | None
) -> None:
    """When a storage is opened, a running attempt is confirmed and gets a full lease, even beyond its timeout."""
    attempt = Attempt(confirmed=False, handover=SECOND, deadline=NOW - HOUR, timeout_at=timeout_at)

    transitions.resume(attempt, NOW)

    assert (attempt.confirmed, attempt.deadline, attempt.timeout_at) == (True, NOW + 20 * SECOND, expected)


@pytest.mark.parametrize(
    ("timeout_at", "jump", "expected"),
    [
        (None, 0, None),
        (NOW + HOUR, 0, NOW + HOUR),
        (NOW + HOUR, HOUR, NOW + 2 * HOUR),
        (NOW + 2 * HOUR, -HOUR, NOW + HOUR),
        (NOW - HOUR, 0, NOW + 20 * SECOND),
        (NOW + HOUR, -2 * HOUR, NOW + 20 * SECOND),
    ],
    ids=["none", "later", "jumps forward", "jumps back", "over", "over after a jump"],
)
def test_excuse(timeout_at: int | None, jump: int, expected: int | None) -> None:
    """An attempt gets a full lease; its timeout jumps with the clock, and does not end it before (A8)."""
    attempt = Attempt(confirmed=False, deadline=NOW - HOUR, timeout_at=timeout_at)
    transitions.excuse(attempt, NOW, jump)
    assert attempt == Attempt(confirmed=False, deadline=NOW + 20 * SECOND, timeout_at=expected)


@pytest.mark.parametrize(
    ("gap", "deadline", "timeout_at"),
    [
        (0, NOW + SECOND, NOW + 2 * SECOND),
        (10 * SECOND, NOW + 11 * SECOND, NOW + 12 * SECOND),
        (11 * SECOND, NOW + 20 * SECOND, NOW + 20 * SECOND),
    ],
    ids=["none", "half a lease", "more"],
)
def test_stand_still(gap: int, deadline: int, timeout_at: int) -> None:
    """A time without servers does not count; after more than half a lease of it the attempt has a full lease (A8)."""
    attempt = Attempt(deadline=NOW + SECOND, timeout_at=NOW + 2 * SECOND)
    transitions.stand_still(attempt, NOW, gap)
    assert (attempt.deadline, attempt.timeout_at) == (deadline, timeout_at)


@pytest.mark.parametrize(
    ("failures", "not_before", "expected"),
    [
        (0, NOW + HOUR, NOW + HOUR),
        (1, None, None),
        (1, NOW + 10 * SECOND, NOW + 10 * SECOND),
        (1, NOW + HOUR, NOW + 10 * SECOND),
        (3, NOW + HOUR, NOW + 40 * SECOND),
        (100, NOW + 24 * HOUR, NOW + HOUR),
    ],
)
def test_shorten_backoff(failures: int, not_before: int | None, expected: int | None) -> None:
    """A job waits no longer than for its backoff; a time that was submitted stays."""
    job = Job(failures=failures, not_before=not_before)
    assert transitions.shorten_backoff(job, NOW) is (expected != not_before)
    assert job.not_before == expected


@pytest.mark.parametrize(("deadline", "timeout_at", "expected"), [(5, None, 5), (5, 4, 4), (5, 6, 5)])
def test_an_attempt_expires_with_its_lease_or_its_timeout(deadline: int, timeout_at: int | None, expected: int) -> None:
    """An attempt ends with its lease or its timeout, whichever is first."""
    assert transitions.expires_at(Attempt(deadline=deadline, timeout_at=timeout_at)) == expected


@pytest.mark.parametrize(
    ("deadline", "timeout_at", "confirmed", "cause"),
    [
        (NOW + 1, None, True, None),
        (NOW + 1, NOW + 1, False, None),
        (NOW, None, True, RequeueCause.LEASE_EXPIRED),
        (NOW, NOW + 1, True, RequeueCause.LEASE_EXPIRED),
        (NOW, None, False, RequeueCause.HANDOVER_EXPIRED),
        (NOW + 1, NOW, True, RequeueCause.TIMED_OUT),
        (NOW, NOW, False, RequeueCause.TIMED_OUT),
    ],
)
def test_an_expiry_has_one_cause(
    deadline: int, timeout_at: int | None, confirmed: bool, cause: RequeueCause | None
) -> None:
    """The cause of an expiry is the timeout, or else the handover or the lease; before that there is none."""
    attempt = Attempt(deadline=deadline, timeout_at=timeout_at, confirmed=confirmed)

    assert transitions.expiry(attempt, NOW) is cause


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

"""The pure functions that decide how long an attempt runs: its lease, its handover and its time limit."""

from uuid import uuid4

import pytest

from composerd.driver import transitions
from composerd.driver.transitions import RequeueCause
from composerd.models import AttemptState, JobState

from .records import HOUR, NOW, POLICY, SECOND, Attempt, Job


def test_an_attempt_begins_with_a_lease() -> None:
    """An attempt without a handover begins unconfirmed, with a full lease and the next number (J6, A1)."""
    worker = uuid4()
    job, attempt = Job(state=JobState.READY, attempt_number=3), Attempt(worker_id=worker, confirmed=True)

    transitions.begin(job, attempt, NOW)

    assert (job.state, job.started_at, job.worker_id, job.attempt_number) == (JobState.RUNNING, NOW, worker, 4)
    assert (attempt.number, attempt.state, attempt.confirmed) == (4, AttemptState.RUNNING, False)
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


@pytest.mark.parametrize("handover", [None, SECOND])
@pytest.mark.parametrize("confirmed", [False, True])
def test_only_an_unconfirmed_attempt_gets_its_handover_time_again(handover: int | None, confirmed: bool) -> None:
    """An unconfirmed attempt gets its full handover time again if it has one; no other one is changed (A3)."""
    attempt = Attempt(confirmed=confirmed, handover=handover, deadline=NOW + 5)

    transitions.restart_handover(attempt, NOW)

    restarted = handover is not None and not confirmed
    assert (attempt.confirmed, attempt.deadline) == (confirmed, NOW + SECOND if restarted else NOW + 5)


@pytest.mark.parametrize("confirmed", [False, True])
@pytest.mark.parametrize(
    ("timeout_at", "expected"),
    [(None, None), (NOW - SECOND, NOW + 20 * SECOND), (NOW + HOUR, NOW + HOUR)],
)
def test_opening_a_storage_gives_a_full_lease_over_the_timeout_too(
    timeout_at: int | None, expected: int | None, confirmed: bool
) -> None:
    """When a storage is opened, a running attempt gets a full lease, even beyond its timeout, and is not confirmed."""
    attempt = Attempt(confirmed=confirmed, handover=SECOND, deadline=NOW - HOUR, timeout_at=timeout_at)

    transitions.resume(attempt, NOW)

    assert (attempt.confirmed, attempt.deadline, attempt.timeout_at) == (confirmed, NOW + 20 * SECOND, expected)


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
    transitions.grant_grace(attempt, NOW, jump)
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
    transitions.extend_lease(attempt, NOW, gap)
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
        (NOW, NOW, True, RequeueCause.TIMED_OUT),
        (NOW + 1, NOW, False, RequeueCause.HANDOVER_EXPIRED),
        (NOW, NOW, False, RequeueCause.HANDOVER_EXPIRED),
    ],
)
def test_an_expiry_has_one_cause(
    deadline: int, timeout_at: int | None, confirmed: bool, cause: RequeueCause | None
) -> None:
    """The cause of an expiry is the handover if nobody confirmed it, or else the timeout or the lease."""
    attempt = Attempt(deadline=deadline, timeout_at=timeout_at, confirmed=confirmed)

    assert transitions.expiry(attempt, NOW) is cause

"""The one place that decides what happens to a job: pure functions that change records and return the effects. No I/O.

Every transition of specs/state-machine.md is a function here. A driver reads the records, calls the function, and
stores what changed together with the effects; it decides no transition of its own. Which ready job a claim takes, and
how far the end of a job is propagated in one step, are the driver's.

Times are in microseconds since the epoch and durations in microseconds, as in `composerd.driver.records`. The functions
do not check the state of a job or an attempt: the driver calls them only where the state machine allows the transition.
"""

import enum
import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple
from uuid import UUID

import msgspec

from composerd.driver.clock import from_time, microseconds
from composerd.driver.records import AttemptRecord, JobRecord, LeaseRecord, NewAttempt, StoredJobView
from composerd.models import (
    MAX_RETRY_BACKOFF,
    MAX_UNCOUNTED_REQUEUES,
    AttemptState,
    JobState,
    NewJob,
    Verdict,
)

DEPENDENCY_FAILED = 26
"""The id of the `job_error` of a job that failed because a dependency failed."""

WORKER_LOST = 27
"""The id of the `job_error` of a job whose workers were lost more often than it may be retried."""

_MAX_BACKOFF = microseconds(MAX_RETRY_BACKOFF)


class RequeueCause(enum.StrEnum):
    """The reason why an attempt ended without an outcome and without ending its job. Journals store the values."""

    RELEASED = "released"
    """The worker, or the server on its behalf, handed the job back."""
    HANDOVER_EXPIRED = "handover"
    """The worker never called after the job was handed over to it, whether it had promised to confirm that or not."""
    LEASE_EXPIRED = "lease"
    """The worker has called, and sent no heartbeat for the length of the lease since."""
    TIMED_OUT = "timeout"
    """The worker has called, and the attempt ran for longer than the job's `timeout`."""


class Effects(NamedTuple):
    """Changes of a transition beyond the fields of the records, for the driver to store and to announce."""

    ready: bool = False
    """True if the job became ready: it belongs into the index of ready jobs and into `News.ready`."""
    ended: bool = False
    """True if the job ended: its end has to be propagated to its dependents, and it belongs into `News.ended`."""
    requeued: bool = False
    """True if the attempt ended and the job did not: it belongs into `News.requeued`."""
    due_at: int | None = None
    """Time at which a job that waits only for its `not_before` becomes ready; None for any other job."""
    result: bytes | None = None
    """The result to store for a job that ended without a result from a worker; None otherwise."""
    unanswered: bool = False
    """True if the attempt ended because its worker never called: the job belongs into `News.unanswered`."""
    publish: bool = False
    """True if the files attached to the attempt become the job's; after any other end they are dropped."""


NOTHING = Effects()
BECAME_READY = Effects(ready=True)
REQUEUED_READY = Effects(ready=True, requeued=True)
CANCELED = Effects(ended=True)
FINISHED = Effects(ended=True, publish=True)

NextPosition = Callable[[], int]
"""Returns a position behind all others; it is called only if the job is requeued."""


# Submissions.


def starts_at(job: NewJob, now: int) -> int | None:
    """Return the time before which a submitted job may not start, or None.

    A `not_before` in seconds is counted from `now`.
    """
    if job.not_before is None:
        return None
    if isinstance(job.not_before, float | int):
        return now + microseconds(job.not_before)
    return from_time(job.not_before)


def submit(job: JobRecord, dependencies: Iterable[StoredJobView], now: int) -> Effects:
    """Decide how a new job begins (J1 to J3).

    Args:
        job: The record; its `state` is waiting, its `pending` 0.
        dependencies: The jobs that it depends on, each once, in the order in which it names them.
        now: The time.
    """
    failed = []
    for dependency in dependencies:
        if not dependency.state.ended:
            job.pending += 1
        elif dependency.state is JobState.FAILED:
            failed.append(dependency.id)
    if failed and job.policy.fail_with_dependency:
        return _end(job, JobState.FAILED, now, Effects(ended=True, result=dependency_result(failed)))
    return NOTHING if job.pending else _wait_or_ready(job, now)


def start_delayed(job: JobRecord) -> Effects:
    """Make a job ready whose time has come; all its dependencies have ended (J4).

    The driver calls it at `Effects.due_at` or later, for a job that is still waiting.
    """
    job.state = JobState.READY
    return BECAME_READY


def shorten_backoff(job: JobRecord, now: int) -> bool:
    """Let a waiting job whose backoff is longer than it should be wait for the backoff from now on.

    Call it for jobs that wait for their time when the clock was set back: their `not_before` is a time on a clock that
    was ahead. Return True if the job has changed. A `not_before` that was submitted is not changed.
    """
    latest = now + backoff(job.policy.retry_backoff, job.failures) if job.failures else None
    if latest is None or job.not_before is None or job.not_before <= latest:
        return False
    job.not_before = latest
    return True


# Attempts and their leases.


def begin(job: JobRecord, attempt: NewAttempt, now: int) -> None:
    """Begin an attempt at a ready job (J6, A1).

    The attempt gets the next number, and the deadline of its handover if it has one, otherwise that of its lease. It is
    not confirmed before its worker calls. The time limit of the job counts from now.
    """
    job.state = JobState.RUNNING
    job.attempt_number += 1
    job.started_at = now
    job.worker_id = attempt.worker_id
    attempt.number = job.attempt_number
    attempt.state = AttemptState.RUNNING
    attempt.confirmed = False
    attempt.deadline = now + (attempt.lease if attempt.handover is None else attempt.handover)
    timeout = job.policy.timeout
    attempt.timeout_at = None if timeout is None else now + timeout


def renew(lease: LeaseRecord, now: int) -> None:
    """Renew the lease of a running attempt and confirm it: a heartbeat, or an attached file (A2).

    The time limit of the job is not extended.
    """
    lease.confirmed = True
    lease.deadline = now + lease.lease


def restart_handover(lease: LeaseRecord, now: int) -> None:
    """Restart the handover time of an attempt that is not confirmed, if it has one; leave other leases alone (A3)."""
    if lease.handover is not None and not lease.confirmed:
        lease.deadline = now + lease.handover


def grant_grace(lease: LeaseRecord, now: int, jump: int = 0) -> None:
    """Give a running attempt a full lease, because its worker may not have been able to renew it (A8).

    If the job's `timeout` would end the attempt before that, it is extended to the end of the lease. The attempt is not
    confirmed by that.

    Args:
        lease: The lease.
        now: The time.
        jump: The jump of the clock that is the reason, 0 if there was none; the job's `timeout` jumps with the clock.
    """
    lease.deadline = now + lease.lease
    if lease.timeout_at is not None:
        lease.timeout_at = max(lease.timeout_at + jump, lease.deadline)


def extend_lease(lease: LeaseRecord, now: int, gap: int) -> None:
    """Do not count a time against a running attempt, because no server had the shared storage open (A8).

    If it was more than half of the attempt's lease, the worker may have missed more than one heartbeat: then the
    attempt has a full lease. The attempt is not confirmed by that.

    Args:
        lease: The lease.
        now: The time.
        gap: The time for which no server had the storage open, in microseconds.
    """
    if 2 * gap > lease.lease:
        grant_grace(lease, now)
        return
    lease.deadline += gap
    if lease.timeout_at is not None:
        lease.timeout_at += gap


def resume(lease: LeaseRecord, now: int, jump: int = 0) -> None:
    """Give a running attempt a full lease, because a storage that is not shared was opened (A8).

    The attempt is as confirmed as the storage knows: its worker may have called before a crash that lost the call, and
    then the attempt counts as never confirmed until its worker calls again.

    `jump` is the time by which the clock may have jumped while the storage was closed.
    """
    grant_grace(lease, now, jump)


def expires_at(lease: LeaseRecord) -> int:
    """Return the time at which a running attempt ends unless its lease is renewed before."""
    if lease.timeout_at is None:
        return lease.deadline
    return min(lease.deadline, lease.timeout_at)


def expiry(lease: LeaseRecord, now: int) -> RequeueCause | None:
    """Return the cause that ends a running attempt now, or None if its time is not over.

    If the job's `timeout` and the lease are both over, the timeout is the cause. But an attempt that was never
    confirmed was never run as far as anybody knows, so the handover is its cause, whichever time is over.
    """
    if expires_at(lease) > now:
        return None
    if not lease.confirmed:
        return RequeueCause.HANDOVER_EXPIRED
    timed_out = lease.timeout_at is not None and lease.timeout_at <= now
    return RequeueCause.TIMED_OUT if timed_out else RequeueCause.LEASE_EXPIRED


# Ends of attempts and of jobs.


def result_digest(result: bytes) -> bytes:
    """Return the digest of a result, 16 bytes, by which a repeated outcome is told from a different one."""
    return hashlib.sha256(result).digest()[:16]


def verdict(attempt: AttemptRecord | None, digest: bytes) -> Verdict:
    """Return the answer to an outcome: `ACCEPTED` if the attempt runs or has finished with the same result.

    Args:
        attempt: The attempt before anything is changed; None if its token is unknown.
        digest: The digest of the outcome's result.
    """
    if attempt is None:
        return Verdict.UNKNOWN
    if attempt.state is AttemptState.RUNNING:
        return Verdict.ACCEPTED
    if attempt.state is AttemptState.FINISHED:
        return Verdict.ACCEPTED if attempt.digest == digest else Verdict.CONFLICT
    return Verdict(attempt.state.value)


def finish(
    job: JobRecord, attempt: AttemptRecord, *, failed: bool, digest: bytes, now: int, next_position: NextPosition
) -> Effects:
    """End a running attempt with its outcome: end the job, or requeue it after a failure (J7 to J9, A4).

    The driver stores the outcome's result if `Effects.ended` is true, and drops it otherwise. `next_position` is called
    only if the job is requeued.
    """
    attempt.state = AttemptState.FINISHED
    attempt.digest = digest
    if not failed:
        return _end(job, JobState.FINISHED, now, FINISHED)
    if job.failures >= job.policy.retry_on_failure:
        return _end(job, JobState.FAILED, now, FINISHED)
    job.failures += 1
    job.retries += 1
    job.uncounted_requeues = 0
    job.not_before = now + backoff(job.policy.retry_backoff, job.failures)
    return _requeue(job, now, next_position)


def requeue(
    job: JobRecord, attempt: AttemptRecord, cause: RequeueCause, *, now: int, next_position: NextPosition
) -> Effects:
    """End a running attempt without an outcome: requeue its job, or fail it if no retries are left (J10, J11, A6).

    A release or an expired handover is not counted, but after `MAX_UNCOUNTED_REQUEUES` in a row each further one is, so
    that a job which crashes every worker that reads it fails in the end. An expired lease or a timeout is counted, and
    the count of uncounted requeues starts again from 0.
    """
    effects = _requeue_or_fail(job, attempt, cause, now=now, next_position=next_position)
    return effects._replace(unanswered=True) if cause is RequeueCause.HANDOVER_EXPIRED else effects


def _requeue_or_fail(
    job: JobRecord, attempt: AttemptRecord, cause: RequeueCause, *, now: int, next_position: NextPosition
) -> Effects:
    attempt.state = AttemptState.SUPERSEDED
    counted = True
    if cause in _UNCOUNTED:
        job.uncounted_requeues += 1
        counted = job.uncounted_requeues > MAX_UNCOUNTED_REQUEUES
    else:
        job.uncounted_requeues = 0
    if counted:
        if job.retries - job.failures >= job.policy.max_retries:
            result = lost_result(cause, job.policy.max_retries)
            return _end(job, JobState.FAILED, now, Effects(ended=True, result=result))
        job.retries += 1
    return _requeue(job, now, next_position)


def cancel(job: JobRecord, attempt: AttemptRecord | None, now: int) -> Effects:
    """Cancel a job that has not ended, and its running attempt if there is one (J12, A5)."""
    if attempt is not None:
        attempt.state = AttemptState.CANCELED
    return _end(job, JobState.CANCELED, now, CANCELED)


def dependency_ended(
    job: JobRecord, ended_as: JobState, failed_dependencies: Callable[[], Sequence[UUID]], now: int
) -> Effects:
    """Propagate the end of one dependency to a job (J4, J5, J12).

    Args:
        job: The dependent; one that no longer waits is left as it is.
        ended_as: The state in which the dependency ended.
        failed_dependencies: Returns all its dependencies that have failed, in the order in which it names them; called
            only if that fails the job.
        now: The time of the end.
    """
    if job.state is not JobState.WAITING:
        return NOTHING
    if ended_as is JobState.CANCELED:
        return _end(job, JobState.CANCELED, now, CANCELED)
    job.pending -= 1
    if ended_as is JobState.FAILED and job.policy.fail_with_dependency:
        return _end(job, JobState.FAILED, now, Effects(ended=True, result=dependency_result(failed_dependencies())))
    return NOTHING if job.pending else _wait_or_ready(job, now)


def deletable(state: JobState, *, needed: bool) -> bool:
    """Return True if a job may be deleted or purged: it has ended, and no unended job depends on it (`needed`)."""
    return state.ended and not needed


# Arithmetic and results.


def backoff(first: int, failures: int) -> int:
    """Return the wait after the `failures`-th failed outcome of a job: `first`, doubled each time, at most an hour."""
    return min(first << min(failures - 1, 63), _MAX_BACKOFF)


def lost_result(cause: RequeueCause, max_retries: int) -> bytes:
    """Return the result of a job that failed because its workers were lost, as JSON."""
    if cause is RequeueCause.TIMED_OUT:
        reason = f"Workers ran this job for longer than its timeout more than {max_retries} times."
    else:
        reason = f"Workers running this job stopped responding more than {max_retries} times."
    return job_error(WORKER_LOST, reason, None)


def dependency_result(failed: Sequence[UUID]) -> bytes:
    """Return the result of a job that failed because dependencies failed, as JSON that names them."""
    return job_error(DEPENDENCY_FAILED, "A dependency failed.", [str(job_id) for job_id in failed])


def job_error(number: int, reason: str, details: object) -> bytes:
    """Return a result, as JSON, that reports a failure without a worker having sent it."""
    return msgspec.json.encode({"job_error": {"id": number, "reason": reason, "details": details}})


_UNCOUNTED = frozenset({RequeueCause.RELEASED, RequeueCause.HANDOVER_EXPIRED})


def _wait_or_ready(job: JobRecord, now: int) -> Effects:
    if job.not_before is not None and job.not_before > now:
        job.state = JobState.WAITING
        return Effects(due_at=job.not_before)
    job.state = JobState.READY
    return BECAME_READY


def _requeue(job: JobRecord, now: int, next_position: NextPosition) -> Effects:
    job.position = next_position()
    effects = _wait_or_ready(job, now)
    return REQUEUED_READY if effects.ready else effects._replace(requeued=True)


def _end(job: JobRecord, state: JobState, now: int, effects: Effects) -> Effects:
    job.state = state
    job.finished_at = now
    return effects

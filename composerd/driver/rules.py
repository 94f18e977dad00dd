"""The arithmetic of the contract, once for all drivers: what a return counts, how long a backoff is, which error ends a job."""

import enum
from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

import msgspec

from composerd.models import MAX_RETRY_BACKOFF, MAX_UNCOUNTED_RETURNS

DEPENDENCY_FAILED = 26
WORKER_LOST = 27


class ReturnCause(enum.StrEnum):
    """Why an attempt ended without an outcome."""

    RELEASED = "released"
    HANDOVER = "handover"
    """It was never confirmed."""
    LEASE = "lease"
    TIMEOUT = "timeout"
    """It ran longer than the job allows."""


class Return(NamedTuple):
    """The job's counters after a return, and whether it is tried again."""

    retries: int
    returns: int
    again: bool


def on_return(cause: ReturnCause, retries: int, failures: int, returns: int, max_retries: int) -> Return:
    """Count the return of a job to the queue.

    `retries` counts every counted return, `failures` those of them that failed outcomes caused (they have a budget of
    their own), `returns` the uncounted ones in a row. A release or an unconfirmed hand-over is uncounted, but after
    `MAX_UNCOUNTED_RETURNS` in a row each further one counts, so that a job that kills whoever reads it ends.
    """
    counted = True
    if cause in (ReturnCause.RELEASED, ReturnCause.HANDOVER):
        returns += 1
        counted = returns > MAX_UNCOUNTED_RETURNS
    else:
        returns = 0
    if not counted:
        return Return(retries, returns, again=True)
    if retries - failures >= max_retries:
        return Return(retries, returns, again=False)
    return Return(retries + 1, returns, again=True)


def retry_backoff(first: float, failures: int) -> float:
    """How long to wait, in seconds, after the `failures`-th failed outcome (from 1): `first`, doubled each time, at most an hour."""
    return min(first * 2.0 ** min(failures - 1, 63), MAX_RETRY_BACKOFF)


def lost_result(cause: ReturnCause, max_retries: int) -> bytes:
    """The result of a job that ended because its workers were lost."""
    if cause is ReturnCause.TIMEOUT:
        reason = f"Workers ran this job for longer than its timeout more than {max_retries} times."
    else:
        reason = f"Workers running this job stopped responding more than {max_retries} times."
    return job_error(WORKER_LOST, reason, None)


def dependency_result(failed: Sequence[UUID]) -> bytes:
    """The result of a job that failed because of its dependencies."""
    return job_error(DEPENDENCY_FAILED, "A dependency failed.", [str(job_id) for job_id in failed])


def job_error(number: int, reason: str, details: object) -> bytes:
    """A result that says that the job failed without a worker's word."""
    return msgspec.json.encode({"job_error": {"id": number, "reason": reason, "details": details}})

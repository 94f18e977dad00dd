"""The arithmetic of the contract, once for all drivers: what a return counts, how long a backoff is, which error ends a job."""

from typing import NamedTuple

from composerd.driver.transitions import RequeueCause
from composerd.models import MAX_RETRY_BACKOFF, MAX_UNCOUNTED_REQUEUES


class Return(NamedTuple):
    """The job's counters after a return, and whether it is tried again."""

    retries: int
    returns: int
    again: bool


def on_return(cause: RequeueCause, retries: int, failures: int, returns: int, max_retries: int) -> Return:
    """Count the return of a job to the queue.

    `retries` counts every counted return, `failures` those of them that failed outcomes caused (they have a budget of
    their own), `returns` the uncounted ones in a row. A release or an unconfirmed hand-over is uncounted, but after
    `MAX_UNCOUNTED_REQUEUES` in a row each further one counts, so that a job that kills whoever reads it ends.
    """
    counted = True
    if cause in (RequeueCause.RELEASED, RequeueCause.HANDOVER_EXPIRED):
        returns += 1
        counted = returns > MAX_UNCOUNTED_REQUEUES
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

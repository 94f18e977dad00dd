"""Results that no worker sent, as specs/state-machine.md spells them. They are not taken from the code under test."""

from collections.abc import Sequence
from uuid import UUID


def workers_lost(max_retries: int) -> bytes:
    """Return the result of a job whose attempts were released or lost more often than `max_retries` allows (J11)."""
    reason = f"Workers running this job stopped responding more than {max_retries} times."
    return f'{{"job_error":{{"id":27,"reason":"{reason}","details":null}}}}'.encode()


def timed_out(max_retries: int) -> bytes:
    """Return the result of a job whose last attempt ran for longer than the job's timeout (J11)."""
    reason = f"Workers ran this job for longer than its timeout more than {max_retries} times."
    return f'{{"job_error":{{"id":27,"reason":"{reason}","details":null}}}}'.encode()


def dependency_failed(failed: Sequence[UUID]) -> bytes:
    """Return the result of a job that failed because these dependencies had failed (J3, J5)."""
    ids = ",".join(f'"{job_id}"' for job_id in failed)
    return f'{{"job_error":{{"id":26,"reason":"A dependency failed.","details":[{ids}]}}}}'.encode()

"""From the contract's values to the fields of `entries`."""

from collections.abc import Callable
from uuid import UUID

from composerd.driver import StoredJob
from composerd.driver.clock import from_time, microseconds
from composerd.models import Artifact, NewJob, OnDependencyFailure
from composerd_fs.journal import entries
from composerd_fs.journal.entries import ArtifactFields, AttemptFields, JobFields, Payload
from composerd_fs.state.job import Run


def fields_of(job: NewJob, dependencies: tuple[UUID, ...], now: int, store: Callable[[bytes], Payload]) -> JobFields:
    """Of a job that is new: its payload put aside, its times on the driver's clock."""
    if job.not_before is None:
        not_before = None
    elif isinstance(job.not_before, float | int):
        not_before = now + microseconds(job.not_before)
    else:
        not_before = from_time(job.not_before)
    return JobFields(
        job.id,
        job.type,
        job.arch,
        job.channel,
        None if job.args is None else store(job.args),
        dependencies,
        job.priority,
        not_before,
        None if job.timeout is None else microseconds(job.timeout),
        job.max_retries,
        job.retry_on_failure,
        microseconds(job.retry_backoff),
        job.on_dependency_failure is OnDependencyFailure.FAIL,
        None if job.retention is None else microseconds(job.retention),
        job.idempotency_key,
        job.fingerprint,
    )


def artifact_fields(artifact: Artifact) -> ArtifactFields:
    """Of an artifact."""
    return ArtifactFields(artifact.name, artifact.size, bytes.fromhex(artifact.sha256), artifact.location)


def attempt_fields(run: Run) -> AttemptFields:
    """Of an attempt."""
    return AttemptFields(run.token, run.number, run.state.value, run.confirm, run.digest, run.lease, run.worker)


def restored(stored: StoredJob, now: int, store: Callable[[bytes], Payload]) -> entries.Restored:
    """Of a job with all its history, from another storage."""
    job = stored.job
    return entries.Restored(
        now,
        fields_of(stored.new, stored.new.dependencies, 0, store),
        job.state.value,
        from_time(job.queued_at),
        None if job.started_at is None else from_time(job.started_at),
        None if job.finished_at is None else from_time(job.finished_at),
        job.retries,
        stored.failures,
        stored.uncounted_requeues,
        job.worker_id,
        None if stored.result is None else store(stored.result),
        [
            AttemptFields(
                attempt.token,
                attempt.number,
                attempt.state.value,
                attempt.confirm,
                attempt.digest,
                microseconds(attempt.lease),
                attempt.worker_id,
            )
            for attempt in stored.attempts
        ],
        [artifact_fields(artifact) for artifact in stored.artifacts],
    )

"""Rows as the contract's values."""

from uuid import UUID

from composerd.driver import StoredAttempt, StoredJob
from composerd.driver.clock import seconds, to_time
from composerd.models import UNKNOWN_ATTEMPT, Attempt, AttemptState, Job, NewJob, OnDependencyFailure
from composerd_fs.state.job import Row, Run


def job_of(row: Row, dependents: tuple[UUID, ...] = (), *, listed: bool = False) -> Job:
    """The job; a listed one without progress."""
    expires_at = row.expires_at
    return Job(
        id=row.id,
        type=row.key.type,
        arch=row.key.arch,
        channel=row.key.channel,
        state=row.state,
        priority=row.priority,
        queued_at=to_time(row.queued_at),
        not_before=None if row.not_before is None else to_time(row.not_before),
        started_at=None if row.started_at is None else to_time(row.started_at),
        finished_at=None if row.finished_at is None else to_time(row.finished_at),
        retries=row.retries,
        dependencies=row.dependencies,
        dependents=dependents,
        worker_id=row.worker,
        partial=None if listed else row.partial,
        idempotency_key=row.idempotency_key,
        expires_at=None if expires_at is None else to_time(expires_at),
        attempt=row.number,
    )


def attempt_of(run: Run | None) -> Attempt:
    """What became of an attempt; None is an unknown one."""
    if run is None:
        return UNKNOWN_ATTEMPT
    return Attempt(run.state, run.row.id, run.number, run.confirm, run.worker)


def stored_job_of(row: Row, dependents: tuple[UUID, ...], args: bytes | None, result: bytes | None) -> StoredJob:
    """Everything about a job."""
    running = row.runs[-1] if row.runs and row.runs[-1].state is AttemptState.RUNNING else None
    artifacts = row.artifacts if running is None else tuple((running.artifacts or {}).values())
    return StoredJob(
        new=NewJob(
            id=row.id,
            type=row.key.type,
            arch=row.key.arch,
            channel=row.key.channel,
            args=args,
            dependencies=row.dependencies,
            priority=row.priority,
            not_before=None if row.not_before is None else to_time(row.not_before),
            timeout=None if row.policy.timeout is None else seconds(row.policy.timeout),
            max_retries=row.policy.max_retries,
            retry_on_failure=row.policy.retry_on_failure,
            retry_backoff=seconds(row.policy.retry_backoff),
            on_dependency_failure=OnDependencyFailure.FAIL
            if row.policy.fail_with_dependency
            else OnDependencyFailure.RUN,
            idempotency_key=row.idempotency_key,
            fingerprint=row.fingerprint,
            retention=None if row.policy.retention is None else seconds(row.policy.retention),
        ),
        job=job_of(row, dependents),
        attempts=tuple(
            StoredAttempt(
                token=run.token,
                number=run.number,
                state=run.state,
                confirm=run.confirm,
                lease=seconds(run.lease),
                digest=run.digest,
                worker_id=run.worker,
            )
            for run in row.runs
        ),
        result=result,
        failures=row.failures,
        uncounted_requeues=row.returns,
        artifacts=artifacts,
    )

"""`JobRecord`, `AttemptRecord` and `LeaseRecord`: rows of the database as records that transitions change.

The records satisfy the protocols of `composerd.driver.records`. They are read from named rows, whose columns the
statements in `sql/queries` name; times are integers in microseconds and become SQL's times again in what is written.
"""

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Self
from uuid import UUID

import msgspec

from composerd.driver import StoredAttempt, transitions
from composerd.driver.clock import microseconds, to_time
from composerd.driver.records import Policy
from composerd.models import (
    UNKNOWN_ATTEMPT,
    Artifact,
    Attempt,
    AttemptState,
    Job,
    JobState,
    Key,
    NewJob,
    OnDependencyFailure,
)


class JobRecord(msgspec.Struct):
    """A job. The fields up to `fingerprint` have the names of the columns in the statement `columns`."""

    id: UUID
    sequence: int
    position: int
    channel: str
    type: str
    arch: str
    """Empty if the job has none."""
    state: JobState
    priority: int
    queued_at: int
    not_before: int | None
    started_at: int | None
    finished_at: int | None
    retries: int
    failures: int
    uncounted_requeues: int
    pending: int
    attempt_number: int
    worker_id: UUID | None
    dependencies: Sequence[UUID]
    timeout: float | None
    max_retries: int
    retry_on_failure: int
    retry_backoff: float
    fail_with_dependency: bool
    retention: float | None
    idempotency_key: str | None
    fingerprint: bytes
    has_waiting_dependents: bool = False
    """True if its end has to be propagated. Only read together with a lock of the job."""
    unpropagated: bool = False
    """True if it has ended and its end still has to be propagated."""
    result_size: int | None = None
    """The size of the result with which it ends, in bytes; None before."""

    @classmethod
    def of(cls, row: Any) -> Self:
        """Return the record of a row with the columns of the statement `columns`."""
        record = cls(*_columns_of(row))
        record.state = JobState(record.state)
        record.fingerprint = bytes(record.fingerprint)
        return record

    @classmethod
    def locked(cls, row: Any) -> Self:
        """Return the record of a row of a job that is locked, so that it may be changed."""
        record = cls.of(row)
        record.has_waiting_dependents = row.has_waiting_dependents
        return record

    @classmethod
    def new(cls, job: NewJob, dependencies: Sequence[UUID], sequence: int, now: int) -> Self:
        """Return the record of a submitted job, which `transitions.submit` has to decide about yet."""
        return cls(
            id=job.id,
            sequence=sequence,
            position=sequence,
            channel=job.channel,
            type=job.type,
            arch=job.arch or "",
            state=JobState.WAITING,
            priority=job.priority,
            queued_at=now,
            not_before=transitions.starts_at(job, now),
            started_at=None,
            finished_at=None,
            retries=0,
            failures=0,
            uncounted_requeues=0,
            pending=0,
            attempt_number=0,
            worker_id=None,
            dependencies=dependencies,
            timeout=job.timeout,
            max_retries=job.max_retries,
            retry_on_failure=job.retry_on_failure,
            retry_backoff=job.retry_backoff,
            fail_with_dependency=job.on_dependency_failure is OnDependencyFailure.FAIL,
            retention=job.retention,
            idempotency_key=job.idempotency_key,
            fingerprint=job.fingerprint,
        )

    @property
    def key(self) -> Key:
        """The key under which the job is claimed."""
        return Key(self.channel, self.type, self.arch or None)

    @property
    def ready_position(self) -> tuple[int, int]:
        """The order of the job among the ready jobs of its key."""
        return (-self.priority, self.position)

    @property
    def expires_at(self) -> int | None:
        """The time after which the job is purged; None while it has not ended, or if it is kept."""
        if self.finished_at is None or self.retention is None:
            return None
        return self.finished_at + microseconds(self.retention)

    @property
    def policy(self) -> Policy:
        """The job's policy."""
        return Policy(
            timeout=None if self.timeout is None else microseconds(self.timeout),
            max_retries=self.max_retries,
            retry_on_failure=self.retry_on_failure,
            retry_backoff=microseconds(self.retry_backoff),
            fail_with_dependency=self.fail_with_dependency,
            retention=None if self.retention is None else microseconds(self.retention),
        )

    def job(self, dependents: Sequence[UUID] = (), partial: Any = None) -> Job:
        """Return the job as the contract describes it."""
        return Job(
            id=self.id,
            type=self.type,
            arch=self.arch or None,
            channel=self.channel,
            state=self.state,
            priority=self.priority,
            queued_at=to_time(self.queued_at),
            not_before=None if self.not_before is None else to_time(self.not_before),
            started_at=None if self.started_at is None else to_time(self.started_at),
            finished_at=None if self.finished_at is None else to_time(self.finished_at),
            retries=self.retries,
            dependencies=tuple(self.dependencies),
            dependents=tuple(dependents),
            worker_id=self.worker_id,
            partial=None if partial is None else bytes(partial),
            idempotency_key=self.idempotency_key,
            expires_at=None if self.expires_at is None else to_time(self.expires_at),
            attempt=self.attempt_number,
        )

    def submitted(self, args: bytes | None) -> NewJob:
        """Return the job as it was submitted."""
        return NewJob(
            id=self.id,
            type=self.type,
            arch=self.arch or None,
            channel=self.channel,
            args=args,
            dependencies=tuple(self.dependencies),
            priority=self.priority,
            not_before=None if self.not_before is None else to_time(self.not_before),
            timeout=self.timeout,
            max_retries=self.max_retries,
            retry_on_failure=self.retry_on_failure,
            retry_backoff=self.retry_backoff,
            on_dependency_failure=OnDependencyFailure.FAIL if self.fail_with_dependency else OnDependencyFailure.RUN,
            idempotency_key=self.idempotency_key,
            fingerprint=self.fingerprint,
            retention=self.retention,
        )

    def inserted(self, args_size: int) -> dict[str, Any]:
        """Return the row that the statement `insert_jobs` takes."""
        return {
            **self.saved(),
            "seq": self.sequence,
            "channel": self.channel,
            "type": self.type,
            "arch": self.arch,
            "priority": self.priority,
            "queued_at": to_time(self.queued_at),
            "started_at": None if self.started_at is None else to_time(self.started_at),
            "attempt": self.attempt_number,
            "worker_id": self.worker_id,
            "dependencies": self.dependencies,
            "timeout": self.timeout,
            "max_retries": self.max_retries,
            "retry_on_failure": self.retry_on_failure,
            "retry_backoff": self.retry_backoff,
            "fail_with_dependency": self.fail_with_dependency,
            "retention": self.retention,
            "idempotency_key": self.idempotency_key,
            "fingerprint": self.fingerprint,
            "args_size": args_size,
        }

    def saved(self) -> dict[str, Any]:
        """Return the row that the statement `save_jobs` takes: what may have changed."""
        expires_at = self.expires_at
        return {
            "id": self.id,
            "state": self.state,
            "place": self.position,
            "pending": self.pending,
            "not_before": None if self.not_before is None else to_time(self.not_before),
            "finished_at": None if self.finished_at is None else to_time(self.finished_at),
            "expires_at": None if expires_at is None else to_time(expires_at),
            "retries": self.retries,
            "failures": self.failures,
            "returns": self.uncounted_requeues,
            "unsettled": self.unpropagated,
            "result_size": self.result_size,
        }


_columns_of = attrgetter(*JobRecord.__struct_fields__[: JobRecord.__struct_fields__.index("fingerprint") + 1])


class AttemptRecord(msgspec.Struct):
    """An attempt, without its lease."""

    token_hash: UUID
    """The hash of its token: `composerd.driver.tokens`."""
    job_id: UUID
    number: int
    state: AttemptState
    confirm: bool
    """True if its worker promised to confirm the handover."""
    digest: bytes
    worker_id: UUID | None

    @classmethod
    def of(cls, row: Any, job_id: UUID) -> Self:
        """Return the record of a row of an attempt at a job."""
        state = AttemptState(row.attempt_state)
        return cls(row.token_hash, job_id, row.number, state, row.confirm, bytes(row.digest), row.attempt_worker_id)

    @property
    def running(self) -> bool:
        """True if the attempt has not ended."""
        return self.state is AttemptState.RUNNING


class LeaseRecord(msgspec.Struct):
    """The lease of a running attempt."""

    confirmed: bool
    deadline: int
    timeout_at: int | None
    lease: int
    handover: int | None

    @classmethod
    def of(cls, row: Any) -> Self:
        """Return the record of a row of the statement `read_leases`."""
        handover = None if row.handover is None else microseconds(row.handover)
        return cls(row.confirmed, row.deadline, row.timeout_at, microseconds(row.lease), handover)


def attempt_of(record: AttemptRecord | None) -> Attempt:
    """Return an attempt as the contract describes it; None stands for an unknown one."""
    if record is None:
        return UNKNOWN_ATTEMPT
    return Attempt(record.state, record.job_id, record.number, record.confirm, record.worker_id)


def stored_attempt_of(row: Any) -> StoredAttempt:
    """Return a remembered attempt from a row of the statement `dump_attempts`."""
    return StoredAttempt(
        token=row.token_hash,
        number=row.number,
        state=AttemptState(row.state),
        confirm=row.confirm,
        lease=row.lease,
        digest=bytes(row.digest),
        worker_id=row.worker_id,
    )


def artifact_of(row: Any) -> Artifact:
    """Return an artifact from a row of the statement `artifacts`."""
    return Artifact(row.name, row.size, row.sha256, row.place)


def artifact_row(job_id: UUID, artifact: Artifact) -> dict[str, Any]:
    """Return the row of an artifact that the statement `save_artifacts` takes."""
    return {
        "job_id": job_id,
        "name": artifact.name,
        "size": artifact.size,
        "sha256": artifact.sha256,
        "place": artifact.location,
    }


def edge_row(dependency: UUID, dependent: JobRecord, *, is_open: bool) -> dict[str, Any]:
    """Return the row of an edge that the statement `insert_edges` takes."""
    return {"dependency": dependency, "dependent": dependent.id, "seq": dependent.sequence, "open": is_open}

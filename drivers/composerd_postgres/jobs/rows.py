"""Jobs and attempts as the database has them, and as the contract's values. A row that is locked may be changed and saved (work)."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from composerd.driver import StoredAttempt
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


class Row(msgspec.Struct):
    """A job: the fields are those of the statement `columns`, in its order."""

    id: UUID
    seq: int
    place: int
    channel: str
    type: str
    arch: str
    state: str
    priority: int
    queued_at: datetime
    not_before: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None
    retries: int
    failures: int
    returns: int
    pending: int
    attempt: int
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
    unsettled: bool = False
    """Set when it ends while others wait for that."""
    open_edges: bool = False
    """Whether others wait for its end; known of a row that is locked."""
    next_place: int | None = None
    """Where it goes if it comes back; known of a row that was locked for that."""

    @property
    def key(self) -> Key:
        """The key under which it is claimed."""
        return Key(self.channel, self.type, self.arch or None)

    @property
    def ended(self) -> bool:
        """Whether it has left the queue for good."""
        return self.state in _ENDED


_ENDED = frozenset(state.value for state in JobState if state.ended)

WIDTH = 28
"""How many columns a row has."""


def row_of(record: Sequence[Any]) -> Row:
    """A row from its columns, which come first in a record."""
    return Row(*record[:WIDTH])


def locked_row_of(record: Sequence[Any]) -> Row:
    """A row from a record of a statement that locks: the time, the columns, whether edges are open, a place."""
    row = Row(*record[1 : WIDTH + 1])
    row.open_edges, row.next_place = record[WIDTH + 1 : WIDTH + 3]
    return row


class Run(msgspec.Struct):
    """An attempt."""

    token: UUID
    job_id: UUID
    number: int
    state: str
    confirm: bool
    digest: bytes
    worker_id: UUID | None

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self.state == AttemptState.RUNNING.value


def run_of(record: Sequence[Any]) -> Run:
    """An attempt from its columns."""
    token, job_id, number, state, confirm, digest, worker_id = record
    return Run(token, job_id, number, state, confirm, bytes(digest), worker_id)


def attempt_of(run: Run | None) -> Attempt:
    """What became of an attempt; None is an unknown one."""
    if run is None:
        return UNKNOWN_ATTEMPT
    return Attempt(AttemptState(run.state), run.job_id, run.number, run.confirm, run.worker_id)


def job_of(row: Row, dependents: Sequence[UUID] = (), partial: Any = None) -> Job:
    """The job."""
    return Job(
        id=row.id,
        type=row.type,
        arch=row.arch or None,
        channel=row.channel,
        state=JobState(row.state),
        priority=row.priority,
        queued_at=utc(row.queued_at),
        not_before=None if row.not_before is None else utc(row.not_before),
        started_at=None if row.started_at is None else utc(row.started_at),
        finished_at=None if row.finished_at is None else utc(row.finished_at),
        retries=row.retries,
        dependencies=tuple(row.dependencies),
        dependents=tuple(dependents),
        worker_id=row.worker_id,
        partial=None if partial is None else bytes(partial),
        idempotency_key=row.idempotency_key,
        expires_at=None if row.expires_at is None else utc(row.expires_at),
        attempt=row.attempt,
    )


def new_job_of(row: Row, args: bytes | None) -> NewJob:
    """What was submitted."""
    return NewJob(
        id=row.id,
        type=row.type,
        arch=row.arch or None,
        channel=row.channel,
        args=args,
        dependencies=tuple(row.dependencies),
        priority=row.priority,
        not_before=None if row.not_before is None else utc(row.not_before),
        timeout=row.timeout,
        max_retries=row.max_retries,
        retry_on_failure=row.retry_on_failure,
        retry_backoff=row.retry_backoff,
        on_dependency_failure=OnDependencyFailure.FAIL if row.fail_with_dependency else OnDependencyFailure.RUN,
        idempotency_key=row.idempotency_key,
        fingerprint=bytes(row.fingerprint),
        retention=row.retention,
    )


def stored_attempt_of(record: Sequence[Any]) -> StoredAttempt:
    """A remembered attempt, from a record of `dump_attempts`."""
    token, _, number, state, confirm, lease, digest, worker_id = record
    return StoredAttempt(
        token=token,
        number=number,
        state=AttemptState(state),
        confirm=confirm,
        lease=lease,
        digest=bytes(digest),
        worker_id=worker_id,
    )


def artifact_of(record: Sequence[Any]) -> Artifact:
    """An artifact from its columns but the job."""
    name, size, sha256, place = record
    return Artifact(name, size, sha256, place)


def utc(time: datetime) -> datetime:
    """A time of the database, which may come in the session's zone."""
    return time.astimezone(UTC)


def later(time: datetime, seconds: float) -> datetime:
    """A time so many seconds after another, to the microsecond like the database's."""
    return time + timedelta(microseconds=round(seconds * 1_000_000))


def artifact_record(job_id: UUID, artifact: Any) -> dict[str, Any]:
    """An artifact as `save_artifacts` takes it."""
    return {
        "job_id": job_id,
        "name": artifact.name,
        "size": artifact.size,
        "sha256": artifact.sha256,
        "place": artifact.location,
    }

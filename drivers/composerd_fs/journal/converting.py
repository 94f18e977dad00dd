"""The one module that maps the fields of jobs, attempts and files to entries and back.

Where a UUID is converted for every job, its `int` is, because `UUID.bytes` is a call of Python.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple
from uuid import UUID

from composerd.driver import StoredJob
from composerd.driver.clock import from_time, microseconds
from composerd.driver.records import Policy
from composerd.driver.transitions import starts_at
from composerd.models import Artifact, AttemptState, JobState, Key, NewJob, OnDependencyFailure
from composerd_fs.journal.entries import (
    ArtifactFields,
    AttemptFields,
    JobFields,
    KeptEntry,
    PackedJob,
    PackedRest,
    Payload,
    RestoredEntry,
    ShapeFields,
    StoredPayload,
)
from composerd_fs.journal.frames import location_of, span_of
from composerd_fs.state.edges import Dependents
from composerd_fs.state.interning import Interning
from composerd_fs.state.job import AttemptRecord, JobRecord

Store = Callable[[bytes], Payload]
"""Puts a payload into the frame that is being written, and returns the value that an entry has in its place."""


# Submitted jobs, and jobs from another storage.


def job_fields(job: NewJob, dependencies: tuple[UUID, ...], now: int, store: Store) -> JobFields:
    """Return the fields of a submitted job, with its times on the driver's clock. Its args are stored."""
    return JobFields(
        job.id,
        job.type,
        job.arch,
        job.channel,
        None if job.args is None else store(job.args),
        dependencies,
        job.priority,
        starts_at(job, now),
        None if job.timeout is None else microseconds(job.timeout),
        job.max_retries,
        job.retry_on_failure,
        microseconds(job.retry_backoff),
        job.on_dependency_failure is OnDependencyFailure.FAIL,
        None if job.retention is None else microseconds(job.retention),
        job.idempotency_key,
        job.fingerprint,
    )


def restored_entry(stored: StoredJob, now: int, store: Store) -> RestoredEntry:
    """Return the entry of a job from another storage. Its args and its result are stored."""
    job = stored.job
    return RestoredEntry(
        now,
        job_fields(stored.new, stored.new.dependencies, 0, store),
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


def submitted_record(fields: JobFields, sequence: int, queued_at: int, interning: Interning) -> JobRecord:
    """Return the record of a new job as it was submitted, without its args."""
    return JobRecord(
        fields.id,
        sequence,
        interning.key(fields),
        interning.policy(fields),
        fields.priority,
        queued_at,
        dependencies=fields.dependencies,
        not_before=fields.not_before,
        idempotency_key=fields.idempotency_key,
        fingerprint=fields.fingerprint,
    )


def add_history(job: JobRecord, entry: RestoredEntry | KeptEntry) -> None:
    """Give a record the history of its job: times, counts, attempts and files. The caller sets the state."""
    job.started_at, job.finished_at = entry.started_at, entry.finished_at
    job.retries, job.failures, job.uncounted_requeues = entry.retries, entry.failures, entry.uncounted_requeues
    job.worker_id = entry.worker_id
    add_attempts(job, entry.attempts, entry.artifacts)
    if JobState(entry.state).ended:
        job.artifacts = tuple([artifact_of(one) for one in entry.artifacts])


# Parts.


def artifact_fields(artifact: Artifact) -> ArtifactFields:
    """Return the fields of a file."""
    return ArtifactFields(artifact.name, artifact.size, bytes.fromhex(artifact.sha256), artifact.location)


def artifact_of(fields: ArtifactFields) -> Artifact:
    """Return the file that has these fields."""
    return Artifact(fields.name, fields.size, fields.sha256.hex(), fields.location)


def attempt_fields(attempt: AttemptRecord) -> AttemptFields:
    """Return the fields of an attempt."""
    return AttemptFields(
        attempt.token,
        attempt.number,
        attempt.state.value,
        attempt.confirm,
        attempt.digest,
        attempt.lease,
        attempt.worker_id,
    )


def add_attempts(job: JobRecord, attempts: list[AttemptFields], artifacts: Sequence[ArtifactFields]) -> None:
    """Give a record its attempts. A running one gets the files, and the rest of its job's timeout."""
    found = []
    for fields in attempts:
        attempt = AttemptRecord(fields.token, job, fields.lease, None, fields.worker_id, fields.confirm)
        attempt.number = fields.number
        attempt.state = AttemptState(fields.state)
        attempt.digest = fields.digest
        if attempt.state is AttemptState.RUNNING:
            attempt.artifacts = {one.name: artifact_of(one) for one in artifacts}
            attempt.confirmed = bool(artifacts)  # its worker has called at least to attach them
            if job.policy.timeout is not None and job.started_at is not None:
                attempt.timeout_at = job.started_at + job.policy.timeout
        job.attempt_number = max(job.attempt_number, attempt.number)
        found.append(attempt)
    job.attempts = tuple(found)


def _stored(payload: Payload | None) -> StoredPayload | None:
    return span_of(payload) if isinstance(payload, int) else payload


def payload_of(stored: StoredPayload | None) -> Payload | None:
    """Return a payload that is in a checkpoint or in an archived job."""
    return location_of(stored) if isinstance(stored, tuple) else stored


# Checkpoints.


def kept_entry(job: JobRecord) -> KeptEntry:
    """Return the entry of a job in a checkpoint."""
    return KeptEntry(
        JobFields(
            job.id,
            job.key.type,
            job.key.arch,
            job.key.channel,
            None,
            job.dependencies,
            job.priority,
            job.not_before,
            *job.policy,
            job.idempotency_key,
            job.fingerprint,
        ),
        job.sequence,
        job.position,
        job.state.value,
        job.queued_at,
        job.started_at,
        job.finished_at,
        job.retries,
        job.failures,
        job.uncounted_requeues,
        job.worker_id,
        _stored(job.args),
        _stored(job.result),
        [attempt_fields(attempt) for attempt in job.attempts],
        [artifact_fields(artifact) for artifact in job.files],
        list(job.dependents) if job.dependents else [],
    )


def kept_record(entry: KeptEntry, interning: Interning) -> JobRecord:
    """Return the record of a job in a checkpoint. The caller finds out which jobs wait for which."""
    job = submitted_record(entry.job, entry.sequence, entry.queued_at, interning)
    job.position = entry.position
    job.state = JobState(entry.state)
    job.args, job.result = payload_of(entry.args), payload_of(entry.result)
    if entry.dependents:
        job.dependents = Dependents(entry.dependents)
    add_history(job, entry)
    return job


# Archived jobs.


class Shape(NamedTuple):
    """Fields that many archived jobs have in common."""

    key: Key
    policy: Policy
    priority: int
    state: JobState
    attempt: AttemptState
    """The state of the only attempt; `unknown` if the job had none, or if `PackedRest` has its attempts."""
    lease: int
    confirm: bool


def shape_fields(shape: Shape) -> ShapeFields:
    """Return the fields of a shape in a checkpoint."""
    return ShapeFields(
        shape.key.type,
        shape.key.arch,
        shape.key.channel,
        *shape.policy,
        shape.priority,
        shape.state.value,
        shape.attempt.value,
        shape.lease,
        shape.confirm,
    )


def shape_of_fields(fields: ShapeFields, interning: Interning) -> Shape:
    """Return the shape that has these fields. The jobs that have it are not counted."""
    return Shape(
        interning.key(fields, 0),
        interning.policy(fields, 0),
        fields.priority,
        JobState(fields.state),
        AttemptState(fields.attempt),
        fields.lease,
        fields.confirm,
    )


def shape_of(job: JobRecord) -> Shape:
    """Return the shape of a job that has ended."""
    only = _only_attempt(job)
    if only is None:
        return Shape(job.key, job.policy, job.priority, job.state, AttemptState.UNKNOWN, 0, confirm=False)
    return Shape(job.key, job.policy, job.priority, job.state, only.state, only.lease, only.confirm)


def packed(job: JobRecord, shape: int) -> PackedJob:
    """Return a job that has ended as it is archived, with the number of its shape."""
    assert job.finished_at is not None, "only a job that has ended is archived"
    only = _only_attempt(job)
    return PackedJob(
        job.sequence,
        shape,
        job.id.int.to_bytes(16),
        job.queued_at,
        job.finished_at - job.queued_at,
        None if job.started_at is None else job.started_at - job.queued_at,
        _stored(job.args),
        _stored(job.result),
        None if only is None else only.token.int.to_bytes(16),
        b"" if only is None else only.digest,
        None if job.worker_id is None else job.worker_id.int.to_bytes(16),
        _packed_rest(job, only),
    )


def _only_attempt(job: JobRecord) -> AttemptRecord | None:
    """Return the only attempt that a job has had, if its number and its worker are the job's."""
    if len(job.attempts) == job.attempt_number == 1 and job.worker_id == job.attempts[0].worker_id:
        return job.attempts[0]
    return None


def _packed_rest(job: JobRecord, only: AttemptRecord | None) -> PackedRest | None:
    plain = only is not None or (not job.attempts and job.attempt_number == 0 and job.worker_id is None)
    if plain and not (
        job.retries
        or job.failures
        or job.uncounted_requeues
        or job.not_before is not None
        or job.dependencies
        or job.dependents
        or job.idempotency_key is not None
        or job.fingerprint
        or job.artifacts
    ):
        return None
    return PackedRest(
        job.attempt_number,
        job.retries,
        job.failures,
        job.uncounted_requeues,
        job.not_before,
        job.dependencies,
        list(job.dependents) if job.dependents else [],
        job.idempotency_key,
        job.fingerprint,
        [artifact_fields(one) for one in job.artifacts],
        [] if plain else [attempt_fields(attempt) for attempt in job.attempts],
    )


def unpacked(packed: PackedJob, shape: Shape) -> JobRecord:
    """Return the record of an archived job. Its position is its sequence, because it will not become ready again."""
    job = JobRecord(UUID(bytes=packed.id), packed.sequence, shape.key, shape.policy, shape.priority, packed.queued_at)
    job.position = packed.sequence
    job.state = shape.state
    job.finished_at = packed.queued_at + packed.finished
    job.started_at = None if packed.started is None else packed.queued_at + packed.started
    job.args, job.result = payload_of(packed.args), payload_of(packed.result)
    job.worker_id = None if packed.worker_id is None else UUID(bytes=packed.worker_id)
    if packed.token is not None:
        only = AttemptRecord(UUID(bytes=packed.token), job, shape.lease, None, job.worker_id, shape.confirm)
        only.number, only.state, only.digest = 1, shape.attempt, packed.digest
        job.attempts, job.attempt_number = (only,), 1
    rest = packed.rest
    if rest is not None:
        job.attempt_number = rest.attempt_number
        job.retries, job.failures, job.uncounted_requeues = rest.retries, rest.failures, rest.uncounted_requeues
        job.not_before = rest.not_before
        job.dependencies = rest.dependencies
        job.dependents = Dependents(rest.dependents) if rest.dependents else None
        job.idempotency_key, job.fingerprint = rest.idempotency_key, rest.fingerprint
        job.artifacts = tuple([artifact_of(one) for one in rest.artifacts])
        if rest.attempts:
            add_attempts(job, rest.attempts, ())
    return job

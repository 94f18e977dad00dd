"""`JobRecord` and `AttemptRecord`: a job and its attempts as a shelf keeps them, encoded as MessagePack.

The fields satisfy the protocols of `composerd.driver.records`. Where a field is encoded under an older name, that name
is part of the stored format.
"""

from typing import Self
from uuid import UUID

import msgspec

from composerd.driver import transitions
from composerd.driver.clock import from_time, microseconds, seconds, to_time
from composerd.driver.records import Policy
from composerd.driver.values import StoredAttempt, StoredJob
from composerd.models import (
    MAX_REMEMBERED_TOKENS,
    Artifact,
    Attempt,
    AttemptState,
    Claim,
    Job,
    JobState,
    NewJob,
    PayloadKind,
)


class AttemptRecord(msgspec.Struct):
    """A remembered attempt."""

    token: UUID
    number: int
    lease_seconds: float = msgspec.field(name="lease")
    handover_seconds: float | None = msgspec.field(name="handover")
    worker_id: UUID | None
    deadline: int
    timeout_at: int | None
    confirmed: bool
    confirm: bool
    """True if its worker promised to confirm the handover."""
    state: AttemptState = AttemptState.RUNNING
    digest: bytes = b""
    artifacts: dict[str, Artifact] = {}

    @classmethod
    def claimed(cls, claim: Claim) -> Self:
        """Return the attempt of a claim; `transitions.begin` lets it begin."""
        return cls(
            token=claim.token,
            number=0,
            lease_seconds=claim.lease,
            handover_seconds=claim.handover,
            worker_id=claim.worker_id,
            deadline=0,
            timeout_at=None,
            confirmed=False,
            confirm=claim.handover is not None,
        )

    @property
    def lease(self) -> int:
        """Time that the attempt lives without a heartbeat, in microseconds."""
        return microseconds(self.lease_seconds)

    @property
    def handover(self) -> int | None:
        """Time that the attempt lives unconfirmed, in microseconds; None if no confirmation was promised."""
        return None if self.handover_seconds is None else microseconds(self.handover_seconds)

    def attempt(self, job_id: UUID) -> Attempt:
        """Return the attempt as the contract describes it."""
        confirmed = self.confirmed and self.state is AttemptState.RUNNING
        return Attempt(self.state, job_id, self.number, self.confirm, self.worker_id, confirmed)


class JobRecord(msgspec.Struct):
    """A stored job.

    A shelf stores `encoded` and finds it again by the properties that `Shelf` names; no other field concerns it.
    """

    new: NewJob
    """The job as submitted, without args. A dependency whose key an existing job has is replaced by that job."""
    sequence: int = msgspec.field(name="number")
    """A number that grows with every submission; no two jobs have the same."""
    position: int = msgspec.field(name="place")
    """The job's position among the ready jobs of its priority: the lowest is claimed first."""
    queued_at: int
    state: JobState = JobState.WAITING
    pending: int = 0
    """The number of its dependencies that have not ended."""
    not_before: int | None = None
    started_at: int | None = None
    finished_at: int | None = None
    retries: int = 0
    failures: int = 0
    uncounted_requeues: int = msgspec.field(name="returns", default=0)
    attempt_number: int = msgspec.field(name="attempt", default=0)
    worker_id: UUID | None = None
    partial: bytes | None = None
    attempts: list[AttemptRecord] = []
    """The latest attempts, oldest first."""
    artifacts: dict[str, Artifact] = {}
    has_args: bool = False
    """True if it was submitted with args; False also if its record is from before there was this field."""
    unpropagated: tuple[int, int] | None = None
    """Range of sequences: its end has to be propagated to the dependents after the first one up to the second one."""
    args_size: int = 0
    """The size of its args in bytes; 0 also if its record is from before sizes were counted."""
    result_size: int = 0
    """The size of its result in bytes; 0 also if its record is from before sizes were counted."""

    @classmethod
    def decoded(cls, encoded: bytes) -> Self:
        """Return the record that `encoded` stands for. Raises `msgspec.MsgspecError` if it is damaged."""
        return msgspec.msgpack.decode(encoded, type=cls)

    @property
    def encoded(self) -> bytes:
        """The record as bytes."""
        return msgspec.msgpack.encode(self)

    @property
    def id(self) -> UUID:
        """The job's id."""
        return self.new.id

    @property
    def channel(self) -> str:
        """The job's channel."""
        return self.new.channel

    @property
    def policy(self) -> Policy:
        """The job's policy."""
        return Policy.of(self.new)

    @property
    def fingerprint(self) -> bytes:
        """The digest of what was submitted under the job's idempotency key."""
        return self.new.fingerprint

    @property
    def dependencies(self) -> tuple[UUID, ...]:
        """The jobs that it depends on, as named, repetitions included."""
        return self.new.dependencies

    @property
    def distinct_dependencies(self) -> list[UUID]:
        """The jobs that it depends on, each once, in the order in which it names them."""
        return list(dict.fromkeys(self.new.dependencies))

    @property
    def tokens(self) -> list[UUID]:
        """The tokens that stand for its attempts."""
        return [attempt.token for attempt in self.attempts]

    def has(self, kind: PayloadKind) -> bool:
        """Return True if a payload of this kind has to be stored."""
        return self.has_args if kind is PayloadKind.ARGS else self.state.has_result

    @property
    def due_at(self) -> int | None:
        """Time at which something is due for the job: its start, the end of its attempt, or at once the propagation.

        None if nothing is due.
        """
        if self.unpropagated is not None:
            return 0
        if self.state is JobState.WAITING and self.pending == 0:
            return self.not_before
        return None if self.running is None else transitions.expires_at(self.running)

    @property
    def expires_at(self) -> int | None:
        """Time at which its retention is over; None before it has ended, or if it is kept until it is deleted."""
        if self.finished_at is None or self.new.retention is None:
            return None
        return self.finished_at + microseconds(self.new.retention)

    @property
    def running(self) -> AttemptRecord | None:
        """The running attempt, if there is one."""
        return self.attempts[-1] if self.state is JobState.RUNNING else None

    def with_token(self, token: UUID) -> AttemptRecord:
        """Return the attempt that one of its tokens stands for."""
        return next(attempt for attempt in self.attempts if attempt.token == token)

    def remember(self, attempt: AttemptRecord) -> None:
        """Add an attempt and forget the oldest ones beyond `MAX_REMEMBERED_TOKENS`."""
        self.attempts = [*self.attempts, attempt][-MAX_REMEMBERED_TOKENS:]

    def job(self, dependents: tuple[UUID, ...] = (), *, listed: bool = False) -> Job:
        """Return the job as the contract describes it; as `list` shows it if `listed` is true."""
        new = self.new
        return Job(
            id=new.id,
            type=new.type,
            arch=new.arch,
            channel=new.channel,
            state=self.state,
            priority=new.priority,
            queued_at=to_time(self.queued_at),
            not_before=None if self.not_before is None else to_time(self.not_before),
            started_at=None if self.started_at is None else to_time(self.started_at),
            finished_at=None if self.finished_at is None else to_time(self.finished_at),
            retries=self.retries,
            dependencies=() if listed else new.dependencies,
            dependents=dependents,
            worker_id=self.worker_id,
            partial=None if listed else self.partial,
            idempotency_key=new.idempotency_key,
            expires_at=None if self.expires_at is None else to_time(self.expires_at),
            attempt=self.attempt_number,
        )

    def attached(self) -> tuple[Artifact, ...]:
        """Return its artifacts by name: those of the running attempt, or of the job that ended."""
        files = self.artifacts if self.running is None else self.running.artifacts
        return tuple(files[name] for name in sorted(files))

    def stored(self, dependents: tuple[UUID, ...], args: bytes | None, result: bytes | None) -> StoredJob:
        """Return everything about the job, for another storage."""
        not_before = None if self.not_before is None else to_time(self.not_before)
        return StoredJob(
            new=msgspec.structs.replace(self.new, args=args, not_before=not_before),
            job=self.job(dependents),
            attempts=tuple(
                StoredAttempt(
                    token=attempt.token,
                    number=attempt.number,
                    state=attempt.state,
                    confirm=attempt.confirm,
                    lease=attempt.lease_seconds,
                    digest=attempt.digest,
                    worker_id=attempt.worker_id,
                )
                for attempt in self.attempts
            ),
            result=result,
            failures=self.failures,
            uncounted_requeues=self.uncounted_requeues,
            artifacts=self.attached(),
        )

    @classmethod
    def loaded(cls, stored: StoredJob, sequence: int, now: int) -> Self:
        """Return the record of a job from another storage; its running attempt has a full lease."""
        job = stored.job
        files = {one.name: one for one in stored.artifacts}
        record = cls(
            new=msgspec.structs.replace(stored.new, args=None, not_before=None),
            sequence=sequence,
            position=sequence,
            queued_at=from_time(job.queued_at),
            state=job.state,
            not_before=None if job.not_before is None else from_time(job.not_before),
            started_at=None if job.started_at is None else from_time(job.started_at),
            finished_at=None if job.finished_at is None else from_time(job.finished_at),
            retries=job.retries,
            failures=stored.failures,
            uncounted_requeues=stored.uncounted_requeues,
            attempt_number=job.attempt,
            worker_id=job.worker_id,
            artifacts=files if job.state.ended else {},
            has_args=stored.new.args is not None,
            args_size=len(stored.new.args or b""),
            result_size=len(stored.result or b""),
        )
        timeout = record.policy.timeout
        timeout_at = None if timeout is None or record.started_at is None else record.started_at + timeout
        confirmed = bool(files)  # a worker has called at least to attach them
        record.attempts = [
            AttemptRecord(
                token=one.token,
                number=one.number,
                lease_seconds=one.lease,
                handover_seconds=None,
                worker_id=one.worker_id,
                deadline=now,
                timeout_at=timeout_at,
                confirmed=confirmed,
                confirm=one.confirm,
                state=one.state,
                digest=one.digest,
                artifacts=files if one.state is AttemptState.RUNNING else {},
            )
            for one in stored.attempts
        ]
        if record.running is not None:
            transitions.resume(record.running, now)
        return record


def due_in(due_at: int | None, now: int) -> float | None:
    """Return the seconds until something is due, 0 if it is due already, or None if nothing is."""
    return None if due_at is None else max(seconds(due_at - now), 0.0)

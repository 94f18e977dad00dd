"""`Record`: all that is known of a job but its payloads, as a shelf keeps it. Times are microseconds on the driver's clock."""

from typing import Self
from uuid import UUID

import msgspec

from composerd.driver.clock import from_time, microseconds, seconds, to_time
from composerd.driver.contract import StoredAttempt, StoredJob
from composerd.models import MAX_REMEMBERED_TOKENS, Artifact, Attempt, AttemptState, Claim, Job, JobState, NewJob


class Held(msgspec.Struct):
    """A remembered attempt."""

    token: UUID
    number: int
    lease: float
    handover: float | None
    worker_id: UUID | None
    deadline: int
    timeout_at: int | None
    confirmed: bool
    confirm: bool
    state: AttemptState = AttemptState.RUNNING
    digest: bytes = b""
    artifacts: dict[str, Artifact] = {}

    def renew(self, now: int) -> None:
        """Begin the lease anew; the attempt is confirmed."""
        self.confirmed = True
        self.deadline = now + microseconds(self.lease)

    @property
    def seen(self) -> Attempt:
        """What is said of it, but whose it is."""
        return Attempt(self.state, None, self.number, self.confirm, self.worker_id)


class Record(msgspec.Struct):
    """A job. A shelf keeps `encoded`, and finds it again by what is documented here; all else is not its concern."""

    new: NewJob
    """As submitted, without args; with the existing jobs in the place of those that turned out to be them."""
    number: int
    """Grows with every submission; no two jobs have the same."""
    place: int
    """Among ready jobs of one priority the lowest is first."""
    queued_at: int
    state: JobState = JobState.WAITING
    pending: int = 0
    """How many of its dependencies have not ended."""
    not_before: int | None = None
    started_at: int | None = None
    finished_at: int | None = None
    retries: int = 0
    failures: int = 0
    returns: int = 0
    attempt: int = 0
    worker_id: UUID | None = None
    partial: bytes | None = None
    attempts: list[Held] = []
    """The latest attempts, oldest first."""
    artifacts: dict[str, Artifact] = {}

    @classmethod
    def decoded(cls, encoded: bytes) -> Self:
        """A record from its bytes."""
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
    def tokens(self) -> list[UUID]:
        """The tokens that stand for its attempts."""
        return [held.token for held in self.attempts]

    @property
    def dependencies(self) -> list[UUID]:
        """The jobs that it depends on, each once."""
        return list(dict.fromkeys(self.new.dependencies))

    @property
    def due_at(self) -> int | None:
        """When `advance` has to look at it: its time has come, or its attempt lapses."""
        if self.state is JobState.WAITING and self.pending == 0:
            return self.not_before
        if (held := self.running) is not None:
            return held.deadline if held.timeout_at is None else min(held.deadline, held.timeout_at)
        return None

    @property
    def expires_at(self) -> int | None:
        """When `purge` may forget it."""
        if self.finished_at is None or self.new.retention is None:
            return None
        return self.finished_at + microseconds(self.new.retention)

    @property
    def running(self) -> Held | None:
        """The attempt that runs."""
        return self.attempts[-1] if self.state is JobState.RUNNING else None

    def held(self, token: UUID) -> Held:
        """The attempt that one of its tokens stands for."""
        return next(held for held in self.attempts if held.token == token)

    def begin(self, claim: Claim, now: int) -> None:
        """Let an attempt begin."""
        self.state = JobState.RUNNING
        self.attempt += 1
        self.started_at, self.worker_id = now, claim.worker_id
        lives = claim.lease if claim.handover is None else claim.handover
        held = Held(
            token=claim.token,
            number=self.attempt,
            lease=claim.lease,
            handover=claim.handover,
            worker_id=claim.worker_id,
            deadline=now + microseconds(lives),
            timeout_at=None if self.new.timeout is None else now + microseconds(self.new.timeout),
            confirmed=claim.handover is None,
            confirm=claim.handover is not None,
        )
        self.attempts = [*self.attempts, held][-MAX_REMEMBERED_TOKENS:]

    def begin_anew(self, now: int) -> None:
        """The storage was opened: an attempt that runs has a full lease, over its job's timeout too."""
        if (held := self.running) is not None:
            held.renew(now)
            if held.timeout_at is not None:
                held.timeout_at = max(held.timeout_at, held.deadline)

    def job(self, dependents: tuple[UUID, ...] = (), *, listed: bool = False) -> Job:
        """The job as the contract has it."""
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
            dependencies=new.dependencies,
            dependents=dependents,
            worker_id=self.worker_id,
            partial=None if listed else self.partial,
            idempotency_key=new.idempotency_key,
            expires_at=None if self.expires_at is None else to_time(self.expires_at),
            attempt=self.attempt,
        )

    def attached(self) -> tuple[Artifact, ...]:
        """Its artifacts, by name: of the attempt that runs, or of the job that ended."""
        files = self.artifacts if self.running is None else self.running.artifacts
        return tuple(files[name] for name in sorted(files))

    def stored(self, dependents: tuple[UUID, ...], args: bytes | None, result: bytes | None) -> StoredJob:
        """Everything, for another storage."""
        not_before = None if self.not_before is None else to_time(self.not_before)
        return StoredJob(
            new=msgspec.structs.replace(self.new, args=args, not_before=not_before),
            job=self.job(dependents),
            attempts=tuple(
                StoredAttempt(
                    token=held.token,
                    number=held.number,
                    state=held.state,
                    confirm=held.confirm,
                    lease=held.lease,
                    digest=held.digest,
                    worker_id=held.worker_id,
                )
                for held in self.attempts
            ),
            result=result,
            failures=self.failures,
            returns=self.returns,
            artifacts=self.attached(),
        )

    @classmethod
    def loaded(cls, stored: StoredJob, number: int, now: int) -> Self:
        """A job from another storage; an attempt that runs has a full lease."""
        job = stored.job
        files = {one.name: one for one in stored.artifacts}
        record = cls(
            new=msgspec.structs.replace(stored.new, args=None, not_before=None),
            number=number,
            place=number,
            queued_at=from_time(job.queued_at),
            state=job.state,
            not_before=None if job.not_before is None else from_time(job.not_before),
            started_at=None if job.started_at is None else from_time(job.started_at),
            finished_at=None if job.finished_at is None else from_time(job.finished_at),
            retries=job.retries,
            failures=stored.failures,
            returns=stored.returns,
            attempt=job.attempt,
            worker_id=job.worker_id,
            artifacts=files if job.state.ended else {},
        )
        for one in stored.attempts:
            timeout_at = None
            if job.started_at is not None and stored.new.timeout is not None:
                timeout_at = from_time(job.started_at) + microseconds(stored.new.timeout)
            running = one.state is AttemptState.RUNNING
            held = Held(
                token=one.token,
                number=one.number,
                lease=one.lease,
                handover=None,
                worker_id=one.worker_id,
                deadline=now,
                timeout_at=timeout_at,
                confirmed=True,
                confirm=one.confirm,
                state=one.state,
                digest=one.digest,
                artifacts=files if running else {},
            )
            record.attempts.append(held)
        record.begin_anew(now)
        return record


def due_in(due_at: int | None, now: int) -> float | None:
    """Seconds until something is due; 0 if it is."""
    return None if due_at is None else max(seconds(due_at - now), 0.0)

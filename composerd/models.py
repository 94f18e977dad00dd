"""Jobs, attempts and the other values that the APIs, the queue and the drivers exchange, without behaviour or I/O.

Durations are seconds (float). Times are aware `datetime`s in UTC, on the clock of the storage. Ids and tokens are
UUIDs that composerd generates, not the drivers. Args and results are UTF-8 JSON as bytes, which only the APIs check
and parse.
"""

import enum
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import msgspec

from composerd.artifact_values import Difference, Exceeded, ListedArtifact

# Drivers find all values of the contract here, these too.
from composerd.worker_values import Worker as Worker  # noqa: PLC0414
from composerd.worker_values import WorkerCursor as WorkerCursor  # noqa: PLC0414
from composerd.worker_values import WorkerPage as WorkerPage  # noqa: PLC0414

MAX_SHOWN_DEPENDENTS = 1000
"""Maximum number of dependents that a job shows; `Driver.dependents` has all of them."""

MAX_STEP = 1000
"""Maximum number of dependents that one call of a driver updates because a job has ended."""

MAX_REMEMBERED_TOKENS = 16
"""Number of a job's latest tokens that a driver remembers."""

MAX_UNCOUNTED_REQUEUES = 10
"""Maximum number of successive requeues of a job that do not count as retries."""

MAX_RETRY_BACKOFF = 3600.0
"""Maximum backoff in seconds before a failed job is tried again."""


class JobState(enum.StrEnum):
    """The state of a job. specs/state-machine.md describes every transition."""

    __hash__ = str.__hash__  # the hash of an enum is a Python function, which makes dictionaries slow

    WAITING = "waiting"
    """Waits until its dependencies have ended and its time has come."""
    READY = "ready"
    """Can be claimed by a worker."""
    RUNNING = "running"
    """Has an attempt that has not ended."""
    FINISHED = "finished"
    """Ended with a result that has no `job_error`."""
    FAILED = "failed"
    """Ended with a result whose `job_error` is not null."""
    CANCELED = "canceled"
    """Ended by a cancel, of the job itself or of a dependency."""

    @property
    def ended(self) -> bool:
        """True if the job is finished, failed or canceled."""
        return self in _ENDED

    @property
    def has_result(self) -> bool:
        """True if the job is finished or failed, so that it has a result."""
        return self in _WITH_RESULT


_ENDED = frozenset({JobState.FINISHED, JobState.FAILED, JobState.CANCELED})
_WITH_RESULT = frozenset({JobState.FINISHED, JobState.FAILED})


class OnDependencyFailure(enum.StrEnum):
    """The effect of a failed dependency on a job: it runs anyway, or fails too."""

    RUN = "run"
    FAIL = "fail"


class Key(NamedTuple):
    """The channel, type and arch of jobs, by which a claim selects them exactly.

    Jobs without an arch have a key with the arch None. A claim for a worker names both keys: with its arch and with
    None.
    """

    channel: str
    type: str
    arch: str | None


class NewJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job to store."""

    id: UUID
    type: str
    arch: str | None = None
    channel: str = ""
    args: bytes | None = None
    dependencies: tuple[UUID, ...] = ()
    """In the order of the submission, including repetitions. A job of the same submission has to come earlier in it."""
    priority: int = 0
    not_before: datetime | float | None = None
    """The earliest start: a time on the clock of the storage, or seconds from now."""
    timeout: float | None = None
    """Maximum duration of one attempt."""
    max_retries: int = 2
    """Maximum number of times that the job is tried again after its worker was lost."""
    retry_on_failure: int = 0
    """Maximum number of times that the job is tried again after a failed outcome."""
    retry_backoff: float = 10.0
    """Seconds until the first retry after a failed outcome; doubled for each further one, up to MAX_RETRY_BACKOFF."""
    on_dependency_failure: OnDependencyFailure = OnDependencyFailure.RUN
    idempotency_key: str | None = None
    fingerprint: bytes = b""
    """Digest of the submitted args and fields, except dependencies, to recognize a repetition with the same key.

    Empty without an idempotency key.
    """
    retention: float | None = None
    """Seconds that the job is kept after its end; None: until it is deleted."""

    @property
    def key(self) -> Key:
        """The key under which the job is claimed."""
        return Key(self.channel, self.type, self.arch)


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A stored job, without args and result, which `Driver.payload` reads."""

    id: UUID
    type: str
    arch: str | None
    channel: str
    state: JobState
    priority: int
    queued_at: datetime
    not_before: datetime | None = None
    """The earliest start, as submitted or after the backoff of a failure."""
    started_at: datetime | None = None
    """The start of the latest attempt."""
    finished_at: datetime | None = None
    retries: int = 0
    """Number of requeues that count: after lost workers and failed outcomes."""
    dependencies: tuple[UUID, ...] = ()
    """As submitted; empty in a listing."""
    dependents: tuple[UUID, ...] = ()
    """The first `MAX_SHOWN_DEPENDENTS`, in the order of their submission; empty in a listing."""
    worker_id: UUID | None = None
    partial: bytes | None = None
    """The latest progress of the running attempt, which may be lost in a restart; None in a listing."""
    idempotency_key: str | None = None
    expires_at: datetime | None = None
    """The time when the ended job will be removed."""
    attempt: int = 0
    """The number of the latest attempt, from 1; 0 before the first."""


class Artifact(msgspec.Struct, frozen=True):
    """A file that an attempt has uploaded completely."""

    name: str
    size: int
    sha256: str
    """The digest in hexadecimal."""
    location: str = msgspec.field(name="place")
    """The file's location in the artifact store, which drivers do not interpret. Stored records call it `place`."""


class AttemptState(enum.StrEnum):
    """The state of the attempt that a token belongs to."""

    __hash__ = str.__hash__

    RUNNING = "running"
    FINISHED = "finished"
    """Its outcome was accepted; that ended the job, or requeued it after a failure."""
    CANCELED = "canceled"
    SUPERSEDED = "superseded"
    """Released, or ended because its lease, its handover or the job's timeout expired."""
    UNKNOWN = "unknown"


class Attempt(msgspec.Struct, frozen=True):
    """The attempt that a token belongs to, as a driver returns it."""

    state: AttemptState
    job_id: UUID | None = None
    """None only for an unknown token."""
    number: int = 0
    """The number of the attempt at its job, from 1."""
    confirm: bool = False
    """True if the worker has promised to confirm the handover."""
    worker_id: UUID | None = None
    """The id of the worker, if the worker has sent one."""
    confirmed: bool = False
    """True if the attempt runs and its worker had called before; only `touch` says it."""


UNKNOWN_ATTEMPT = Attempt(AttemptState.UNKNOWN)


class Claim(msgspec.Struct, frozen=True):
    """The claim of one waiting request for a job."""

    token: UUID
    """The token of the attempt that begins if there is a job."""
    keys: tuple[Key, ...]
    """The keys of the jobs to claim, in no particular order and without repetitions."""
    lease: float
    """Seconds until the attempt ends unless it is touched."""
    handover: float | None = None
    """Seconds until the attempt ends unless it is touched a first time; None if no confirmation was promised."""
    worker_id: UUID | None = None


class Claimed(msgspec.Struct, frozen=True):
    """A job that a claim has got. Its attempt has begun."""

    token: UUID
    job_id: UUID
    key: Key
    args: bytes | None
    dependencies: tuple[UUID, ...]
    attempt: int
    confirmed: bool = False
    """True if the claim is a repetition, and the worker of its attempt has called."""


class Touch(msgspec.Struct, frozen=True):
    """A sign of life of a running attempt."""

    token: UUID
    partial: bytes | None = None
    """New progress, or None to keep the last one."""
    confirm: bool = True
    """True to confirm the handover and renew the lease.

    False to restart only the handover time of an unconfirmed attempt, because the answer has just been written; an
    attempt that is confirmed or has no handover time is not changed.
    """


class Attachment(msgspec.Struct, frozen=True):
    """An uploaded file, and the token of the attempt to attach it to."""

    token: UUID
    artifact: Artifact
    max_files: int | None = None
    """Maximum number of files of the attempt, with this one; None for no limit."""
    max_bytes: int | None = None
    """Maximum size of all files of the attempt together, in bytes; None for no limit."""
    known_whole: bool = True
    """False if neither length nor digest was announced, so that the file may lack a part: it replaces no longer one."""


class Attached(msgspec.Struct, frozen=True):
    """The result of `attach`."""

    attempt: Attempt
    """The attempt; if it is not running, the file was not attached."""
    replaced: str | None = None
    """The location of the file that the name belonged to before, if it is another one; it is no longer attached."""
    exceeded: Exceeded | None = None
    """The reason for which the file of a running attempt was not attached."""


class Outcome(msgspec.Struct, frozen=True):
    """The outcome of an attempt, as its worker reports it."""

    token: UUID
    result: bytes
    failed: bool = False
    """True if the result has a `job_error` that is not null."""
    artifacts: tuple[ListedArtifact, ...] | None = None
    """The files, each named once, that have to be attached for the outcome to be accepted; None if any may be."""


class Verdict(enum.StrEnum):
    """The answer of `finish` to an outcome."""

    ACCEPTED = "accepted"
    """The outcome ended the job, or requeued it after a failure; also the answer to a repetition of that outcome."""
    CONFLICT = "conflict"
    """The attempt has already finished with a different result."""
    DIFFERS = "differs"
    """The attempt has other files than the outcome lists, and goes on running."""
    CANCELED = "canceled"
    SUPERSEDED = "superseded"
    UNKNOWN = "unknown"


class Finished(msgspec.Struct, frozen=True):
    """The verdict on an outcome, and the job."""

    verdict: Verdict
    job_id: UUID | None = None
    difference: Difference | None = None
    """Set if the verdict is `DIFFERS`."""


class Enqueued(msgspec.Struct, frozen=True):
    """The jobs of one submission, in its order; if an idempotency key belongs to a job already, that existing job."""

    jobs: tuple[Job, ...]
    created: tuple[bool, ...]
    """For each job, True if the submission has created it; a repeated submission gets the same answer as the first."""


class PayloadKind(enum.StrEnum):
    """The kinds of payloads of a job."""

    ARGS = "args"
    RESULT = "result"


class PayloadRef(NamedTuple):
    """Identifies a payload."""

    job_id: UUID
    kind: PayloadKind


class JobFilter(msgspec.Struct, frozen=True):
    """Selects the jobs of a listing; None matches everything."""

    state: JobState | None = None
    type: str | None = None
    channel: str | None = None
    arch: str | None = None
    states: tuple[JobState, ...] = ()
    """Several states, of which a job must be in any; empty matches everything."""


class JobPage(msgspec.Struct, frozen=True):
    """A page of a listing."""

    jobs: tuple[Job, ...]
    next: int | None
    """The cursor of the next page; None after the last one. A page may be short, or empty, before the last one."""


class IdPage(msgspec.Struct, frozen=True):
    """A page of the ids of jobs."""

    ids: tuple[UUID, ...]
    next: int | None
    """The cursor of the next page; None after the last one."""


class News(msgspec.Struct, frozen=True):
    """Changes by a call that waiting requests may be interested in.

    News may be lost or repeated, so they are only a reason to check the storage again.
    """

    ready: Mapping[Key, int] = {}
    """Number of jobs that became ready, by key."""
    ended: tuple[UUID, ...] = ()
    """Jobs that ended, including dependents that ended as a consequence."""
    requeued: tuple[UUID, ...] = ()
    """Jobs whose attempt ended without ending the job."""
    due_in: float | None = None
    """Seconds until `advance` has work to do because of this call."""
    recheck: bool = False
    """True if news may have been lost, so that everything has to be checked again."""
    unanswered: tuple[UUID, ...] = ()
    """Jobs whose attempt has ended because its worker never called after the job was handed over."""


NO_NEWS = News()

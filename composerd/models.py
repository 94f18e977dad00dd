"""What a job is: the frozen values that the APIs, the queue and the drivers hand to each other. No behaviour, no I/O.

Durations are seconds (float), times are aware `datetime`s in UTC on the store's clock, ids and tokens are UUIDs that
the core mints, args and results are UTF-8 JSON as bytes, never parsed again behind the edge.
"""

import enum
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import msgspec

MAX_DEPENDENCIES = 1000
"""How many jobs one job may name as its dependencies."""

MAX_REMEMBERED_TOKENS = 16
"""How many of a job's latest tokens a driver remembers."""

MAX_UNCOUNTED_REQUEUES = 10
"""How often in a row a job may go back to the queue without it counting as a retry."""

MAX_RETRY_BACKOFF = 3600.0
"""The longest backoff before a failed job is tried again, in seconds."""


class JobState(enum.StrEnum):
    """Where a job is on its way; specs/state-machine.md has every transition."""

    __hash__ = str.__hash__  # an enum's own is a call of Python, at every look into a dictionary

    WAITING = "waiting"
    """For a dependency to end, or for its time to come."""
    READY = "ready"
    RUNNING = "running"
    FINISHED = "finished"
    """Ended with a result that has no `job_error`."""
    FAILED = "failed"
    """Ended with a result whose `job_error` is not null."""
    CANCELED = "canceled"

    @property
    def ended(self) -> bool:
        """Whether the job has left the queue for good."""
        return self in _ENDED


_ENDED = frozenset({JobState.FINISHED, JobState.FAILED, JobState.CANCELED})


class OnDependencyFailure(enum.StrEnum):
    """What becomes of a job when one that it depends on has failed."""

    RUN = "run"
    FAIL = "fail"


class Key(NamedTuple):
    """What a claim asks for, exactly. A job without an arch has a key of its own (arch None): who asks for an arch asks for both."""

    channel: str
    type: str
    arch: str | None


class NewJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job to be stored."""

    id: UUID
    type: str
    arch: str | None = None
    channel: str = ""
    args: bytes | None = None
    dependencies: tuple[UUID, ...] = ()
    """In the order named, repetitions included; a job of the same submission must come earlier in it."""
    priority: int = 0
    not_before: datetime | float | None = None
    """A time on the store's clock, or seconds from now."""
    timeout: float | None = None
    """How long one attempt may run."""
    max_retries: int = 2
    """How often a lost worker is forgiven."""
    retry_on_failure: int = 0
    """How often a failed outcome puts the job back instead of ending it."""
    retry_backoff: float = 10.0
    """The first wait after a failed outcome; doubled each time, at most MAX_RETRY_BACKOFF."""
    on_dependency_failure: OnDependencyFailure = OnDependencyFailure.RUN
    idempotency_key: str | None = None
    fingerprint: bytes = b""
    """Digest of args and fields as submitted, dependencies left out; a key's second use is compared with it. Empty without a key."""
    retention: float | None = None
    """How long after its end the job is kept; None: until it is deleted."""

    @property
    def key(self) -> Key:
        """The key under which the job is claimed."""
        return Key(self.channel, self.type, self.arch)


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job as the store has it, without args and result (`Driver.payload` reads those)."""

    id: UUID
    type: str
    arch: str | None
    channel: str
    state: JobState
    priority: int
    queued_at: datetime
    not_before: datetime | None = None
    """When it was, or will be, allowed to start: as submitted, or after a failure's backoff."""
    started_at: datetime | None = None
    """When its latest attempt began."""
    finished_at: datetime | None = None
    retries: int = 0
    """How often it went back to the queue, counted: lost workers and failed outcomes."""
    dependencies: tuple[UUID, ...] = ()
    dependents: tuple[UUID, ...] = ()
    """In the order of their submission; left empty in a listing."""
    worker_id: UUID | None = None
    partial: bytes | None = None
    """The latest progress of the running attempt; lossy; left out of a listing."""
    idempotency_key: str | None = None
    expires_at: datetime | None = None
    """When an ended job will be removed."""
    attempt: int = 0
    """The number of its latest attempt, from 1; 0 before the first."""


class Artifact(msgspec.Struct, frozen=True):
    """A file that an attempt has uploaded whole."""

    name: str
    size: int
    sha256: str
    """Hexadecimal."""
    location: str = msgspec.field(name="place")
    """Where the artifact store keeps it; opaque to drivers. Records that are stored already call it `place`."""


class AttemptState(enum.StrEnum):
    """What became of the attempt that a token stands for."""

    __hash__ = str.__hash__

    RUNNING = "running"
    FINISHED = "finished"
    """Its outcome was accepted, whether that ended the job or put it back after a failure."""
    CANCELED = "canceled"
    SUPERSEDED = "superseded"
    """Released, or its lease or hand-over or the job's timeout ran out."""
    UNKNOWN = "unknown"


class Attempt(msgspec.Struct, frozen=True):
    """What a driver says of a token."""

    state: AttemptState
    job_id: UUID | None = None
    """None only for an unknown token."""
    number: int = 0
    """Which attempt of the job it is, from 1."""
    confirm: bool = False
    """Whether its worker promised to confirm the hand-over."""
    worker_id: UUID | None = None
    """Who runs it, if it said so."""


UNKNOWN_ATTEMPT = Attempt(AttemptState.UNKNOWN)


class Claim(msgspec.Struct, frozen=True):
    """One waiter's question for a job."""

    token: UUID
    """Becomes the attempt's token if there is a job."""
    keys: tuple[Key, ...]
    """In no order; without repetitions."""
    lease: float
    """How long the attempt lives without being touched."""
    handover: float | None = None
    """If the worker promised to confirm: how long the attempt lives before its first touch."""
    worker_id: UUID | None = None


class Claimed(msgspec.Struct, frozen=True):
    """A job that a claim got; the attempt has begun."""

    token: UUID
    job_id: UUID
    key: Key
    args: bytes | None
    dependencies: tuple[UUID, ...]
    attempt: int


class Touch(msgspec.Struct, frozen=True):
    """A sign of life of a running attempt."""

    token: UUID
    partial: bytes | None = None
    """Progress to remember, or None to leave it as it is."""
    confirm: bool = True
    """False: only the hand-over's time begins anew (the answer has just been written); a confirmed attempt is left as it is."""


class Attachment(msgspec.Struct, frozen=True):
    """An uploaded file on its way to its attempt."""

    token: UUID
    artifact: Artifact


class Attached(msgspec.Struct, frozen=True):
    """What `attach` did."""

    attempt: Attempt
    """Anything but running: refused."""
    replaced: str | None = None
    """The place of the artifact that had this name before, if it was another place; it is not the attempt's any more."""


class Outcome(msgspec.Struct, frozen=True):
    """How an attempt ended."""

    token: UUID
    result: bytes
    failed: bool = False
    """Whether the result has a `job_error` that is not null."""


class Verdict(enum.StrEnum):
    """What `finish` made of an outcome."""

    ACCEPTED = "accepted"
    """It ended the job, or put it back after a failure; also the answer to the same outcome again."""
    CONFLICT = "conflict"
    """The attempt has finished with another result."""
    CANCELED = "canceled"
    SUPERSEDED = "superseded"
    UNKNOWN = "unknown"


class Finished(msgspec.Struct, frozen=True):
    """The answer to an outcome."""

    verdict: Verdict
    job_id: UUID | None = None


class Enqueued(msgspec.Struct, frozen=True):
    """The jobs of one submission, in its order; an idempotency key's existing job in the place of the new one."""

    jobs: tuple[Job, ...]
    created: tuple[bool, ...]
    """Which of them the submission created; a repetition of a submission answers as the first time."""


class PayloadKind(enum.StrEnum):
    """The two payloads of a job."""

    ARGS = "args"
    RESULT = "result"


class PayloadRef(NamedTuple):
    """Names a payload."""

    job_id: UUID
    kind: PayloadKind


class JobFilter(msgspec.Struct, frozen=True):
    """Which jobs a listing shows; None: any."""

    state: JobState | None = None
    type: str | None = None
    channel: str | None = None
    arch: str | None = None


class JobPage(msgspec.Struct, frozen=True):
    """A part of a listing."""

    jobs: tuple[Job, ...]
    next: int | None
    """The cursor of the next part; None at the end. A part may be short, or empty, while there is a next one."""


class Worker(msgspec.Struct, frozen=True):
    """A worker that was heard of."""

    id: UUID
    arch: str
    """Empty with `types` in a mere sign of life."""
    types: tuple[str, ...] = ()
    """The types of job that it asked for last; none if it never asked."""
    channel: str = ""
    seen_at: datetime | None = None
    """Set by the driver."""
    jobs: tuple[UUID, ...] = ()
    """Those that it runs. Set by the driver."""


class News(msgspec.Struct, frozen=True):
    """What a call changed that somebody may be waiting for. Lossy and repeatable: it wakes people, it proves nothing."""

    ready: Mapping[Key, int] = {}
    """How many jobs of a key became ready."""
    ended: tuple[UUID, ...] = ()
    """Jobs that ended, cascades included."""
    requeued: tuple[UUID, ...] = ()
    """Jobs whose attempt ended without ending the job: released, lapsed, or failed and put back."""
    due_in: float | None = None
    """Seconds until `advance` has something to do because of this call."""
    recheck: bool = False
    """News was lost: look at everything."""


NO_NEWS = News()

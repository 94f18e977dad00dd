"""The values that the server returns."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Generic, Self, TypeVar

import msgspec

T = TypeVar("T")
Time = Annotated[datetime, msgspec.Meta(tz=True)]


class JobState(StrEnum):
    """The state of a job. Each compares equal to its text, such as `"running"`.

    A state that only a newer server knows is a further `JobState` with the name `UNKNOWN` and the server's text.
    """

    WAITING = "waiting"
    """The job waits until its dependencies have ended and its time has come."""
    READY = "ready"
    """The job waits for a worker."""
    RUNNING = "running"
    """A worker runs the job."""
    FINISHED = "finished"
    """The job has ended with a result that has no `job_error`."""
    FAILED = "failed"
    """The job has ended with a result whose `job_error` is not null."""
    CANCELED = "canceled"
    """The job, or one that it depends on, was canceled."""

    @property
    def ended(self) -> bool:
        """True if the job is finished, failed or canceled."""
        return self in _ENDED

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        unknown = str.__new__(cls, value)
        unknown._name_ = "UNKNOWN"
        unknown._value_ = value
        return unknown


_ENDED = frozenset({JobState.FINISHED, JobState.FAILED, JobState.CANCELED})


class Job(msgspec.Struct, frozen=True, omit_defaults=True):
    """A job as the server returns it. Times are in UTC."""

    kind: str
    """`Job`."""
    href: str
    """The path of the job on the server."""
    id: str
    type: str
    arch: str | None
    """The architecture of the workers that may run the job; None for any."""
    channel: str
    state: JobState
    priority: int
    """The priority, from -100 to 100; jobs with a higher one run first."""
    queued_at: Time
    """The time of the submission."""
    not_before: Time | None
    """The earliest start, as submitted or after a failed attempt; None if the job was not delayed."""
    started_at: Time | None
    """The start of the latest attempt; None if there was none."""
    finished_at: Time | None
    """The end of the job, however it ended; None before."""
    retries: int
    """The number of attempts so far that were tried again, after a lost worker or a failure."""
    canceled: bool
    worker_id: str | None
    """The id of the worker that had the latest attempt, if it has told one."""
    idempotency_key: str | None
    expires_at: Time | None
    """The time when the ended job will be deleted; None before its end, and if it is kept until it is deleted."""
    dependencies: list[str] = []
    """The ids of the jobs that this one depends on; empty in a listing."""
    dependents: list[str] = []
    """The ids of the first thousand jobs that depend on this one; empty in a listing."""
    partial: Any = None
    """The latest progress that the worker of a running job has reported, any JSON; None in a listing."""
    result: Any = None
    """The result, any JSON; None before the job has ended, and in a listing."""

    @property
    def ended(self) -> bool:
        """True if the job is finished, failed or canceled."""
        return self.state.ended


class Artifact(msgspec.Struct, frozen=True):
    """A file that an attempt has uploaded for its job."""

    kind: str
    """`Artifact`."""
    href: str
    """The path of the file on the server."""
    id: str
    """The name once more."""
    name: str
    size: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
    """The number of bytes."""
    sha256: str
    """The digest in hexadecimal."""


class Why(msgspec.Struct, frozen=True):
    """The reason why a job is not running."""

    id: str
    """The id of the job."""
    state: JobState
    reason: str
    """The reason, in a sentence."""
    blocked_by: list[str]
    """The ids of dependencies that have not ended."""
    delayed_until: Time | None
    """The earliest start, if it is still to come."""
    workers: int | None
    """Number of workers that request such jobs; None unless the job is ready."""
    ahead: int | None
    """Number of similar jobs that are ahead in the queue, at most 10,000; None unless the job is ready."""
    paused: int | None = None
    """Number of workers that would request such jobs, but have a problem; None unless the job is ready."""


class KnownWorker(msgspec.Struct, frozen=True):
    """A worker that has contacted the server lately."""

    id: str
    arch: str | None
    """Its architecture; None if it has told none."""
    types: list[str]
    """The types of jobs in its latest request."""
    channel: str
    jobs: list[str]
    """The ids of the jobs that it is running."""
    seen_at: Time
    """The time, in UTC, when it contacted the server last."""
    problem: str | None = None
    """The reason for which it requests no jobs now, in its own words; None without one."""


class Page(msgspec.Struct, Generic[T], frozen=True):
    """A page of a listing."""

    items: list[T]
    next: str | None = None
    """The cursor of the next page; None if there is none."""


class ArtifactList(msgspec.Struct, frozen=True):
    """The artifacts of a job."""

    items: list[Artifact]


class Attempt(msgspec.Struct, frozen=True):
    """An attempt at a job, as the server assigns it to a worker."""

    id: str
    """The id of the job."""
    type: str
    location: str
    """The path of the attempt, to which the worker reports."""
    artifact_location: str
    """The path for uploads, to which the name of the file is appended."""
    lease: str = ""
    """The duration of the lease; empty if the server is older, and does not tell it."""
    args: msgspec.Raw = msgspec.Raw(b"")
    """The args of the job; empty if it has none."""
    dynamic_args: list[msgspec.Raw] = []
    """The results of the dependencies, in their order."""

    @property
    def token(self) -> str:
        """The token of the attempt, which answers about it name as their id."""
        return self.location.rpartition("/")[2]


class Identity(msgspec.Struct, frozen=True):
    """The identity that the server takes a client for."""

    name: str
    """The name in the server's log; empty on a server that does not ask who its clients are."""
    role: str
    """`worker`, `submitter`, `viewer`, `admin` or `monitor`."""
    tenant: str | None
    """The tenant whose jobs it sees; None if it belongs to none."""
    channel: str
    """The channel of its jobs."""
    source: str | None
    """`token`, `jwt`, `certificate` or `socket`; None on a server that does not ask who its clients are."""
    expires_at: Time | None = None
    """The end of its credentials; None if they have none."""

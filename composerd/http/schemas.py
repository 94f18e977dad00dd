"""The bodies of both APIs as types: what decodes and checks a request is what the OpenAPI documents show."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from composerd.models import MAX_DEPENDENCIES, JobState

# Patterns are documented, not checked twice: the rules themselves are in `is_word` and `composerd.units`.
WORD = r"^\S+$"
DURATION = r"^([0-9]{1,15}(\.[0-9]{1,9})?(ms|s|m|h|d)|0)$"

Word = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=128,
        description="Printable characters without white space.",
        extra_json_schema={"pattern": WORD},
    ),
]
OptionalWord = Annotated[
    str, Meta(max_length=128, description="Printable characters without white space; may be empty.")
]
Duration = Annotated[
    str,
    Meta(
        description="A duration: `300ms`, `20s`, `2m`, `1h`, `14d`.",
        examples=["20s"],
        extra_json_schema={"pattern": DURATION},
    ),
]
Json = Annotated[Raw, Meta(description="Any JSON; kept byte for byte.")]


class Object(msgspec.Struct, kw_only=True):
    """What every returned object carries."""

    kind: str
    href: str
    id: str


# The worker API.


class RequestJob(msgspec.Struct):
    """What a worker asks for."""

    types: Annotated[list[Word], Meta(min_length=1, max_length=64)]
    arch: Word
    worker_id: str | None = None
    confirm: bool = False
    """The worker promises to call `location` as soon as it has read the answer."""


class RequestJobResponse(Object, kw_only=True, omit_defaults=True):
    """A job for the worker that asked."""

    type: str
    location: str
    artifact_location: str
    args: Json | UnsetType = UNSET
    dynamic_args: Annotated[list[Raw] | UnsetType, Meta(description="The results of the dependencies, in order.")] = (
        UNSET
    )


class UpdateJob(msgspec.Struct):
    """`result` finishes the job, `partial` reports progress; `{}` finishes with the result null."""

    result: Json | UnsetType = UNSET
    partial: Json | UnsetType = UNSET


class UpdateJobResponse(Object, kw_only=True):
    """The update was accepted."""


class ReleaseJob(msgspec.Struct):
    """Nothing needs to be said."""


class PostWorkers(msgspec.Struct):
    """A worker that introduces itself."""

    arch: Word


class WorkerID(Object, kw_only=True):
    """A worker's id."""

    worker_id: str


class JobStatus(Object, kw_only=True):
    """Whether the worker shall go on."""

    canceled: bool


class Status(Object, kw_only=True):
    """The server is there."""

    status: Literal["OK"]


class Error(Object, kw_only=True, omit_defaults=True):
    """A predefined error."""

    code: str
    reason: str
    message: str
    operation_id: str | UnsetType = UNSET
    details: dict[str, Any] | UnsetType = UNSET


class ErrorList(Object, kw_only=True):
    """A page of the errors of the API."""

    page: int
    size: int
    total: int
    items: list[Error]


# The composer API.


class JobBase(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The fields of a submitted job."""

    type: Word
    arch: Word | None = None
    channel: OptionalWord = ""
    args: Json | UnsetType = UNSET
    dependencies: Annotated[
        list[str], Meta(max_length=MAX_DEPENDENCIES, description="Ids, or `ref`s of earlier jobs of the same batch.")
    ] = []
    priority: Annotated[int, Meta(ge=-100, le=100)] = 0
    not_before: Annotated[str, Meta(description="A time (RFC 3339), or a duration from now.")] | None = None
    timeout: Duration | None = None
    max_retries: Annotated[int, Meta(ge=0, le=100)] | None = None
    retry_on_failure: Annotated[int, Meta(ge=0, le=100)] = 0
    retry_backoff: Duration = "10s"
    on_dependency_failure: Literal["run", "fail"] = "run"
    idempotency_key: Word | None = None
    retention: Duration | None = None


class SubmitJob(JobBase, forbid_unknown_fields=True, kw_only=True):
    """A job to be submitted; only `type` is needed."""


class BatchJob(JobBase, forbid_unknown_fields=True, kw_only=True):
    """A job of a batch."""

    ref: (
        Annotated[str, Meta(min_length=1, max_length=64, description="A name for it within the batch; no UUID.")] | None
    ) = None


class SubmitJobs(msgspec.Struct, forbid_unknown_fields=True):
    """Jobs that are stored all or none."""

    jobs: Annotated[list[BatchJob], Meta(min_length=1, max_length=1000)]


class Job(Object, kw_only=True, omit_defaults=True):
    """A job."""

    type: str
    arch: str | None
    channel: str
    state: JobState
    priority: int
    queued_at: str
    not_before: str | None
    started_at: str | None
    finished_at: str | None
    retries: int
    canceled: bool
    dependencies: list[str]
    dependents: list[str] | UnsetType = UNSET
    worker_id: str | None
    partial: Json | None | UnsetType = UNSET
    result: Json | None | UnsetType = UNSET
    idempotency_key: str | None
    expires_at: str | None


class JobList(Object, kw_only=True, omit_defaults=True):
    """Jobs."""

    items: list[Job]
    next: str | None | UnsetType = UNSET


class Worker(Object, kw_only=True):
    """A worker that was heard of lately."""

    arch: str | None
    types: list[str]
    channel: str
    jobs: list[str]
    seen_at: str


class WorkerList(Object, kw_only=True):
    """Workers, those heard of last first."""

    items: list[Worker]


class JobWhy(Object, kw_only=True):
    """Why a job is not running."""

    state: JobState
    reason: str
    blocked_by: Annotated[list[str], Meta(description="Dependencies that have not ended.")]
    delayed_until: str | None
    workers: Annotated[int | None, Meta(description="Live workers that take such jobs; null unless it is ready.")]
    ahead: Annotated[int | None, Meta(description="Jobs alike that go first, counted up to 10,000.")]


class Artifact(Object, kw_only=True):
    """A file that a job left."""

    name: str
    size: int
    sha256: str


class ArtifactList(Object, kw_only=True):
    """The files that a job left."""

    items: list[Artifact]


def rfc3339(time: datetime) -> str:
    """A time, which drivers give in UTC, with microseconds."""
    return time.isoformat(timespec="microseconds")[:26] + "Z"


def strings(ids: tuple[UUID, ...]) -> list[str]:
    """Ids as text."""
    return [str(one) for one in ids] if ids else []


def is_word(text: str) -> bool:
    """Whether a text is printable without white space (the only printable white space is a space)."""
    return text.isprintable() and " " not in text

"""The JSON bodies of both APIs as types, which check requests and from which the OpenAPI documents are generated."""

from datetime import datetime
from typing import Annotated, Any, Literal, cast
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from composerd.models import MAX_DEPENDENCIES, JobState

MAX_BATCH = 1000
"""The most jobs in a batch."""

# The patterns only document; `is_word` and `composerd.units` check the values.
WORD = r"^\S+$"
DURATION = r"^([0-9]{1,15}(\.[0-9]{1,9})?(ms|s|m|h|d)|0)$"

Word = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=128,
        description="1 to 128 printable characters without white space.",
        extra_json_schema={"pattern": WORD},
    ),
]
OptionalWord = Annotated[
    str, Meta(max_length=128, description="Up to 128 printable characters without white space; may be empty.")
]
Duration = Annotated[
    str,
    Meta(
        description="A duration, such as `300ms`, `20s`, `2m`, `1h` or `14d`.",
        examples=["20s"],
        extra_json_schema={"pattern": DURATION},
    ),
]
Json = Annotated[Raw, Meta(description="Any JSON value; it is kept byte for byte.")]


class Object(msgspec.Struct, kw_only=True):
    """The fields that every returned object has."""

    kind: str
    href: str
    id: str


# The worker API.


class RequestJob(msgspec.Struct):
    """A worker's request for a job."""

    types: Annotated[list[Word], Meta(min_length=1, max_length=64)]
    arch: Word
    worker_id: str | None = None
    confirm: bool = False
    """Promises that the worker will call `location` as soon as it has read the answer."""


class RequestJobResponse(Object, kw_only=True, omit_defaults=True):
    """A job that is handed to the worker."""

    type: str
    location: str
    artifact_location: str
    args: Json | UnsetType = UNSET
    dynamic_args: Annotated[
        list[Raw] | UnsetType,
        Meta(description="The results of the dependencies, in the order in which the job names them."),
    ] = UNSET


class UpdateJob(msgspec.Struct):
    """An update of a job: `result` finishes it, `partial` reports progress, `{}` finishes it with the result null."""

    result: Json | UnsetType = UNSET
    partial: Json | UnsetType = UNSET


class UpdateJobResponse(Object, kw_only=True):
    """The answer to an update that was accepted."""


class ReleaseJob(msgspec.Struct):
    """The body of a release, which has no fields."""


class PostWorkers(msgspec.Struct):
    """A worker that registers."""

    arch: Word


class WorkerID(Object, kw_only=True):
    """The id of a registered worker."""

    worker_id: str


class JobStatus(Object, kw_only=True):
    """The status of a job for its worker, which stops working on a canceled job."""

    canceled: bool


class Status(Object, kw_only=True):
    """The status of the server."""

    status: Literal["OK"]


class Error(Object, kw_only=True, omit_defaults=True):
    """A predefined error."""

    code: str
    reason: str
    message: str
    operation_id: str | UnsetType = UNSET
    details: dict[str, Any] | UnsetType = UNSET


class ErrorList(Object, kw_only=True):
    """A page of the predefined errors of an API."""

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
        list[str],
        Meta(max_length=MAX_DEPENDENCIES, description="Ids of jobs, or `ref`s of earlier jobs of the same batch."),
    ] = []
    priority: Annotated[int, Meta(ge=-100, le=100)] = 0
    not_before: (
        Annotated[str, Meta(description="The earliest start: a time (RFC 3339), or a duration from now.")] | None
    ) = None
    timeout: Duration | None = None
    max_retries: Annotated[int, Meta(ge=0, le=100)] | None = None
    retry_on_failure: Annotated[int, Meta(ge=0, le=100)] = 0
    retry_backoff: Duration = "10s"
    on_dependency_failure: Literal["run", "fail"] = "run"
    idempotency_key: Word | None = None
    retention: Duration | None = None


class SubmitJob(JobBase, forbid_unknown_fields=True, kw_only=True):
    """A job to submit; only `type` is required."""


class BatchJob(JobBase, forbid_unknown_fields=True, kw_only=True):
    """A job of a batch to submit."""

    ref: (
        Annotated[
            str,
            Meta(min_length=1, max_length=64, description="The name of the job within the batch; must not be a UUID."),
        ]
        | None
    ) = None


class SubmitJobs(msgspec.Struct, forbid_unknown_fields=True):
    """A batch of jobs; either all of them are stored or none."""

    jobs: Annotated[list[BatchJob], Meta(min_length=1, max_length=MAX_BATCH)]


class Job(Object, kw_only=True, omit_defaults=True):
    """A job as the composer API returns it."""

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
    dependencies: list[str] | UnsetType = UNSET
    dependents: list[str] | UnsetType = UNSET
    worker_id: str | None
    partial: Json | None | UnsetType = UNSET
    result: Json | None | UnsetType = UNSET
    idempotency_key: str | None
    expires_at: str | None


class JobList(Object, kw_only=True, omit_defaults=True):
    """A page of a listing, or the jobs of a batch."""

    items: list[Job]
    next: str | None | UnsetType = UNSET


class JobIdList(Object, kw_only=True):
    """A page of the ids of jobs."""

    items: list[str]
    next: str | None


class Worker(Object, kw_only=True):
    """A worker that was seen lately."""

    arch: str | None
    types: list[str]
    channel: str
    jobs: list[str]
    seen_at: str


class WorkerList(Object, kw_only=True, omit_defaults=True):
    """A page of the workers that were seen lately, the latest first."""

    items: list[Worker]
    next: str | UnsetType = UNSET


class JobWhy(Object, kw_only=True):
    """The reason why a job is not running."""

    state: JobState
    reason: str
    blocked_by: Annotated[list[str], Meta(description="The dependencies that have not ended.")]
    delayed_until: str | None
    workers: Annotated[
        int | None, Meta(description="Number of live workers that run such jobs; null unless the job is ready.")
    ]
    ahead: Annotated[
        int | None, Meta(description="Number of similar jobs ahead of it in the queue, counted up to 10,000.")
    ]


class Artifact(Object, kw_only=True):
    """A file that a worker has uploaded for a job."""

    name: str
    size: int
    sha256: str


class ArtifactList(Object, kw_only=True):
    """The files that workers have uploaded for a job."""

    items: list[Artifact]


NOT_A_WORD = "must not have white space or control characters"
"""The problem with a text that is not a word (see `is_word`)."""


def rfc3339(time: datetime) -> str:
    """Return a time in UTC as text (RFC 3339) with microseconds."""
    return time.isoformat(timespec="microseconds")[:26] + "Z"


def strings(ids: tuple[UUID, ...]) -> list[str]:
    """Return ids for a field of texts: the encoder writes them as text, in much less time than `str` takes."""
    return cast(list[str], ids)


def is_word(text: str) -> bool:
    """Return True if a text is printable and has no white space; the only printable white space is the space."""
    return text.isprintable() and " " not in text

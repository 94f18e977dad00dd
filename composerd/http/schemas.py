"""The JSON bodies of both APIs as types, which check requests and from which the OpenAPI documents are generated."""

from typing import Annotated, Any, ClassVar, Literal, cast
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from composerd import models
from composerd.artifact_values import ListedArtifact
from composerd.http.fields import DURATION, Duration, Identified, Json, Object, OptionalWord, Time, Uuid, Word
from composerd.identity.roles import Role
from composerd.models import JobState, OnDependencyFailure

MAX_BATCH = 1000
"""The most jobs in a batch."""

MAX_DEPENDENCIES = 1000
"""The most dependencies of a job."""

MAX_PROBLEM = 500
"""The most characters of the text with which a worker says why it asks for no jobs."""

# The worker API.


class RequestJob(msgspec.Struct):
    """A worker's request for a job."""

    types: Annotated[list[Word], Meta(min_length=1, max_length=64)]
    arch: Word
    worker_id: Uuid | None = None
    confirm: (
        Annotated[
            bool,
            Meta(description="Promises that the worker will call `location` as soon as it has read the answer."),
        ]
        | None
    ) = None
    request_id: (
        Annotated[
            str,
            Meta(
                description="A random UUID (version 4) of the worker's choosing. The same id from the same worker gets "
                "the same job again, until the worker has called `location`. It is as secret as a token.",
                extra_json_schema={"format": "uuid"},
            ),
        ]
        | None
    ) = None
    slots: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=1000,
                description="The most requests with which the worker waits for jobs of these types at one time. Beyond "
                "that, the oldest requests of the same `worker_id` and types are answered with 204.",
            ),
        ]
        | None
    ) = None
    channel: (
        Annotated[OptionalWord, Meta(description="The channel of the jobs; that of the identity if it is left out.")]
        | None
    ) = None


class RequestedJob(Identified, kw_only=True, omit_defaults=True):
    """A job that is handed to the worker."""

    type: str
    location: str
    token: Annotated[str, Meta(description="The token in `location`.", extra_json_schema={"format": "uuid"})]
    artifact_location: str
    lease: Annotated[
        str,
        Meta(
            description="How long the job stays with the worker without a sign of life, once it has called `location`: "
            "a duration in seconds.",
            examples=["120s"],
            extra_json_schema={"pattern": DURATION},
        ),
    ]
    args: Json | UnsetType = UNSET
    dynamic_args: Annotated[
        list[Json] | UnsetType,
        Meta(description="The results of the dependencies, in the order in which the job names them."),
    ] = UNSET


class FinishJob(msgspec.Struct):
    """The result of a job, which finishes it."""

    result: Json
    artifacts: Annotated[
        list[ListedArtifact] | None,
        Meta(description="The files that have to be uploaded, and no others, for the result to be accepted."),
    ] = None


class ReportProgress(msgspec.Struct):
    """The progress of a job, which goes on."""

    partial: Json


class UpdateJob(msgspec.Struct):
    """Either `result`, which finishes the job, or `partial`, which reports progress.

    A null beside the other counts as left out. An empty object finishes the job with the result null.
    """

    either: ClassVar[tuple[type, ...]] = (FinishJob, ReportProgress)
    """The types that the OpenAPI document has for it, so that no generated client sends both fields."""

    result: Json | UnsetType = UNSET
    partial: Json | UnsetType = UNSET
    artifacts: Raw | UnsetType = UNSET


class UpdatedJob(Identified, kw_only=True):
    """The answer to an update that was accepted."""


class ReleaseJob(msgspec.Struct):
    """The body of a release, which has no fields."""


class PostWorkers(msgspec.Struct):
    """A worker that registers."""

    arch: Word
    channel: (
        Annotated[OptionalWord, Meta(description="The channel of the jobs; that of the identity if it is left out.")]
        | None
    ) = None


class WorkerStatus(msgspec.Struct):
    """The report of a worker about itself while it has no job. The body may be missing."""

    may_be_missing: ClassVar[bool] = True

    arch: Word | None = None
    types: Annotated[list[Word], Meta(min_length=1, max_length=64)] | None = None
    problem: (
        Annotated[
            str,
            Meta(
                max_length=MAX_PROBLEM,
                description="Why the worker asks for no jobs now; without it, the worker has no problem any more.",
            ),
        ]
        | None
    ) = None
    channel: (
        Annotated[OptionalWord, Meta(description="The channel of the jobs; that of the identity if it is left out.")]
        | None
    ) = None


class WorkerID(Identified, kw_only=True):
    """The id of a registered worker."""

    worker_id: Uuid


class JobStatus(Identified, kw_only=True):
    """The status of a job for its worker, which stops working on a canceled job."""

    canceled: bool


class Status(Object, kw_only=True):
    """The status of the server."""

    status: Literal["OK"]
    version: str
    """The version of the server."""


class Error(Object, kw_only=True, omit_defaults=True):
    """A predefined error."""

    code: str
    reason: str
    message: str
    operation_id: str | UnsetType = UNSET
    details: (
        Annotated[
            dict[str, Any],
            Meta(
                description="What was wrong with the request, such as the `field`, the `problem` or the `limit`.",
                extra_json_schema={"additionalProperties": True},
            ),
        ]
        | UnsetType
    ) = UNSET


class ErrorList(Object, kw_only=True):
    """A page of the predefined errors of an API."""

    page: int
    size: int
    total: int
    items: list[Error]


# The composer API.


class JobBase(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The fields of a submitted job. A null counts as left out, except for `args`."""

    type: Word
    arch: Word | None = None
    channel: OptionalWord | None = None
    args: Json | UnsetType = UNSET
    dependencies: (
        Annotated[
            list[str],
            Meta(max_length=MAX_DEPENDENCIES, description="Ids of jobs, or `ref`s of earlier jobs of the same batch."),
        ]
        | None
    ) = None
    priority: Annotated[int, Meta(ge=-100, le=100, description="0 if it is left out.")] | None = None
    not_before: (
        Annotated[str, Meta(description="The earliest start: a time (RFC 3339), or a duration from now.")] | None
    ) = None
    timeout: Duration | None = None
    max_retries: Annotated[int, Meta(ge=0, le=100)] | None = None
    retry_on_failure: Annotated[int, Meta(ge=0, le=100, description="0 if it is left out.")] | None = None
    retry_backoff: Annotated[Duration, Meta(description="A duration; `10s` if it is left out.")] | None = None
    on_dependency_failure: OnDependencyFailure | None = None
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


class Job(Identified, kw_only=True, omit_defaults=True):
    """A job as the composer API returns it."""

    type: str
    arch: str | None
    channel: str
    state: JobState
    priority: int
    queued_at: Time
    not_before: Time | None
    started_at: Time | None
    finished_at: Time | None
    retries: int
    canceled: bool
    dependencies: list[Uuid] | UnsetType = UNSET
    dependents: list[Uuid] | UnsetType = UNSET
    worker_id: Uuid | None
    partial: Json | None | UnsetType = UNSET
    result: Json | None | UnsetType = UNSET
    idempotency_key: str | None
    expires_at: Time | None


class JobList(Object, kw_only=True, omit_defaults=True):
    """A page of a listing, or the jobs of a batch."""

    items: list[Job]
    next: str | None | UnsetType = UNSET


class JobIdList(Identified, kw_only=True):
    """A page of the ids of jobs."""

    items: list[Uuid]
    next: str | None


class Worker(Identified, kw_only=True):
    """A worker that was seen lately."""

    arch: str | None
    types: list[str]
    channel: str
    jobs: list[Uuid]
    seen_at: Time
    problem: Annotated[
        str | None, Meta(description="Why it asks for no jobs now, in its own words; null without a problem.")
    ]


class WorkerList(Object, kw_only=True, omit_defaults=True):
    """A page of the workers that were seen lately, the latest first."""

    items: list[Worker]
    next: str | UnsetType = UNSET


class Identity(Object, kw_only=True):
    """The identity that the credentials of a request stand for."""

    name: str
    role: Role
    tenant: str | None
    channel: Annotated[str, Meta(description="The channel of its jobs.")]
    source: Annotated[
        str | None,
        Meta(description="The kind of its credentials, such as `token`; null while the server has no identities."),
    ]
    expires_at: Annotated[Time | None, Meta(description="The end of its credentials.")]


class JobWhy(Identified, kw_only=True):
    """The reason why a job is not running."""

    state: JobState
    reason: str
    blocked_by: Annotated[list[Uuid], Meta(description="The dependencies that have not ended.")]
    delayed_until: Time | None
    workers: Annotated[
        int | None, Meta(description="Number of live workers that run such jobs; null unless the job is ready.")
    ]
    paused: Annotated[
        int | None,
        Meta(description="Number of live workers that would run such jobs, but have a problem; null as `workers`."),
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


def artifact(stored: models.Artifact, href: str) -> Artifact:
    """Return an artifact as both APIs show it."""
    return Artifact(
        kind="Artifact", href=href, id=stored.name, name=stored.name, size=stored.size, sha256=stored.sha256
    )


NOT_A_WORD = "must not have white space or control characters"
"""The problem with a text that is not a word (`composerd_protocol.words`)."""


def strings(ids: tuple[UUID, ...]) -> list[str]:
    """Return ids for a field of texts: the encoder writes them as text, in much less time than `str` takes."""
    return cast(list[str], ids)

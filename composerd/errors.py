"""Every error that composerd raises on purpose: one hierarchy, each with a stable code.

How an error looks over HTTP (number, status, reason) is not decided here but in `composerd.http.errors`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar


class ComposerdError(Exception):
    """The root of the hierarchy.

    `code` is stable: logs, metrics and the API's table of errors refer to it. `details` says what exactly was wrong,
    for whoever sent the request; it never holds a secret or a path of the server.
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str = "", **details: Any) -> None:
        super().__init__(message or (self.__doc__ or "").partition("\n")[0])
        self.details: Mapping[str, Any] = details


# What was asked for cannot be done in the state that the job is in.


class JobNotFound(ComposerdError):
    """No job has this id."""

    code = "job_not_found"


class JobEnded(ComposerdError):
    """The job has ended already, and not by a cancel."""

    code = "job_ended"


class JobNotEnded(ComposerdError):
    """The job, or one that depends on it, has not ended."""

    code = "job_not_ended"


class WorkerNotFound(ComposerdError):
    """No worker of this id was heard of lately."""

    code = "worker_not_found"


class UnknownDependency(ComposerdError):
    """A job that the submission depends on does not exist, or is in a channel that the submitter may not see."""

    code = "unknown_dependency"


class CanceledDependency(ComposerdError):
    """A job that the submission depends on was canceled."""

    code = "canceled_dependency"


class IdempotencyConflict(ComposerdError):
    """The idempotency key belongs to a job with other fields or other args."""

    code = "idempotency_conflict"


# What became of an attempt that somebody still refers to by its token.


class TokenNotFound(ComposerdError):
    """The token stands for no attempt, or for one too long ago to be remembered."""

    code = "token_not_found"


class AttemptCanceled(ComposerdError):
    """The job was canceled, and the attempt with it."""

    code = "attempt_canceled"


class AttemptFinished(ComposerdError):
    """The attempt has reported its result; it takes nothing more."""

    code = "attempt_finished"


class ResultConflict(ComposerdError):
    """The attempt has finished with another result."""

    code = "result_conflict"


class AttemptSuperseded(ComposerdError):
    """The attempt has ended without a result: its lease ran out, or it was released."""

    code = "attempt_superseded"


# What the caller sent.


class InvalidContent(ComposerdError):
    """A value is not one that the field can take; `details` names the field."""

    code = "invalid_content"


class MalformedJSON(ComposerdError):
    """A body is not JSON; `details` says where."""

    code = "malformed_json"


class BodyTooLarge(ComposerdError):
    """A body is larger than the server takes."""

    code = "body_too_large"


class TypeNotAllowed(ComposerdError):
    """A worker asked for a type of job that workers may not take."""

    code = "type_not_allowed"


class InvalidCursor(ComposerdError):
    """A cursor, limit or filter of a listing is not valid."""

    code = "invalid_cursor"


# Artifacts.


class ArtifactsDisabled(ComposerdError):
    """The server keeps no artifacts."""

    code = "artifacts_disabled"


class InvalidArtifactName(ComposerdError):
    """An artifact's name is not a plain file name of 1 to 255 bytes."""

    code = "invalid_artifact_name"


class IncompleteUpload(ComposerdError):
    """An upload ended early, or does not match its digest."""

    code = "incomplete_upload"


class ArtifactTooLarge(ComposerdError):
    """An upload is larger than the server takes."""

    code = "artifact_too_large"


class ArtifactNotFound(ComposerdError):
    """The job has no artifact of this name."""

    code = "artifact_not_found"


# The server and its storage.


class Unavailable(ComposerdError):
    """The storage does not answer, or the server drains or is full: the same request may be repeated later, safely."""

    code = "unavailable"


class StorageFull(ComposerdError):
    """The storage has no room: nothing was changed, and it recovers by itself when there is space."""

    code = "storage_full"


class DriverError(Unavailable):
    """A driver raised what its contract does not name; the cause is attached, and the outcome of the call is unknown."""

    code = "driver_error"


class DriverTimeout(DriverError):
    """A driver gave up waiting for its store (a network time limit): ask again."""

    code = "driver_timeout"


# The configuration of a server, before it serves.


class StorageURLError(ComposerdError):
    """A storage URL is wrong: unknown scheme, unknown or bad option."""

    code = "storage_url"


class StorageUnusable(ComposerdError):
    """A storage cannot be opened: damaged, locked by another process, of a newer format, not permitted."""

    code = "storage_unusable"

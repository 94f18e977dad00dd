"""The errors that composerd raises on purpose: one hierarchy, in which each class has a stable code.

`composerd.http.errors` decides the number, status and reason of an error over HTTP.
"""

from collections.abc import Mapping
from typing import Any, ClassVar


class ComposerdError(Exception):
    """The base class of composerd's errors.

    `code` is stable: logs, metrics and the API's table of errors refer to it. `details` tells the sender of the request
    what exactly was wrong; it never contains a secret or a path of the server. Without a message, the first line of the
    class's docstring is the message.
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str = "", **details: Any) -> None:
        super().__init__(message or (self.__doc__ or "").partition("\n")[0])
        self.details: Mapping[str, Any] = details
        self.logged = False
        """True if the log has a line about it. A driver sets it for what lasts until somebody repairs something."""


# Errors about a job, or about the state that it is in.


class JobNotFound(ComposerdError):
    """No job has this id."""

    code = "job_not_found"


class JobEnded(ComposerdError):
    """The job has already ended, and was not canceled."""

    code = "job_ended"


class JobNotEnded(ComposerdError):
    """The job, or a job that depends on it, has not ended."""

    code = "job_not_ended"


class WorkerNotFound(ComposerdError):
    """No worker with this id has contacted the server lately."""

    code = "worker_not_found"


class UnknownDependency(ComposerdError):
    """A dependency does not exist, or is in a channel that the submitter may not see."""

    code = "unknown_dependency"


class CanceledDependency(ComposerdError):
    """A dependency of the submitted job was canceled."""

    code = "canceled_dependency"


class IdempotencyConflict(ComposerdError):
    """The idempotency key belongs to a job with different fields or args."""

    code = "idempotency_conflict"


# Errors about an attempt that a request names by its token.


class TokenNotFound(ComposerdError):
    """The token belongs to no attempt, or to an attempt too old to be remembered."""

    code = "token_not_found"


class AttemptCanceled(ComposerdError):
    """The job of the attempt was canceled."""

    code = "attempt_canceled"


class AttemptFinished(ComposerdError):
    """The attempt has already reported its result."""

    code = "attempt_finished"


class RequestIdUsed(ComposerdError):
    """The request id was used before, for an attempt that its worker has answered."""

    code = "request_id_used"


class ResultConflict(ComposerdError):
    """The attempt has already finished with a different result."""

    code = "result_conflict"


class AttemptSuperseded(ComposerdError):
    """The attempt has ended without a result: it was released, or its lease expired."""

    code = "attempt_superseded"


# Errors about what the caller sent.


class InvalidContent(ComposerdError):
    """A field has an invalid value; `details` names the field."""

    code = "invalid_content"


class MalformedJSON(ComposerdError):
    """A body is not JSON; `details` gives the location of the error."""

    code = "malformed_json"


class BodyTooLarge(ComposerdError):
    """A body is larger than the server accepts."""

    code = "body_too_large"


NO_CREDENTIALS = "there are no credentials"
"""The problem of a request without any, or whose credentials a proxy has taken away."""


class NotAuthenticated(ComposerdError):
    """The credentials of the request are missing or wrong."""

    code = "not_authenticated"

    def __init__(self, message: str = "", *, sent: bool = False, expired: bool = False, **details: Any) -> None:
        """Create the error. `sent` is True if the request has credentials, which are wrong.

        `expired` is True if they were right until they expired, so that nobody is guessing. The message is for the log.
        Without one it is the `problem` in the details, which the client is told.
        """
        super().__init__(message or details.get("problem", ""), **details)
        self.sent = sent
        self.expired = expired


class NotAllowed(ComposerdError):
    """The client is not allowed to make this request."""

    code = "not_allowed"


class TenantMissing(ComposerdError):
    """The claims of a token do not name a tenant."""

    code = "tenant_missing"


class TypeNotAllowed(ComposerdError):
    """A worker requested a type of job that workers may not run."""

    code = "type_not_allowed"


class QuotaUsedUp(ComposerdError):
    """A quota of the tenant is used up; repeat the request later."""

    code = "quota_used_up"

    def __init__(self, message: str = "", *, retry_after: int, **details: Any) -> None:
        """Create the error. `retry_after` is the number of seconds after which to repeat the request."""
        super().__init__(message, **details, retry_after=retry_after)
        self.retry_after = retry_after


class QuotaForbids(ComposerdError):
    """The request needs more than a quota of the tenant allows altogether, so waiting does not help."""

    code = "quota_forbids"


class InvalidCursor(ComposerdError):
    """The cursor, limit or filter of a listing is invalid."""

    code = "invalid_cursor"


# Errors about artifacts.


class ArtifactsDisabled(ComposerdError):
    """The server does not accept artifacts."""

    code = "artifacts_disabled"


class InvalidArtifactName(ComposerdError):
    """The name of an artifact is not a plain file name of 1 to 255 bytes."""

    code = "invalid_artifact_name"


class IncompleteUpload(ComposerdError):
    """An upload is incomplete, or does not match its digest."""

    code = "incomplete_upload"


class ArtifactTooLarge(ComposerdError):
    """An upload is larger than the server accepts."""

    code = "artifact_too_large"


class TooManyArtifacts(ArtifactTooLarge):
    """The attempt has as many artifacts as the server accepts."""

    code = "too_many_artifacts"


class ArtifactsTooLarge(ArtifactTooLarge):
    """All artifacts of the attempt together would be larger than the server accepts."""

    code = "artifacts_too_large"


class ShorterUpload(ComposerdError):
    """An upload whose length and digest were not announced would replace a longer file."""

    code = "shorter_upload"


class ArtifactsDiffer(ComposerdError):
    """The files that are attached to the attempt are not those that the outcome lists."""

    code = "artifacts_differ"


class ArtifactNotFound(ComposerdError):
    """The job has no artifact with this name."""

    code = "artifact_not_found"


# Errors of the server and its storage.


class Unavailable(ComposerdError):
    """The storage does not answer, or the server is stopping or at a limit; repeat the request later."""

    code = "unavailable"


class StorageFull(ComposerdError):
    """The storage is full; nothing was changed, and it works again once there is space."""

    code = "storage_full"


class WritesStopped(Unavailable):
    """The storage or the artifact store accepts no writes until it is repaired; the text says why, without paths."""

    code = "writes_stopped"


class ResourcesExhausted(Unavailable):
    """The process or the machine has no file descriptor or memory left; nothing was changed, repeat it later."""

    code = "resources_exhausted"


class OutcomeUnknown(Unavailable):
    """The storage did not say whether the change was stored; look, or repeat the request with the same ids."""

    code = "outcome_unknown"


class DriverError(Unavailable):
    """A driver failed with an error that its contract does not name; the outcome of the call is unknown."""

    code = "driver_error"


class DriverTimeout(DriverError):
    """A driver did not get an answer of its database in time; repeat the request."""

    code = "driver_timeout"


# Errors about the configuration of a server, before it starts to serve.


class StorageURLError(ComposerdError):
    """A storage URL is invalid: unknown scheme, or unknown or bad option."""

    code = "storage_url"


class StorageUnusable(ComposerdError):
    """A storage cannot be opened: damaged, locked by another process, of a newer format, or not permitted."""

    code = "storage_unusable"


class StorageMissing(StorageUnusable):
    """There is no storage where the URL says."""

    code = "storage_missing"


class NotOffered(ComposerdError):
    """A storage cannot do what is asked of it; the text says what to do instead."""

    code = "not_offered"


class StorageInUse(StorageUnusable):
    """A storage is locked by another process, which may end."""

    code = "storage_in_use"

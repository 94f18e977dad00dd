"""The predefined errors: one table for each API (number, status, reason), and the entry that each exception maps to."""

from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from composerd import errors
from composerd.errors import ComposerdError
from composerd.http.paths import bases


class UnsupportedMediaType(ComposerdError):
    """The body is not `application/json` in UTF-8."""

    code = "unsupported_media_type"


class InvalidToken(ComposerdError):
    """The token in the path is not a UUID."""

    code = "invalid_token"


class InvalidTokenForStatus(ComposerdError):
    """The token in the path of a GET is not a UUID."""

    code = "invalid_token_for_status"


class InvalidErrorId(ComposerdError):
    """The error id in the path is not an integer."""

    code = "invalid_error_id"


class ErrorNotFound(ComposerdError):
    """The API has no error with this id."""

    code = "error_not_found"


class ResourceNotFound(ComposerdError):
    """No resource exists at this path."""

    code = "resource_not_found"


class MethodNotSupported(ComposerdError):
    """The resource at this path does not support the method."""

    code = "method_not_supported"


class InvalidWorkerId(ComposerdError):
    """The worker id is not a UUID."""

    code = "invalid_worker_id"


class PreconditionFailed(ComposerdError):
    """A condition that the request names does not hold."""

    code = "precondition_failed"


class ErrorEntry(msgspec.Struct, frozen=True):
    """One predefined error, as the table of an API lists it."""

    id: int
    status: int
    reason: str


_JSON_ONLY = "Only 'application/json' content is supported"

_SHARED = (
    ErrorEntry(3, 415, _JSON_ONLY),
    ErrorEntry(9, 400, "Invalid format for error id, it should be an integer as a string"),
    ErrorEntry(10, 400, "Malformed json, unable to decode body"),
    ErrorEntry(11, 404, "Requested resource doesn't exist"),
    ErrorEntry(12, 405, "Requested method isn't supported for resource"),
    ErrorEntry(13, 406, _JSON_ONLY),
    ErrorEntry(14, 404, "Error with given id not found"),
    ErrorEntry(16, 400, "Tenant not found in JWT claims"),
    ErrorEntry(19, 400, "Invalid content"),
    ErrorEntry(23, 400, "Invalid artifact name"),
    ErrorEntry(27, 413, "Body too large"),
    ErrorEntry(28, 503, "Unavailable, try again"),
    ErrorEntry(29, 401, "Not authenticated"),
    ErrorEntry(30, 403, "Not allowed"),
    ErrorEntry(31, 507, "Storage full"),
    ErrorEntry(40, 504, "Outcome unknown, it may have been stored: ask, or repeat with an idempotency key"),
    ErrorEntry(45, 429, "A quota is used up, try again later"),
    ErrorEntry(46, 403, "A quota does not allow this"),
    ErrorEntry(10000, 500, "Unspecified internal error"),
    ErrorEntry(10001, 500, "Error is not an http error"),
    ErrorEntry(10002, 500, "Error does not exist"),
    ErrorEntry(10003, 500, "OperationID is malformed"),
)

_WORKER = (
    ErrorEntry(5, 404, "Token not found"),
    ErrorEntry(6, 400, "Job is not running"),
    ErrorEntry(7, 400, "Given job id is not a uuidv4"),
    ErrorEntry(8, 400, "Given job id is not a uuidv4"),
    ErrorEntry(15, 400, "Requested job type cannot be dequeued"),
    ErrorEntry(17, 400, "Given worker id is not a uuidv4"),
    ErrorEntry(18, 400, "Given worker id doesn't exist"),
    ErrorEntry(20, 409, "Job was finished with another result"),
    ErrorEntry(21, 409, "Attempt has finished"),
    ErrorEntry(22, 410, "Attempt was superseded"),
    ErrorEntry(24, 400, "Incomplete or mismatching upload"),
    ErrorEntry(25, 413, "Artifact too large"),
    ErrorEntry(26, 400, "Artifacts are not accepted"),
    ErrorEntry(41, 409, "Artifacts differ from those that the result lists"),
    ErrorEntry(42, 411, "Upload of unknown length replaces a longer one, send Content-Digest or Content-Length"),
    ErrorEntry(44, 409, "The request_id was used before"),
    ErrorEntry(1000, 500, "Error discarding artifact"),
    ErrorEntry(1001, 500, "Error creating artifact"),
    ErrorEntry(1002, 500, "Error writing artifact"),
    ErrorEntry(1003, 500, "Error resolving id from job token"),
    ErrorEntry(1004, 500, "Error finishing job"),
    ErrorEntry(1005, 500, "Error fetching job status"),
    ErrorEntry(1006, 500, "Error requesting job"),
    ErrorEntry(1007, 500, "Unable to load openapi spec"),
    ErrorEntry(1008, 500, "Error inserting worker"),
    ErrorEntry(1009, 500, "Error updating worker status"),
    ErrorEntry(1010, 500, "Error updating job"),
)

_COMPOSER = (
    ErrorEntry(32, 404, "Job not found"),
    ErrorEntry(33, 409, "Job has ended"),
    ErrorEntry(34, 409, "Job, or one that depends on it, has not ended"),
    ErrorEntry(35, 404, "Artifact not found"),
    ErrorEntry(36, 400, "Unknown dependency"),
    ErrorEntry(37, 409, "Dependency was canceled"),
    ErrorEntry(38, 409, "Idempotency key used for another job"),
    ErrorEntry(39, 400, "Invalid cursor, limit or filter"),
    ErrorEntry(43, 412, "Precondition failed"),
)

_NUMBERS: Mapping[type[ComposerdError], int] = {
    UnsupportedMediaType: 3,
    errors.TokenNotFound: 5,
    errors.AttemptCanceled: 6,
    InvalidToken: 7,
    InvalidTokenForStatus: 8,
    InvalidErrorId: 9,
    errors.MalformedJSON: 10,
    ResourceNotFound: 11,
    MethodNotSupported: 12,
    ErrorNotFound: 14,
    errors.TypeNotAllowed: 15,
    errors.TenantMissing: 16,
    InvalidWorkerId: 17,
    errors.WorkerNotFound: 18,
    errors.InvalidContent: 19,
    errors.ResultConflict: 20,
    errors.AttemptFinished: 21,
    errors.AttemptSuperseded: 22,
    errors.InvalidArtifactName: 23,
    errors.IncompleteUpload: 24,
    errors.ArtifactTooLarge: 25,
    errors.ArtifactsDisabled: 26,
    errors.BodyTooLarge: 27,
    errors.Unavailable: 28,
    errors.OutcomeUnknown: 40,
    errors.DriverError: 28,
    errors.DriverTimeout: 28,
    errors.NotAuthenticated: 29,
    errors.NotAllowed: 30,
    errors.StorageFull: 31,
    errors.JobNotFound: 32,
    errors.JobEnded: 33,
    errors.JobNotEnded: 34,
    errors.ArtifactNotFound: 35,
    errors.UnknownDependency: 36,
    errors.CanceledDependency: 37,
    errors.IdempotencyConflict: 38,
    errors.InvalidCursor: 39,
    errors.ArtifactsDiffer: 41,
    errors.ShorterUpload: 42,
    PreconditionFailed: 43,
    errors.RequestIdUsed: 44,
    errors.QuotaUsedUp: 45,
    errors.QuotaForbids: 46,
}

UNSPECIFIED = 10000
"""The number of the error that stands for every failure without an entry of its own."""


LONGEST_TEXT = 100
"""The most characters of an error that may be a text that the client has sent."""

_LONGEST_PROBLEM = 200
"""The most characters of a problem, which may quote such a text."""

_MOST_TEXTS = 20
"""The most texts of a list in the details of an error."""


def _shortened(name: str, value: Any) -> Any:
    """Return a value of the details of an error, without the rest of a long text or list."""
    longest = _LONGEST_PROBLEM if name == "problem" else LONGEST_TEXT
    if isinstance(value, str):
        return value if len(value) <= longest else value[: longest - 1] + "…"
    if isinstance(value, list | tuple):
        return [_shortened(name, one) for one in value[:_MOST_TEXTS]]
    return value


class ErrorTable:
    """The errors of one API, by number, and the number for each exception."""

    def __init__(self, base: str, prefix: str, entries: tuple[ErrorEntry, ...]) -> None:
        self.base = base
        self.prefix = prefix
        self.entries = tuple(sorted(entries + _SHARED, key=lambda entry: entry.id))
        self._by_id = {entry.id: entry for entry in self.entries}

    @classmethod
    def worker(cls, base: str) -> "ErrorTable":
        """Return the worker API's table. Its numbers up to 19 and from 1000 are those of osbuild-composer."""
        return cls(base, "IMAGE-BUILDER-WORKER-", _WORKER)

    @classmethod
    def composer(cls, base: str) -> "ErrorTable":
        """Return the composer API's table."""
        return cls(base, "COMPOSERD-", _COMPOSER)

    @property
    def href(self) -> str:
        """The base path of the API, as the client of the request in progress knows it."""
        return bases.get().prefix + self.base

    def entry(self, number: int) -> ErrorEntry:
        """Return the error with this number. Raises `ErrorNotFound`."""
        try:
            return self._by_id[number]
        except KeyError:
            raise ErrorNotFound from None

    def entry_for(self, error: ComposerdError) -> ErrorEntry:
        """Return the error that a client gets for an exception.

        The exception's class decides, or else the nearest of its base classes that has an entry. If this API has none,
        it is the error `UNSPECIFIED`.
        """
        number = next((_NUMBERS[kind] for kind in type(error).__mro__ if kind in _NUMBERS), UNSPECIFIED)
        return self._by_id.get(number) or self._by_id[UNSPECIFIED]

    def body(
        self, entry: ErrorEntry, request_id: str | None = None, details: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return the JSON object that describes an error.

        `message` equals the reason, because older workers read only that. `details` is left out if there is nothing to
        say.
        """
        body: dict[str, Any] = {
            "kind": "Error",
            "href": f"{self.href}/errors/{entry.id}",
            "id": str(entry.id),
            "code": f"{self.prefix}{entry.id}",
            "reason": entry.reason,
            "message": entry.reason,
        }
        if request_id is not None:
            body["operation_id"] = request_id
        if details:
            body["details"] = {name: _shortened(name, value) for name, value in details.items()}
        return body

    def response(self, entry: ErrorEntry, request_id: str, details: Mapping[str, Any] | None = None) -> web.Response:
        """Return an error as the answer to a request."""
        return web.Response(
            status=entry.status,
            body=msgspec.json.encode(self.body(entry, request_id, details)),
            content_type="application/json",
        )

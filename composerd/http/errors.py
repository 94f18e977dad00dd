"""The predefined errors of both APIs: a table each (number, status, reason), and which exception is which row."""

from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from composerd import errors
from composerd.errors import ComposerdError


class UnsupportedMediaType(ComposerdError):
    """A body is not `application/json` in UTF-8."""

    code = "unsupported_media_type"


class InvalidToken(ComposerdError):
    """A token in the path is not a UUID."""

    code = "invalid_token"


class InvalidTokenForStatus(ComposerdError):
    """A token in the path of a GET is not a UUID."""

    code = "invalid_token_for_status"


class InvalidErrorId(ComposerdError):
    """An error's id is not an integer."""

    code = "invalid_error_id"


class ErrorNotFound(ComposerdError):
    """No error has this id."""

    code = "error_not_found"


class ResourceNotFound(ComposerdError):
    """Nothing is at this path."""

    code = "resource_not_found"


class MethodNotSupported(ComposerdError):
    """The path takes other methods."""

    code = "method_not_supported"


class InvalidWorkerId(ComposerdError):
    """A worker's id is not a UUID."""

    code = "invalid_worker_id"


class NotAllowed(ComposerdError):
    """Whoever asks may not."""

    code = "not_allowed"


class Row(msgspec.Struct, frozen=True):
    """One predefined error."""

    id: int
    status: int
    reason: str


_JSON_ONLY = "Only 'application/json' content is supported"

_SHARED = (
    Row(3, 415, _JSON_ONLY),
    Row(9, 400, "Invalid format for error id, it should be an integer as a string"),
    Row(10, 400, "Malformed json, unable to decode body"),
    Row(11, 404, "Requested resource doesn't exist"),
    Row(12, 405, "Requested method isn't supported for resource"),
    Row(13, 406, _JSON_ONLY),
    Row(14, 404, "Error with given id not found"),
    Row(19, 400, "Invalid content"),
    Row(23, 400, "Invalid artifact name"),
    Row(27, 413, "Body too large"),
    Row(28, 503, "Unavailable, try again"),
    Row(29, 401, "Not authenticated"),
    Row(30, 403, "Not allowed"),
    Row(31, 507, "Storage full"),
    Row(10000, 500, "Unspecified internal error"),
    Row(10001, 500, "Error is not an http error"),
    Row(10002, 500, "Error does not exist"),
    Row(10003, 500, "OperationID is malformed"),
)

_WORKER = (
    Row(5, 404, "Token not found"),
    Row(6, 400, "Job is not running"),
    Row(7, 400, "Given job id is not a uuidv4"),
    Row(8, 400, "Given job id is not a uuidv4"),
    Row(15, 400, "Requested job type cannot be dequeued"),
    Row(16, 400, "Tenant not found in JWT claims"),
    Row(17, 400, "Given worker id is not a uuidv4"),
    Row(18, 400, "Given worker id doesn't exist"),
    Row(20, 409, "Job was finished with another result"),
    Row(21, 409, "Attempt has finished"),
    Row(22, 410, "Attempt was superseded"),
    Row(24, 400, "Incomplete or mismatching upload"),
    Row(25, 413, "Artifact too large"),
    Row(26, 400, "Artifacts are not accepted"),
    Row(1000, 500, "Error discarding artifact"),
    Row(1001, 500, "Error creating artifact"),
    Row(1002, 500, "Error writing artifact"),
    Row(1003, 500, "Error resolving id from job token"),
    Row(1004, 500, "Error finishing job"),
    Row(1005, 500, "Error fetching job status"),
    Row(1006, 500, "Error requesting job"),
    Row(1007, 500, "Unable to load openapi spec"),
    Row(1008, 500, "Error inserting worker"),
    Row(1009, 500, "Error updating worker status"),
    Row(1010, 500, "Error updating job"),
)

_COMPOSER = (
    Row(32, 404, "Job not found"),
    Row(33, 409, "Job has ended"),
    Row(34, 409, "Job, or one that depends on it, has not ended"),
    Row(35, 404, "Artifact not found"),
    Row(36, 400, "Unknown dependency"),
    Row(37, 409, "Dependency was canceled"),
    Row(38, 409, "Idempotency key used for another job"),
    Row(39, 400, "Invalid cursor, limit or filter"),
)

_ROWS: Mapping[type[ComposerdError], int] = {
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
    errors.DriverError: 28,
    errors.DriverTimeout: 28,
    NotAllowed: 30,
    errors.StorageFull: 31,
    errors.JobNotFound: 32,
    errors.JobEnded: 33,
    errors.JobNotEnded: 34,
    errors.ArtifactNotFound: 35,
    errors.UnknownDependency: 36,
    errors.CanceledDependency: 37,
    errors.IdempotencyConflict: 38,
    errors.InvalidCursor: 39,
}

UNSPECIFIED = 10000


class ErrorTable:
    """The errors of one API."""

    def __init__(self, base: str, prefix: str, rows: tuple[Row, ...]) -> None:
        self.base = base
        self.prefix = prefix
        self.rows = tuple(sorted(rows + _SHARED, key=lambda row: row.id))
        self._by_id = {row.id: row for row in self.rows}

    @classmethod
    def worker(cls, base: str) -> "ErrorTable":
        """The worker API's table; its numbers up to 19 and from 1000 are those of osbuild-composer."""
        return cls(base, "IMAGE-BUILDER-WORKER-", _WORKER)

    @classmethod
    def composer(cls, base: str) -> "ErrorTable":
        """The composer API's table."""
        return cls(base, "COMPOSERD-", _COMPOSER)

    def row(self, number: int) -> Row:
        """The error of this number. Raises `ErrorNotFound`."""
        try:
            return self._by_id[number]
        except KeyError:
            raise ErrorNotFound from None

    def row_of(self, error: ComposerdError) -> Row:
        """The error that an exception is shown as, by its class or the nearest above; `UNSPECIFIED` if this API has none for it."""
        number = next((_ROWS[kind] for kind in type(error).__mro__ if kind in _ROWS), UNSPECIFIED)
        return self._by_id.get(number) or self._by_id[UNSPECIFIED]

    def body(
        self, row: Row, operation_id: str | None = None, details: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """An error as it is returned."""
        body: dict[str, Any] = {
            "kind": "Error",
            "href": f"{self.base}/errors/{row.id}",
            "id": str(row.id),
            "code": f"{self.prefix}{row.id}",
            "reason": row.reason,
            "message": row.reason,
        }
        if operation_id is not None:
            body["operation_id"] = operation_id
        if details:
            body["details"] = details
        return body

    def response(self, row: Row, operation_id: str, details: Mapping[str, Any] | None = None) -> web.Response:
        """An error as an answer to a request."""
        response = web.Response(
            status=row.status,
            body=msgspec.json.encode(self.body(row, operation_id, details)),
            content_type="application/json",
        )
        if row.status == 503:
            response.headers["Retry-After"] = "1"
        return response
